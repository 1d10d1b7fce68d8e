"""What the products of synapses take for a moment: the temporaries of kernels and of torch, in bytes.

Which way a product goes is measured when its size is first seen (`onward.kernels.choice`). A plan looks up what is
known, and takes sparse ways below `BREAK_EVEN` where nothing is. Where several ways may be taken, it has the largest.
"""

from __future__ import annotations

from math import ceil, inf, prod

import torch
from torch import nn

from onward.core.graph import Node
from onward.kernels.choice import Share
from onward.kernels.dense import OUTER, WORTH
from onward.kernels.host import SPAN
from onward.kernels.rows import COUNT, MOST
from onward.kernels.sparse import (
    GATHER_BELOW,
    GATHER_POSTS_BELOW,
    NEAR,
    SCATTER_BELOW,
    SCATTER_POSTS_BELOW,
    ready,
)
from onward.plan.outline import Outline

BREAK_EVEN = 0.1
"""The share of non-zeros up to which sparse products are taken to be the faster ones where nobody has measured."""
DOUBT = 0.15
"""How far a mini-batch may be from a few samples in this share, or the share measured from what another time gives."""
ROW = NONZERO = INDEX = 8
"""Bytes of a row of sparse rows, of a non-zero (place and value), and of a place as torch wants it."""
BLOCK = 8
"""Channels that oneDNN keeps side by side, where it does not keep all of them so."""


