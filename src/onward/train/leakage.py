"""How much a lesson changed what earlier tasks hear: protection measured at layers, not at outcomes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from onward.core import Network
from onward.core.glue import turn
from onward.core.graph import Node
from onward.core.interpret import Forward, evaluating
from onward.core.products import drive
from onward.core.run import outputs
from onward.core.signal import Signal
from onward.core.synapse import effective
from onward.data import Loader

BATCHES = 2
"""Mini-batches of each earlier task that are looked at."""


class Starts(nn.Module):
    """The weights of synapses as the lesson at hand found them; part of checkpoints. Empty unless ``wanted``."""

    def __init__(self, net: Network, wanted: bool):
        super().__init__()
        self.nodes = net.synapses if wanted else []
        for node in self.nodes:
            self.register_buffer(_name(node), _weight(node).clone())

    @torch.no_grad()
    def mark(self) -> None:
        """A lesson starts."""
        for node in self.nodes:
            self.of(node).copy_(_weight(node))

    def of(self, node: Node) -> Tensor:
        """The weight that the lesson found."""
        return self.get_buffer(_name(node))


class Hearing(Forward):
    """Runs the network and adds up, by synapse, ||(W - W0) x||^2 and ||W0 x||^2 of its inputs x."""

    def __init__(self, starts: Starts, sums: dict[str, Tensor], *context: Any):
        super().__init__(*context)
        self.starts, self.sums = starts, sums

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.synapse`."""
        start = self.starts.of(node)
        change = drive(node.module, {"weight": _weight(node) - start}, signal.clean)
        before = drive(node.module, {"weight": start}, signal.clean)
        found = torch.stack([change.square().sum(), before.square().sum()]).double()
        self.sums[node.name] = self.sums.get(node.name, torch.zeros_like(found)) + found
        return super().synapse(node, signal)


@torch.no_grad()
def leakage(net: Network, starts: Starts, earlier: Iterable[Loader], device: str, chunk: int) -> dict[str, float]:
    """By how much the lesson changed the drives that tests of ``earlier`` tasks give, by synapse, relative to before.

        ||(W - W0) x|| / ||W0 x||,    x the present inputs of a synapse, W0 its weight when the lesson started

    Without the bias, over the first `BATCHES` mini-batches of each task; 0 where nothing was heard, and empty without
    earlier tasks. Cost: three passes over these mini-batches.
    """
    sums = dict[str, Tensor]()
    with evaluating(net):
        for batch in chain.from_iterable(islice(loader.epoch(0), BATCHES) for loader in earlier):
            turn(net, batch.task)
            for _ in outputs(net, batch.x.to(device), chunk=chunk, walk=partial(Hearing, starts, sums)):
                pass
    roots = {name: found.sqrt().tolist() for name, found in sums.items()}
    return {name: change / before if before else 0.0 for name, (change, before) in roots.items()}


def _name(node: Node) -> str:
    return f"synapse{node.index}"


def _weight(node: Node) -> Tensor:
    return effective(node.module)["weight"].detach()
