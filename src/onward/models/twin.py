"""The ReLU network behind a spiking one, and the thresholds that its activations suggest.

Meng et al. 2022 start deep networks so: train the ReLU network, let every neuron's threshold be the 99.9th percentile
of its activations (times the step length, for a leaky neuron of DSR), and go on with spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import floor, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from onward.core.errors import ConfigError, DataError, TopologyMismatch, UnknownName
from onward.core.graph import Kind, Node
from onward.core.interpret import evaluating
from onward.core.network import Network


class Twin(nn.Module):
    """``net`` with ReLU for its spiking neurons: a map of ``[B, ...]`` to ``[B, classes]`` that shares its weights.

    Training it trains ``net``. Delays pass on at once what they hear, and neurons that never fire are left out. Raises
    `TopologyMismatch` for a network with a cycle. Costs one time step of ``net``.

    >>> from onward.neurons import IF
    >>> net = Network(nn.Sequential(nn.Linear(4, 3), IF(), nn.Linear(3, 2)))
    >>> Twin(net)(torch.ones(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(self, net: Network):
        super().__init__()
        cycles = [node.name for node in net.nodes if net.closes_cycle(node)]
        if cycles:
            raise TopologyMismatch(
                f"a network with a cycle ({cycles[0]}) has no ReLU network of the same topology; expected a "
                "feed-forward one, such as --model preact-resnet18, or --model.back none"
            )
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The outputs ``[B, classes]`` of ``x`` ``[B, ...]``."""
        return self.walk(x, lambda node, activation: None)

    def walk(self, x: Tensor, see: Callable[[Node, Tensor], None]) -> Tensor:
        """As `forward`; ``see`` is shown the ReLU'd drive of every spiking neuron."""

        def visit(node: Node, *inputs: Tensor) -> Tensor:
            if node.kind is not Kind.NEURON:
                return inputs[0] if node.kind is Kind.DELAY else node.module(*inputs)
            if not node.module.spiking:
                return inputs[0]
            activation = inputs[0].relu()
            see(node, activation)
            return activation

        return self.net.walk(x, visit)


@torch.no_grad()
def thresholds_from_activations(twin: Twin, batches: Iterable[Tensor], percentile: float = 99.9) -> dict[str, float]:
    """The ``percentile`` of the activations of every spiking neuron layer, by its name, over all ``batches``.

    Between ranks it is linear, as numpy's. In evaluation mode; holds the batches, and of each layer the share of
    activations above the percentile.

    >>> from onward.neurons import IF
    >>> twin = Twin(Network(nn.Sequential(IF())))
    >>> thresholds_from_activations(twin, [torch.tensor([[1.0], [2.0], [4.0]])], percentile=75)
    {'0': 3.0}
    """
    if not 0 <= percentile <= 100:
        raise ConfigError(f"percentile {percentile:g} was given; expected a number from 0 to 100")
    inputs = list(batches)
    samples = sum(len(x) for x in inputs)
    if not samples:
        raise DataError("no samples were given to take activations from; expected at least one batch [B, ...]")
    tops: dict[str, _Top] = {}

    def see(node: Node, activation: Tensor) -> None:
        top = tops.setdefault(node.name, _Top(samples * activation[0].numel(), percentile / 100))
        top.add(activation)

    with evaluating(twin.net):
        for x in inputs:
            twin.walk(x, see)
    return {name: top.quantile() for name, top in tops.items()}


@torch.no_grad()
def set_thresholds(net: Network, thresholds: Mapping[str, float]) -> None:
    """Writes ``thresholds``, by name, into the learned thresholds of the neurons of ``net``.

    Raises `UnknownName` for a neuron that is not there, and `ConfigError` for one whose threshold is not a parameter,
    or a number that is no threshold.
    """
    modules: dict[str, Any] = {node.name: node.module for node in net.neurons}
    for name, value in thresholds.items():
        if name not in modules:
            raise UnknownName("neuron", name, modules)
        if not isinstance(getattr(modules[name], "threshold", None), nn.Parameter):
            raise ConfigError(
                f"the threshold of neuron {name} is not learned, so it cannot be set to {value:g}; build the neurons "
                "with learned thresholds (--neuron.learn-threshold)"
            )
        if not (isfinite(value) and value > 0):
            raise ConfigError(
                f"a threshold of {value:g} was given for neuron {name}; expected a positive number: a layer whose "
                "activations are all 0 needs more batches, or a threshold of your choice"
            )
    for name, value in thresholds.items():
        modules[name].threshold.fill_(value)


class _Top:
    """The largest of ``total`` numbers that come in parts: as many as their quantile ``share`` needs."""

    def __init__(self, total: int, share: float):
        place = (total - 1) * share
        self.rank = floor(place)
        self.weight, self.kept, self.held = place - self.rank, total - self.rank, torch.empty(0)

    def add(self, numbers: Tensor) -> None:
        """Some of the numbers."""
        flat = numbers.flatten()
        together = torch.cat([self.held.to(flat), flat.topk(min(self.kept, len(flat))).values])
        self.held = together.topk(min(self.kept, len(together))).values

    def quantile(self) -> float:
        """The quantile, when all have come."""
        low, high = float(self.held[-1]), float(self.held[-min(2, len(self.held))])
        return low + (high - low) * self.weight
