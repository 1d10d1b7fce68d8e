"""Neurons whose spikes are as high as the charge they cost: the neurons of DSR (Meng et al. 2022)."""

from __future__ import annotations

from math import exp

import torch
from torch import Tensor

from onward.core.errors import ConfigError
from onward.core.neuron import RateLaw, State
from onward.neurons.affine import Affine, SoftReset
from onward.surrogates import Surrogate


class Graded(Affine):
    """Fires at alpha V, loses V, sends V / dt; V is learned, one number a layer.

        IF   H[t] = V[t-1] + x[t]                                      sends V,      mean output clamp(x^, 0, V)
        LIF  H[t] = beta V[t-1] + (1 - beta) x[t], beta = exp(-dt/tau)  sends V / dt, clamp(x^ / tau, 0, V / dt)

    alpha 0.5 rounds where alpha 1 rounds down: the largest error of the mean is max(alpha, 1 - alpha) V / T. Before
    a sequence V is lifted to ``floor``, outside any graph; gradients of V are multiplied by ``grad_scale``.
    ``tau`` None is the IF neuron. The slope 1 / tau is the limit of short steps; ``exact_slope`` takes
    (1 - beta) / dt. Raises `ConfigError` for numbers out of range.
    """

    def __init__(
        self,
        threshold: float,
        alpha: float,
        tau: float | None = None,
        dt: float = 1.0,
        floor: float = 0.01,
        grad_scale: float = 1.0,
        exact_slope: bool = False,
        surrogate: Surrogate | None = None,
        learn_threshold: bool = True,
    ):
        if not 0 < alpha <= 1:
            raise ConfigError(f"an alpha of {alpha} was given; expected 0 < alpha <= 1 (1 fires at the threshold)")
        if tau is not None and (tau <= 0 or dt <= 0):
            raise ConfigError(f"tau {tau} and dt {dt} were given; expected positive numbers")
        beta = 1.0 if tau is None else exp(-dt / tau)
        super().__init__(
            beta,
            gain=1.0 if tau is None else 1 - beta,
            threshold=threshold,
            reset=SoftReset(),
            surrogate=surrogate,
            learn_threshold=learn_threshold,
        )
        self.level_share, self.height_share = alpha, 1 / dt
        self.floor, self.grad_scale = floor, grad_scale
        self.slope = 1.0 if tau is None else (1 - beta if exact_slope else dt / tau)

    @property
    def rate_law(self) -> RateLaw:
        """See `Neuron.rate_law`; the bounds pass gradients in the IF neuron alone."""
        v = self._scaled()
        return RateLaw(self.decay, self.slope / v, 0.0, self.height_share * v, closed=self.decay == 1)

    @torch.no_grad()
    def start(self, like: Tensor) -> State:
        """See `Neuron.start`; lifts V to its floor."""
        if isinstance(self.threshold, Tensor):
            self.threshold.clamp_(min=self.floor)
        return super().start(like)

    def _scaled(self) -> Tensor | float:
        """V, with its gradient scaled."""
        v = self.threshold
        if not isinstance(v, Tensor) or self.grad_scale == 1:
            return v
        return v.detach() + self.grad_scale * (v - v.detach())

    def extra_repr(self) -> str:
        """Its numbers."""
        return f"{super().extra_repr()}, alpha={self.level_share:g}, floor={self.floor:g}"


def GradedIF(
    threshold: float = 6.0,
    alpha: float = 0.5,
    *,
    floor: float = 0.01,
    grad_scale: float | None = None,
    surrogate: Surrogate | None = None,
    learn_threshold: bool = True,
) -> Graded:
    """DSR's IF neuron with its published numbers (``grad_scale`` None is 1).

    >>> neuron = GradedIF(threshold=1.0)
    >>> firing = neuron.scan(torch.full((4, 1, 1), 0.5), neuron.start(torch.zeros(1, 1)))
    >>> firing.out.flatten().tolist()
    [1.0, 0.0, 1.0, 0.0]
    """
    scale = 1.0 if grad_scale is None else grad_scale
    return Graded(threshold, alpha, floor=floor, grad_scale=scale, surrogate=surrogate, learn_threshold=learn_threshold)


def GradedLIF(
    threshold: float = 0.3,
    alpha: float = 0.3,
    *,
    tau: float = 1.0,
    dt: float = 0.05,
    floor: float = 0.0005,
    grad_scale: float | None = None,
    exact_slope: bool = False,
    surrogate: Surrogate | None = None,
    learn_threshold: bool = True,
) -> Graded:
    """DSR's LIF neuron with its published numbers; ``grad_scale`` None is the authors' dt^2.

    With the true gradient (1) thresholds of LIF neurons move 1 / dt^2 times as fast as weights do, and collapse.
    """
    scale = dt**2 if grad_scale is None else grad_scale
    return Graded(threshold, alpha, tau, dt, floor, scale, exact_slope, surrogate, learn_threshold)
