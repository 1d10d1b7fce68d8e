"""Norse: `lif_box_feed_forward_step` with reset by subtraction.

Its membrane is v + dt/tau (x - v) = v/2 + x/2 at dt/tau = 1/2. Twice the weights in front of every neuron give
v/2 + W s, Onward's LIF, at no cost; gradients with respect to W are twice those of the doubled weights. The surrogate
"tanh" with alpha 2, 1 - tanh(2u)^2, is 4 S(4u) (1 - S(4u)), S the logistic function. A spike needs v > 1 (Onward: >=),
and gradients pass through the reset.
"""

from __future__ import annotations

import torch
from layerwise import Layerwise, LayerwisePeer
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step
from norse.torch.functional.reset import reset_subtract
from protocol import Contender, Task, fitted
from torch import Tensor, nn

GAIN = 2.0


class LIF(nn.Module):
    """Norse's step, over time."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_of_step = LIFBoxParameters(
            tau_mem_inv=torch.tensor(0.5), method="tanh", alpha=2.0, reset_method=reset_subtract
        )

    def forward(self, x: Tensor) -> Tensor:
        state, spikes = LIFBoxFeedForwardState(v=torch.zeros_like(x[0])), []
        for drive in x.unbind(0):
            z, state = lif_box_feed_forward_step(drive, state, self.parameters_of_step, dt=1.0)
            spikes.append(z)
        return torch.stack(spikes)


def make(task: Task) -> Contender:
    """A contender for the task."""
    net = Layerwise(task, LIF)
    last_before_neuron = "norm" if task.norm else ""
    hidden = [name for name in fitted(net) if name.startswith(last_before_neuron)]
    gains = dict.fromkeys(hidden if task.norm else hidden[:-1], GAIN)
    return LayerwisePeer(task, net, "layer by layer, lif_box_feed_forward_step, surrogate tanh(2)", gains)
