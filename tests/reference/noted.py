"""A simulation that keeps what its neurons send, in the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onward.neurons import Neuron
from reference import plain


class Noted(plain.Simulation):
    """``spikes`` of every neuron, step by step, by name; without ``past``, no layer hears of its own in the graph."""

    def __init__(self, body: nn.Module, across_time: bool, past: bool = True):
        super().__init__(body, across_time)
        self.past, self.spikes = past, dict[str, list[Tensor]]()

    def run(self, x: Tensor) -> Tensor:
        """The outputs ``[T, B, m]``."""
        return torch.stack([self.step(frame) for frame in x])

    def rates(self, name: str) -> Tensor:
        """The mean over time of what a neuron sent, ``[B, *features]``."""
        return torch.stack(self.spikes[name]).mean(0)

    def grads(self, loss: Tensor) -> dict[str, Tensor]:
        """Of all parameters, by name; none of those that the loss does not reach."""
        named = dict(self.body.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}

    def _neuron(self, name: str, n: Neuron, x: Tensor) -> Tensor:
        out = super()._neuron(name, n, x)
        self.spikes.setdefault(name, []).append(out)
        return out

    def _remembered(self, name: str, out: Tensor) -> Tensor:
        super()._remembered(name, out if self.past else out.detach())
        return out
