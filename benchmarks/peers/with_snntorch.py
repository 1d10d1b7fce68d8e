"""snnTorch: `Leaky` with reset by subtraction, beta 1/2 and the surrogate sigmoid(4).

``reset_delay`` True, the library's default, subtracts the threshold one step late, undecayed: the same as Onward's
LIF with a soft reset by twice the threshold, and no gradient passes through it. ``reset_delay`` False subtracts at
once, with gradients through the reset; but a neuron whose potential stays above the threshold after its reset is
reset once more *before* it may fire at the next step. A spike needs U > 1 (Onward: >=).
"""

from __future__ import annotations

import snntorch
import torch
from layerwise import Layerwise, LayerwisePeer
from protocol import Contender, Task
from snntorch import surrogate
from torch import Tensor, nn


class LIF(nn.Module):
    """snnTorch's neuron, over time."""

    def __init__(self, reset_delay: bool):
        super().__init__()
        self.leaky = snntorch.Leaky(beta=0.5, spike_grad=surrogate.sigmoid(slope=4), reset_delay=reset_delay)

    def forward(self, x: Tensor) -> Tensor:
        membrane, spikes = torch.zeros_like(x[0]), []
        for drive in x.unbind(0):
            spike, membrane = self.leaky(drive, membrane)
            spikes.append(spike)
        return torch.stack(spikes)


def make(task: Task) -> Contender:
    """A contender for the task."""
    delay = bool(task.options["reset_delay"])
    net = Layerwise(task, lambda: LIF(delay))
    return LayerwisePeer(task, net, f"layer by layer, Leaky, reset_delay={delay}, surrogate sigmoid(4)")
