"""What the layers of a network take: memory for their weights, and operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from onward.core.graph import Node
from onward.core.interpret import Forward, evaluating
from onward.core.network import Network
from onward.core.run import outputs
from onward.core.sequence import Frames
from onward.core.signal import Signal
from onward.core.synapse import effective
from onward.weights.binary import binary_of
from onward.weights.bits import BYTE
from onward.weights.packed import packed_of
from onward.weights.rows import Transposed, rows_of


@dataclass(frozen=True)
class LayerCost:
    """A synapse: ``weights`` (biases apart) of ``channels`` outputs, in ``bytes`` as real numbers and ``packed``.

    ``operations`` are those of one time step of one sample, were every input active: a multiplication and an addition
    each, or, where it is ``binary``, an addition or subtraction, and one multiplication an output (none behind batch
    normalisation, which takes it in). Of binary inputs, those that are silent need none.
    """

    name: str
    binary: bool
    weights: int
    channels: int
    bytes: int
    packed: int
    operations: int


def costs(net: Network, features: tuple[int, ...]) -> list[LayerCost]:
    """What each synapse of ``net`` takes, for inputs of shape ``features``; costs two time steps of one sample.

    A binary layer of n weights and C channels takes ceil(n / 8) bytes and C scales. Raises `UnsupportedModule` for a
    synapse that is neither linear nor a convolution.
    """
    sizes = _sizes(net, features)
    return [_cost(node, *sizes[node.index]) for node in net.synapses]


def _cost(node: Node, read: int, sent: int) -> LayerCost:
    weights = effective(node.module)
    weight, rows = weights["weight"], rows_of(node.module)
    count, channels = weight.numel(), len(rows.of(weight))
    binary = binary_of(node.module) is not None or packed_of(node.module) is not None
    bias = sum(other.nbytes for other in weights.values()) - weight.nbytes
    small = -(-count // BYTE) + channels * weight.element_size() if binary else weight.nbytes
    each = weight[0].numel()
    operations = (read if isinstance(rows, Transposed) else sent) * each
    return LayerCost(node.name, binary, count, channels, weight.nbytes + bias, small + bias, operations)


class _Sizes(Forward):
    """Notes how many numbers each synapse reads and sends in a step."""

    def __init__(self, found: dict[int, tuple[int, int]], *context: Any):
        super().__init__(*context)
        self.found = found

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.synapse`."""
        out = super().synapse(node, signal)
        self.found[node.index] = signal.sent.shape[2:].numel(), out.sent.shape[2:].numel()
        return out


@torch.no_grad()
def _sizes(net: Network, features: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    like = next(net.parameters())
    with evaluating(net):
        for _ in outputs(net, Frames(like.new_zeros(2, 1, *features)), chunk=1, walk=partial(_Sizes, found)):
            pass
    return found
