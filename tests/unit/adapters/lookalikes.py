"""Small classes with the names, attributes and arithmetic of snnTorch's and SpikingJelly's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def atan(alpha: float = 2.0) -> Callable[[Tensor], Tensor]:
    """As snnTorch's: a function that remembers ``alpha``."""

    def inner(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype) + 0 * alpha

    return inner


def fast_sigmoid(slope: float = 25.0) -> Callable[[Tensor], Tensor]:
    def inner(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype) + 0 * slope

    return inner


def triangular(threshold: float = 1.0) -> Callable[[Tensor], Tensor]:
    def inner(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype) + 0 * threshold

    return inner


class Leaky(nn.Module):
    """snnTorch's, with a hidden membrane."""

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float = 1.0,
        reset: int = 0,
        *,
        spike_grad: Any = None,
        reset_delay: bool = True,
        learn_threshold: bool = False,
        **said: Any,
    ):
        super().__init__()
        self.register_buffer("beta", torch.as_tensor(beta))
        level = torch.as_tensor(threshold)
        self.threshold = nn.Parameter(level) if learn_threshold else level
        self.register_buffer("reset_mechanism_val", torch.as_tensor(reset))
        self.register_buffer("graded_spikes_factor", torch.as_tensor(1.0))
        self.spike_grad, self.reset_delay = spike_grad or atan(), reset_delay
        self.inhibition, self.state_quant = said.get("inhibition", False), said.get("state_quant", False)
        self.mem = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        mem, level = self.mem, self.threshold
        late = (mem > level).to(x.dtype)
        if int(self.get_buffer("reset_mechanism_val")) == 1:
            mem = (1 - late) * mem
        self.mem = self.get_buffer("beta") * mem + x
        if int(self.get_buffer("reset_mechanism_val")) == 0:
            self.mem = self.mem - late * level
        return self.spike_grad(self.mem - level)


class Synaptic(Leaky):
    """Of which a reset to zero drops what comes in."""

    def __init__(self, alpha: float, beta: float, **options: Any):
        super().__init__(beta, **options)
        self.register_buffer("alpha", torch.as_tensor(alpha))


class RLeaky(Leaky):
    """Not known."""


class Sigmoid:
    def __init__(self, alpha: float = 4.0, spiking: bool = True):
        self.alpha, self.spiking = alpha, spiking


class ATan(Sigmoid):
    pass


class S2NN(Sigmoid):
    pass


class LIFNode(nn.Module):
    """SpikingJelly's, in steps."""

    def __init__(self, tau: float = 2.0, decay_input: bool = True, v_reset: float | None = 0.0, surrogate: Any = None):
        super().__init__()
        self.tau, self.decay_input, self.v_reset, self.v_threshold = tau, decay_input, v_reset, 1.0
        self.surrogate_function, self.detach_reset = surrogate or Sigmoid(), False
        self.v: float | Tensor = v_reset or 0.0

    def forward(self, x: Tensor) -> Tensor:
        rest = self.v_reset or 0.0
        h = self.v + (x - (self.v - rest)) / self.tau if self.decay_input else self.v - (self.v - rest) / self.tau + x
        s = (h >= self.v_threshold).to(x.dtype)
        self.v = h - s * self.v_threshold if self.v_reset is None else (1 - s) * h + s * self.v_reset
        return s


class ParametricLIFNode(LIFNode):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3))


class Linear(nn.Linear):
    """A library's own layer by torch's name."""

    step_mode = "s"


class WSConv2d(nn.Conv2d):
    """A layer that computes something else than its parent."""


class MultiStepContainer(nn.Sequential):
    """A chain that is called otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("nobody calls it")
