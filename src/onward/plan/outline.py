"""A network in numbers: what every node sends, as a few samples show it in one short forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from onward.core import KeyedDraws, Network, Sequence
from onward.core.graph import Kind, Node
from onward.core.group import Share
from onward.core.interpret import Forward, frozen_statistics, run_walk
from onward.core.norms import Norms
from onward.core.products import still
from onward.core.signal import Carry, Context, Signal
from onward.core.synapse import effective, ops_of
from onward.kernels.compiled import Use, in_use, using
from onward.kernels.rows import SparseRows
from onward.kernels.taps import Taps

STEPS = 8
"""Time steps looked at: the firing rates of leaky neurons have settled by then."""


@dataclass(frozen=True)
class Layer:
    """What a node sends: ``features`` a step and sample, of which a ``share`` is not zero.

    ``still``: every step is the same memory. ``sparse``: only the non-zeros exist. ``channels_last``: the numbers of a
    place lie (or, once dense, will lie) side by side, as they do in vectors.
    """

    features: tuple[int, ...]
    share: float
    still: bool
    sparse: bool
    channels_last: bool

    @property
    def size(self) -> int:
        """Numbers a step and sample."""
        return prod(self.features)

    @property
    def places(self) -> int:
        """Places of a map; 1 for vectors."""
        return prod(self.features[1:])


@dataclass(frozen=True)
class Outline:
    """The layers of ``net`` by node index, the network's input being node 0, and the shapes of synapses' weights.

    ``like`` tells dtype and device.
    """

    net: Network
    layers: Mapping[int, Layer]
    weights: Mapping[int, Mapping[str, torch.Size]]
    like: Tensor

    def read(self, node: Node) -> Layer:
        """What ``node`` reads; the first of two signals."""
        return self.layers[node.inputs[0]]

    def chunk(self, layer: Layer, steps: int, batch: int) -> Tensor:
        """A stand-in for a chunk of ``layer``; takes no memory."""
        return self.like.expand(steps, batch, layer.size)

    def of_means(self) -> Outline:
        """The same where everybody sends means over time: nothing is sparse, and no step is like another."""
        dense = {i: replace(layer, share=1.0, still=False, sparse=False) for i, layer in self.layers.items()}
        return replace(self, layers=dense)

    @cached_property
    def readers(self) -> Mapping[int, list[Node]]:
        """Who reads each node, in order."""
        found: dict[int, list[Node]] = {node.index: [] for node in self.net.nodes}
        for node in self.net.nodes:
            for index in node.inputs:
                found[index].append(node)
        return found

    @cached_property
    def sources(self) -> Mapping[int, list[Node]]:
        """See `Network.sources`."""
        return {node.index: self.net.sources(node) for node in self.net.nodes}

    @cached_property
    def reader(self) -> Mapping[int, Node | None]:
        """See `Network.reader`."""
        return {node.index: self.net.reader(node) for node in self.net.nodes}

    @cached_property
    def taps(self) -> Mapping[int, Taps | None]:
        """How each synapse would read the non-zeros of its input; None where it reads dense tensors only."""
        return {node.index: self._taps(node) for node in self.net.synapses if node.index in self.layers}

    @cached_property
    def hidden(self) -> list[Node]:
        """See `Network.hidden`."""
        return self.net.hidden

    @cached_property
    def readout_first(self) -> list[Node]:
        """The synapses, those before the output that no spike follows to begin with."""
        return sorted(self.net.synapses, key=lambda node: not self.net.exposed(node))

    def _taps(self, node: Node) -> Taps | None:
        read, none = self.read(node), self.like.new_empty(0)
        places = 1 if read.sparse else read.places
        rows = SparseRows(none, none, none, torch.Size((1, 1, *read.features)), places)
        return ops_of(node.module).taps(node.module, rows)


@torch.no_grad()
def outline(net: Network, sample: Sequence, norms: Norms | None = None) -> Outline:
    """The outline of ``net``, normalised over ``norms``, on ``sample``, a few samples of the data.

    Cost: a forward pass of at most 8 steps.
    """
    steps = min(sample.steps, STEPS)
    context = Context(KeyedDraws(0), torch.arange(sample.batch), 0, steps, Share(sample.batch))
    carry, layers = Carry(), {0: _layer(net.nodes[0], sample.read(0, sample.steps))}
    weights = {node.index: effective(node.module) for node in net.synapses}
    stride = 1 if net.cyclic else steps
    # Kernels that would wait for larger batches lay maps out as they will then.
    with frozen_statistics(net), using(Use.ALWAYS if in_use() is Use.AUTO else in_use()):
        for start in range(0, steps, stride):
            walk = _Look(net, carry, context, lambda node: weights[node.index], norms, layers=layers)
            run_walk(walk, sample.read(start, start + stride))
    shapes = {index: {name: weight.shape for name, weight in named.items()} for index, named in weights.items()}
    return Outline(net, layers, shapes, next(net.parameters()).new_empty(()))


class _Look(Forward):
    """Notes what every node sends."""

    def __init__(self, *arguments: Any, layers: dict[int, Layer]):
        super().__init__(*arguments)
        self.layers = layers

    def __call__(self, node: Node, *signals: Signal | None) -> Signal | None:
        """See `Interpreter.__call__`."""
        sent = super().__call__(node, *signals)
        if sent is not None:
            self.layers[node.index] = _layer(node, sent.clean)
        return sent


def _layer(node: Node, x: Tensor | SparseRows) -> Layer:
    features = tuple(x.shape[2:])
    if isinstance(x, SparseRows):
        return Layer(features, x.share, still=False, sparse=True, channels_last=len(features) == 1)
    share = 1.0 if node.kind in (Kind.SYNAPSE, Kind.NORM) else float((x != 0).float().mean())
    laid = x[0].movedim(1, -1) if len(features) > 1 else x[0]
    return Layer(features, share, still(x), sparse=False, channels_last=laid.is_contiguous())
