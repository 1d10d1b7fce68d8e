"""What it takes to tell a network's layers their errors: back-propagation against direct feedback, on paper.

For N hidden layers of n neurons and m outputs, a step and sample (bp, dfa and opzo's error as published by Xiao et al.
2024; the rest is our inference):

                 feedback memory      operations                              layers at once   W^T
    bp           (N-1) n^2 + m n      (N-1) n^2 + m n                         no               yes
    bptt         (N-1) n^2 + m n      the same, and N n back in time          no               yes
    dfa          N m n                N m n                                   yes              no
    opzo         N m n                N m n for the error, N m n for M        yes              no
    zo           0                    N n                                     yes              no

Here n^2 becomes what each layer of the network at hand has: shared weights of convolutions count once for memory, and
as often as they are used for operations. Forward passes and weight gradients are the same for all and stand apart.
These are estimates for hardware that nobody has built: on a GPU, OPZO is not cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from onward.core.draws import KeyedDraws
from onward.core.graph import Node
from onward.core.interpret import shapes
from onward.core.network import Network
from onward.core.sequence import Sequence
from onward.credit.opzo import DENSE_UNITS
from onward.energy.count import SYNAPSE, Counts

PUBLISHED, INFERRED = "published", "inferred"
PARTLY = f"learning {INFERRED}"
SOURCE = "Xiao et al. 2024 (ICLR 2026)"
"""Where the published orders are from."""


@dataclass(frozen=True)
class FeedbackCost:
    """What a rule's errors take for one sample: numbers held for ``feedback``, and multiplications with accumulation.

    ``errors`` are those that bring errors to layers, ``learning`` those that keep feedback up to date; over all steps.
    ``together`` says whether all layers can be told at once, ``transport`` whether W^T is read, ``growing`` whether
    memory grows with the number of steps.
    """

    rule: str
    feedback: int
    errors: float
    learning: float
    together: bool
    transport: bool
    growing: bool
    source: str

    @property
    def macs(self) -> float:
        """All of them."""
        return self.errors + self.learning


@dataclass(frozen=True)
class TrainingCost:
    """The ``rules`` compared; ``gradients`` are the operations of weight gradients, the same for all of them."""

    rules: tuple[FeedbackCost, ...]
    gradients: float


def training_cost(net: Network, sample: Sequence, counts: Counts) -> TrainingCost:
    """What training ``net`` takes beyond forward passes, for one sample of ``counts.steps`` steps.

    >>> from onward.energy.count import count
    >>> from onward.data import ArrayDataset, Loader
    >>> from onward.neurons import LIF
    >>> from torch import nn
    >>> net = Network(nn.Sequential(nn.Linear(3, 5), LIF(), nn.Linear(5, 5), LIF(), nn.Linear(5, 2)))
    >>> loader = Loader(ArrayDataset(torch.ones(1, 3), torch.zeros(1, dtype=torch.int64)), 1, steps=1)
    >>> found = training_cost(net, next(loader.epoch(0)).x, count(net, loader))
    >>> {cost.rule: cost.macs for cost in found.rules}
    {'bp': 35.0, 'bptt': 35.0, 'dfa': 20.0, 'opzo': 40.0, 'zo': 10.0}
    """
    sizes = shapes(net, sample, KeyedDraws(0))
    outputs, steps = sizes[-1].numel(), counts.steps
    hidden = [sizes[node.index] for node in net.hidden]
    neurons, rows = sum(size.numel() for size in hidden), sum(map(_rows, hidden))
    dense = {layer.name: layer.dense for layer in counts.layers if layer.kind == SYNAPSE}
    back = [node for node in net.synapses if net.sender(node) is not None]
    through, weights = sum(dense[node.name] for node in back), sum(_weights(node, counts) for node in back)
    in_time = neurons * (steps - 1)
    direct = float(rows * outputs * steps)
    return TrainingCost(
        rules=(
            FeedbackCost("bp", weights, through, 0.0, False, True, False, PUBLISHED),
            FeedbackCost("bptt", weights, through + in_time, 0.0, False, True, True, INFERRED),
            FeedbackCost("dfa", rows * outputs, direct, 0.0, True, False, False, PUBLISHED),
            FeedbackCost("opzo", rows * outputs, direct, direct, True, False, False, PARTLY),
            FeedbackCost("zo", 0, float(neurons * steps), 0.0, True, False, False, INFERRED),
        ),
        gradients=sum(dense.values()),
    )


def _rows(size: torch.Size) -> int:
    """Rows of a layer's feedback matrix: its neurons, or the channels of a very large map."""
    return size[0] if len(size) > 1 and size.numel() > DENSE_UNITS else size.numel()


def _weights(node: Node, counts: Counts) -> int:
    found: Mapping[str, int] = {layer.name: layer.weights for layer in counts.layers}
    return found[node.name]