class Products:
    """The products of every synapse of a network with chunks of ``batch`` samples.

    ``short``: their factors are rounded to bf16. The plain way of that is planned for: rounded copies in float32.
    """

    def __init__(self, outline: Outline, batch: int, short: bool = False):
        self.outline, self.batch, self.short = outline, batch, short
        self.item = outline.like.element_size()
        self.chooses = outline.like.dtype is torch.float32 and outline.like.device.type == "cpu"

    def weight(self, node: Node) -> int:
        """Bytes of the weights that the products read."""
        return sum(shape.numel() for shape in self.outline.weights[node.index].values()) * self.item

    def of_samples(self, node: Node) -> int:
        """Bytes of a number for every weight, place of the output and sample."""
        return self.weight(node) * self.outline.layers[node.index].places * self.batch

    def rows(self, node: Node, steps: int) -> float:
        """Bytes of the list of what is not zero in a chunk that the synapse reads; 0 where there is none."""
        if not self.listed(node, steps):
            return 0.0
        return self._nonzeros(node, steps) * NONZERO + self._lines(node, steps) * ROW

    def listed(self, node: Node, steps: int) -> bool:
        """Whether there is such a list."""
        read = self.outline.read(node)
        if read.sparse or (read.still and steps > 1):
            return read.sparse
        few = read.channels_last and read.share <= MOST
        return few and COUNT.serves(self.outline.chunk(read, steps, self.batch))

    def posts(self, node: Node, steps: int) -> float:
        """Bytes of the list of what is not zero of a post, at most; 0 where slopes have no exact zeros."""
        own, weight = self.outline.layers[node.index], self.outline.weights[node.index]["weight"]
        looked = self.outline.net.exact_zeros(node) and own.channels_last and len(weight) > 1
        if not looked or not COUNT.serves(self.outline.chunk(own, steps, self.batch)):
            return 0.0
        size = (steps * self.batch, own.places, weight[1], weight.numel() // weight[1])
        most = max(below.foreseen(size, MOST) for below in (GATHER_POSTS_BELOW, SCATTER_POSTS_BELOW))
        return (most * own.size * NONZERO + own.places * ROW) * steps * self.batch

    def gathers(self, node: Node, steps: int, leaving: float = 0.0) -> bool:
        """Whether the drive is made from the list, where ``leaving`` of a dense product is to be done anyway."""
        return self._pays(GATHER_BELOW, node, steps, leaving)

    def drive(self, node: Node, steps: int) -> float:
        """Workspace of the drive of a chunk; the larger one where both ways are about as fast."""
        odds, ways = self._odds(GATHER_BELOW, node, steps, 0.0), list[float]()
        if odds <= 1 + DOUBT:
            ways.append(self._packed(node) + self.short * self.weight(node))
        if odds > 1 - DOUBT:
            rounded = self._input(node, steps) + self.weight(node)
            ways.append(self._dense_drive(node, steps) + self.short * rounded)
        return max(ways)

    def deposit(self, node: Node, steps: int) -> float:
        """Workspace of the weight gradient of a chunk."""
        if self._pays(SCATTER_BELOW, node, steps, 0.0):
            return self._turned(node, steps)
        rounded = self._input(node, steps) + self._output(node, steps)
        return self._dense_deposit(node, steps) + self.short * rounded

    def transposed(self, node: Node, steps: int) -> float:
        """Workspace of the way back through the product."""
        rounded = self.short * (self._input(node, steps) + self._output(node, steps) + self.weight(node))
        if isinstance(node.module, nn.Linear):
            return rounded
        return rounded + 2 * self.weight(node) + self._laid_alike(node, steps)

    def _dense_drive(self, node: Node, steps: int) -> float:
        read = self.outline.read(node)
        dense = self._scattered(node, steps) if read.sparse else 0.0
        if isinstance(node.module, nn.Linear):
            return dense
        if self._plain(node):
            return dense + self._output(node, steps) + self.weight(node)
        turned = 0.0 if read.channels_last else self._input(node, steps)
        return dense + turned + 2 * self.weight(node)

    def _dense_deposit(self, node: Node, steps: int) -> float:
        weight = self.weight(node)
        dense = self._scattered(node, steps) if self.outline.read(node).sparse else 0.0
        if not isinstance(node.module, nn.Linear):
            return dense + 3 * weight + self._laid_alike(node, steps)
        return dense + (0.0 if self._adds_in_place(node, steps) else weight)

    def _adds_in_place(self, node: Node, steps: int) -> bool:
        """Whether the weight gradient of a linear layer is made where it is wanted, and not beside it."""
        size = (steps * self.batch, *self.outline.weights[node.index]["weight"])
        return not (self.chooses and prod(size) >= WORTH) or OUTER.known(size) == "blas"

    def _pays(self, below: Share, node: Node, steps: int, leaving: float) -> bool:
        return self._odds(below, node, steps, leaving) <= 1

    def _odds(self, below: Share, node: Node, steps: int, leaving: float) -> float:
        """The share of non-zeros, of that up to which leaving out zeros pays; infinity where it cannot be done."""
        if not self.listed(node, steps) or self.outline.taps[node.index] is None or not ready(self.outline.like):
            return inf
        read, weight = self.outline.read(node), self.outline.weights[node.index]["weight"]
        size = (steps * self.batch, 1 if read.sparse else read.places, weight[0], torch.Size(weight[1:]).numel())
        even = (1 - leaving) * below.foreseen(size, BREAK_EVEN)
        return read.share / even if even > 0 else inf

    def _packed(self, node: Node) -> float:
        """Weights in spans of outputs; of a convolution also with its taps in front."""
        width, weight = self.outline.weights[node.index]["weight"][0], self.weight(node)
        packed = weight / width * ceil(width / SPAN) * SPAN
        return packed if isinstance(node.module, nn.Linear) else packed + weight

    def _turned(self, node: Node, steps: int) -> float:
        """The list column by column: its non-zeros, and where each column of a block of images begins."""
        taps, read = self.outline.taps[node.index], self.outline.read(node)
        assert taps is not None
        blocks = ceil(self._lines(node, steps) / (max(1, NEAR // taps.total) * taps.places))
        columns = read.size if read.sparse else read.features[0]
        return self._nonzeros(node, steps) * NONZERO + blocks * (columns + 1) * ROW

    def _scattered(self, node: Node, steps: int) -> float:
        """Events among their zeros, and the place of every event, twice."""
        return self._input(node, steps) + 2 * INDEX * self._nonzeros(node, steps)

    def _nonzeros(self, node: Node, steps: int) -> float:
        read = self.outline.read(node)
        return read.share * read.size * steps * self.batch

    def _lines(self, node: Node, steps: int) -> int:
        """Rows of the list: one a sample and step, or one a place."""
        read = self.outline.read(node)
        return steps * self.batch * (1 if read.sparse else read.places)

    def _input(self, node: Node, steps: int) -> float:
        return self.outline.read(node).size * steps * self.batch * self.item

    def _output(self, node: Node, steps: int) -> float:
        return self.outline.layers[node.index].size * steps * self.batch * self.item

    def _plain(self, node: Node) -> bool:
        """Whether a convolution reads maps of one channel, for which torch knows no order of channels."""
        return self.outline.read(node).features[0] == 1

    def _laid_alike(self, node: Node, steps: int) -> float:
        """Copies in the layout of oneDNN, of an input that lies channels first and of post; post is first turned so."""
        read, own = self.outline.read(node), self.outline.layers[node.index]
        if read.channels_last and not self._plain(node):
            return 0.0 if own.channels_last else self._output(node, steps)
        padded = ceil(read.features[0] / BLOCK) * BLOCK / read.features[0]
        return padded * self._input(node, steps) + (2 if own.channels_last else 1) * self._output(node, steps)
