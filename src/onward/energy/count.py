"""Operations of a network on data, counted layer by layer as they happen.

A synaptic operation is a weight that is not zero meeting an input that is not zero. Where all inputs of a layer that
are not zero have one magnitude, as spikes do, it is an accumulation (AC): the magnitude goes into the weight. Else it
is a multiplication and an accumulation (MAC). With F_j the number of weights that input j meets, exact at borders:

    operations of a step = sum_j F_j [x_j != 0],     dense = sum_j F_j,     F = 1[W != 0]^T 1

Products of signals in Transformers count the same way. Biases, normalisation (which goes into weights), pooling,
additions of shortcuts and resets do not count; updates of membranes are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from onward.core.errors import UnsupportedModule
from onward.core.glue import turn
from onward.core.graph import Kind, Node
from onward.core.interpret import Forward, evaluating
from onward.core.network import Network
from onward.core.run import outputs
from onward.core.sequence import Sequence, Static
from onward.core.signal import Signal, dense
from onward.core.synapse import Params, ops_of
from onward.data import Batch, Loader
from onward.energy.products import counter_of

SYNAPSE, PRODUCT = "synapse", "product"


@dataclass(frozen=True)
class LayerCount:
    """Operations of a layer for one sample, a mean over samples: ``macs`` and ``acs`` that happen, ``dense`` of all.

    ``kind`` is a synapse, or a product of signals. ``inputs`` are the numbers it reads in all steps, ``active`` those
    that are not zero. ``weights`` is how many it has.
    """

    name: str
    kind: str
    macs: float
    acs: float
    dense: float
    inputs: float
    active: float
    weights: int

    @property
    def synops(self) -> float:
        """Operations that happen, of both kinds."""
        return self.macs + self.acs


@dataclass(frozen=True)
class Counts:
    """What a network did, all but ``footprint`` (bytes of parameters and buffers) for one sample of ``steps`` steps.

    ``spikes`` are those of all neurons and steps, ``sparsity`` is the share of neurons, steps and samples without one.
    ``updates`` of membranes are MACs where the membrane leaks, else ACs. ``passes`` is how often a network without
    spikes would have to run: once for an input that stands still, else at every step. ``uncounted`` are products that
    nobody has taught us to count.
    """

    samples: int
    steps: int
    layers: tuple[LayerCount, ...]
    spikes: float
    sparsity: float
    leaking: float
    integrating: float
    footprint: int
    passes: int
    uncounted: tuple[str, ...] = ()

    @property
    def macs(self) -> float:
        """Multiplications with accumulation."""
        return sum(layer.macs for layer in self.layers)

    @property
    def acs(self) -> float:
        """Accumulations."""
        return sum(layer.acs for layer in self.layers)

    @property
    def dense(self) -> float:
        """Operations, were nothing zero."""
        return sum(layer.dense for layer in self.layers)

    @property
    def updates(self) -> float:
        """Updates of membranes."""
        return self.leaking + self.integrating


def count(net: Network, loader: Loader, device: str = "cpu", chunk: int | None = None) -> Counts:
    """Runs ``net`` on every sample of ``loader``, in evaluation mode, and counts.

    Costs an evaluation and a look at every signal; memory O(chunk). Raises `UnsupportedModule` for a synapse whose
    weights are not one tensor.

    >>> from torch import nn
    >>> from onward.data import ArrayDataset
    >>> net = Network(nn.Sequential(nn.Linear(3, 5)))
    >>> data = ArrayDataset(torch.tensor([[1.0, 0.0, 2.0]]), torch.zeros(1, dtype=torch.int64))
    >>> found = count(net, Loader(data, 1, steps=4))
    >>> found.macs, found.acs, found.dense
    (40.0, 0.0, 60.0)
    """
    batches = (batch._replace(x=batch.x.to(device)) for batch in loader.epoch(0))
    return counted(net, batches, loader.steps, chunk or loader.steps)


def counted(net: Network, batches: Iterable[Batch], steps: int, chunk: int) -> Counts:
    """See `count`; mini-batches of ``steps`` time steps, where the network is."""
    tally, still = Tally(net), True
    with torch.no_grad(), evaluating(net):
        for batch in batches:
            turn(net, batch.task)
            tally.run(batch.x, chunk)
            still = still and isinstance(batch.x, Static)
    return tally.counts(steps, 1 if still and not net.cyclic else steps)


@dataclass
class Seen:
    """Sums over samples and steps of one layer; ``least`` and ``most`` of the magnitudes that are not zero."""

    fan: Tensor | None = None
    dense: int = 0
    operations: int = 0
    inputs: int = 0
    active: int = 0
    size: int = 0
    least: float = torch.inf
    most: float = 0.0

    @property
    def binary(self) -> bool:
        """Whether all inputs that are not zero have one magnitude."""
        return self.least >= self.most

    def look(self, x: Tensor) -> None:
        """Notes magnitudes."""
        magnitudes = x[x != 0].abs()
        if len(magnitudes):
            self.least = min(self.least, float(magnitudes.min()))
            self.most = max(self.most, float(magnitudes.max()))
        self.inputs += x.numel()
        self.active += len(magnitudes)


@dataclass
class Tally:
    """Counts of a network, mini-batch by mini-batch."""

    net: Network
    seen: dict[int, Seen] = field(default_factory=dict)
    spikes: int = 0
    places: int = 0
    leaking: int = 0
    integrating: int = 0
    samples: int = 0
    uncounted: dict[str, None] = field(default_factory=dict)

    def run(self, x: Sequence, chunk: int) -> None:
        """Walks a mini-batch through the network."""
        for _ in outputs(self.net, x, chunk=chunk, walk=partial(_Counting, self)):
            pass
        self.samples += x.batch

    def synapse(self, node: Node, params: Params, x: Tensor) -> None:
        """Adds what a synapse does with its input ``[K, B, ...]``."""
        seen = self.seen.setdefault(node.index, Seen())
        if seen.fan is None:
            seen.fan, every = fan_out(node, params, x[0, :1]), fan_out(node, _ones(params), x[0, :1])
            seen.dense, seen.size = int(every.sum()), params["weight"].numel()
        seen.look(x)
        seen.operations += int(((x != 0).flatten(0, 1).sum(0) * seen.fan).sum())

    def product(self, node: Node, factors: list[Tensor]) -> None:
        """Adds what a product of signals ``[K, B, ...]`` takes."""
        counter = counter_of(node.module)
        if counter is None:
            self.uncounted[node.name] = None
            return
        happened, every = counter(node.module, *((x != 0).to(x.dtype).flatten(0, 1) for x in factors))
        if not every:
            return
        seen = self.seen.setdefault(node.index, Seen())
        for x in factors:
            seen.look(x)
        seen.operations += happened
        seen.dense = every // (factors[0].shape[0] * factors[0].shape[1])

    def neuron(self, node: Node, out: Tensor) -> None:
        """Adds what neurons send ``[K, B, ...]``."""
        module: Any = node.module
        if module.spiking:
            self.spikes += int(out.count_nonzero())
            self.places += out.numel()
        if module.decay == 1:
            self.integrating += out.numel()
        elif module.decay:
            self.leaking += out.numel()

    def counts(self, steps: int, passes: int) -> Counts:
        """What was seen, for one sample."""
        return Counts(
            samples=self.samples,
            steps=steps,
            layers=tuple(self._layer(self.net.nodes[index], seen, steps) for index, seen in sorted(self.seen.items())),
            spikes=self.spikes / self.samples,
            sparsity=1 - self.spikes / self.places if self.places else 0.0,
            leaking=self.leaking / self.samples,
            integrating=self.integrating / self.samples,
            footprint=sum(t.nbytes for t in (*self.net.parameters(), *self.net.buffers())),
            passes=passes,
            uncounted=tuple(self.uncounted),
        )

    def _layer(self, node: Node, seen: Seen, steps: int) -> LayerCount:
        operations = seen.operations / self.samples
        macs, acs = (0.0, operations) if seen.binary else (operations, 0.0)
        kind = SYNAPSE if node.kind is Kind.SYNAPSE else PRODUCT
        read, active = seen.inputs / self.samples, seen.active / self.samples
        return LayerCount(node.name, kind, macs, acs, float(seen.dense * steps), read, active, seen.size)


class _Counting(Forward):
    """Shows every signal on its way to the tally."""

    def __init__(self, tally: Tally, *context: Any):
        super().__init__(*context)
        self.tally = tally

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.synapse`."""
        self.tally.synapse(node, self.params(node), dense(signal.clean))
        return super().synapse(node, signal)

    def join(self, node: Node, signals: list[Signal]) -> Signal:
        """See `Interpreter.join`."""
        self.tally.product(node, [dense(signal.clean) for signal in signals])
        return super().join(node, signals)

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.neuron`."""
        found = super().neuron(node, signal)
        self.tally.neuron(node, dense(found.clean))
        return found


def fan_out(node: Node, params: Params, like: Tensor) -> Tensor:
    """How many weights that are not zero each input of ``like`` ``[1, *features]`` meets: ``[*features]`` int64.

    Raises `UnsupportedModule` for a synapse whose weights are not one tensor.
    """
    others = set(params) - {"weight", "bias"}
    if "weight" not in params or others:
        raise UnsupportedModule(
            f"{node} ({type(node.module).__name__}) computes with {', '.join(params) or 'nothing'}; operations are "
            "counted of synapses with one tensor called weight (and a bias), such as nn.Linear and nn.Conv2d"
        )
    mask, ops = {"weight": (params["weight"] != 0).to(like.dtype)}, ops_of(node.module)
    out = ops.apply(node.module, mask, like)
    return ops.transpose(node.module, mask, torch.ones_like(out), like)[0].round().to(torch.int64)


def _ones(params: Params) -> Params:
    return {**params, "weight": torch.ones_like(params["weight"])}
