"""The rectifier: what spiking neurons are compared with, and the neuron of teachers."""

from __future__ import annotations

import torch
from torch import Tensor

from onward.core.neuron import Draw, Firing, Neuron, State, undrawn
from onward.core.products import rowwise


class Rectifier(Neuron):
    """max(0, x): no memory and no spikes, so that a network of them is an ordinary ReLU network.

    At one time step, `bptt` trains it as any such network is trained. Of an input that stands still, all steps are
    worked out at once.

    >>> relu = Rectifier()
    >>> x = torch.tensor([[[-1.0, 2.0]]])
    >>> relu.scan(x, relu.start(x[0])).out.tolist()
    [[[0.0, 2.0]]]
    """

    @property
    def decay(self) -> float:
        """0: nothing is kept."""
        return 0.0

    @property
    def spiking(self) -> bool:
        """See `Neuron.spiking`."""
        return False

    @property
    def exact_zeros(self) -> bool:
        """See `Neuron.exact_zeros`: below 0 the slope is 0."""
        return True

    def start(self, like: Tensor) -> State:
        """See `Neuron.start`: the last drive, which tells NaN; no later step reads it."""
        return (torch.zeros_like(like),)

    @torch.no_grad()
    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        """See `Neuron.scan`."""
        return Firing(rowwise(torch.relu, x), rowwise(lambda rows: (rows > 0).to(rows), x), (x[-1],), lambda: x)

    def unroll(self, x: Tensor, state: State, draw: Draw = undrawn) -> tuple[Tensor, State, Tensor]:
        """See `Neuron.unroll`."""
        return x.relu(), (x[-1].detach(),), x.detach()

    def leaves(self, like: Tensor, through_time: bool) -> int:
        """See `Neuron.leaves`."""
        return 1 if through_time else 2

    def parameter_grads(self, credit: Tensor, firing: Firing) -> dict[str, Tensor]:
        """None: a rectifier declares no parameters."""
        return {}

    def after_reset(self, firing: Firing) -> Tensor:
        """The drive itself: nothing resets it."""
        return firing.potential
