"""Back-propagation through time for libraries whose neurons take one step at a time.

Their tutorials run the whole network step by step. On a CPU it is faster to run each layer over all steps before the
next one begins: synapses see time and batch merged, and only the neurons loop. Both compute the same.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol import Peer, Task, mean_loss, plan, stateless
from torch import Tensor, nn


class Layerwise(nn.Module):
    """Layers over all time steps, ``[T, B, ...]`` in and out; ``neuron()`` makes a module that loops over T."""

    def __init__(self, task: Task, neuron: Callable[[], nn.Module]):
        super().__init__()
        layers = [neuron() if step[0] == "neuron" else stateless(*step) for step in plan(task)]
        self.layers = nn.ModuleList(layers)
        self.over_time = [step[0] == "neuron" for step in plan(task)]

    def forward(self, x: Tensor) -> Tensor:
        for layer, over_time in zip(self.layers, self.over_time, strict=True):
            x = layer(x) if over_time else layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return x

    def neurons(self) -> list[nn.Module]:
        return [layer for layer, over_time in zip(self.layers, self.over_time, strict=True) if over_time]


class LayerwisePeer(Peer):
    """A `Layerwise` network under back-propagation through time."""

    def __init__(self, task: Task, net: Layerwise, settings: str, gains: dict[str, float] | None = None):
        super().__init__(task, net, gains)
        self.layerwise, self.settings = net, settings

    def neurons(self) -> list[nn.Module]:
        return self.layerwise.neurons()

    def backward(self, number: int) -> None:
        x, y = self.batches[number % len(self.batches)]
        with self.context():
            loss = mean_loss(self.layerwise(x), y)
        loss.backward()
