"""LocalZO: a zeroth-order estimate of the derivative of every neuron's spike function (Mukhoty et al. 2023).

    forward   s = H(x),  x = membrane potential - threshold
    slope     G(x) = (c / 2 delta) * mean over k = 1..m of |z_k|^alpha 1{|x| < delta |z_k|},   z_k ~ a law of unit scale

With alpha = c = 1 this is the two-point estimate [H(x + delta z) - H(x - delta z)] z / (2 delta). Its mean over z is a
surrogate (`onward.surrogates.probes`), and so is the mean gradient of whatever rule uses it; what it adds are slopes
that are exactly zero. Noise is local, so that its variance does not grow with the network. For the normal law

    Var G = (1 / m) [(a phi(a) + Q(a)) / (2 delta^2) - phi(a)^2 / delta^2],   a = |x| / delta,  Q the normal tail
    P(G != 0) = 1 - (1 - 2 Q(a))^m

Draws are keyed by neuron, sample and step, one set for each slope: the reset and the output share it, and so do
the passes forward and back. Cost: m draws, and some passes over x for each; keeps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onward.core.errors import ConfigError
from onward.core.neuron import Draw, undrawn
from onward.surrogates.base import Surrogate
from onward.surrogates.probes import Normal, Probe, largest


class LocalZO(Surrogate):
    """The sampled derivative; see the module's docstring. Raises `ConfigError` for numbers out of range.

    >>> from onward.core.draws import Law, Rademacher
    >>> def draw(law: Law, part: str, like: Tensor, start: int = 0) -> Tensor:
    ...     return torch.ones_like(like)
    >>> LocalZO(delta=0.5, samples=1).bound(draw)(torch.tensor([0.0, 0.4, 0.6]))
    tensor([1., 1., 0.])
    """

    exact_zeros = True

    def __init__(self, delta: float = 0.5, samples: int = 5, probe: Probe | None = None):
        checked(delta, samples)
        self.delta, self.samples, self.probe = delta, samples, probe or Normal()
        self.law = self.probe.law(delta)
        self.scale = self.probe.factor(delta) / (2 * delta * samples)
        self._counted: Tensor | int = 0
        self._seen = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Raises `ConfigError`: nobody said where numbers come from; see `bound`."""
        return self.bound(undrawn)(x)

    def bound(self, draw: Draw) -> Surrogate:
        """See `Surrogate.bound`."""
        return _Sampled(self, draw)

    def active(self) -> float | None:
        """See `Surrogate.active`."""
        if not self._seen:
            return None
        share = float(self._counted) / self._seen
        self._counted, self._seen = 0, 0
        return share

    def saw(self, slopes: Tensor) -> None:
        """Counts those that are not zero."""
        self._counted = self._counted + slopes.count_nonzero()
        self._seen += slopes.numel()

    def __repr__(self) -> str:
        return f"LocalZO(delta={self.delta}, samples={self.samples}, {type(self.probe).__name__})"


class _Sampled(Surrogate):
    """One chunk's draws of a `LocalZO`."""

    def __init__(self, of: LocalZO, draw: Draw):
        self.of, self.draw = of, draw

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        of, distance = self.of, x.abs()
        total = torch.zeros_like(x)
        for k in range(of.samples):
            z = self.draw(of.law, f"slope {k}", x).abs()
            reached = distance < of.delta * z
            total += torch.where(reached, z**of.probe.exponent, 0.0)
        total *= of.scale
        of.saw(total)
        return total


@dataclass(frozen=True)
class Windowed(Surrogate):
    """``mean`` where |x| < ``window``, else 0: as many active neurons as LocalZO has, without its noise.

    The rival of LocalZO's paper (Perez-Nieves & Goodman 2021).
    """

    mean: Surrogate
    window: float
    exact_zeros = True

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return torch.where(x.abs() < self.window, self.mean(x), 0.0)


def windowed(delta: float, samples: int, probe: Probe) -> Windowed:
    """The mean of LocalZO's estimates within delta E max |z|."""
    checked(delta, samples)
    return Windowed(probe.mean(delta), delta * largest(probe, delta, samples))


def checked(delta: float, samples: int) -> None:
    """Raises `ConfigError` for a perturbation or a number of draws that cannot be."""
    if not delta > 0:
        raise ConfigError(f"delta {delta} was given; LocalZO divides by it: expected a positive number, such as 0.5")
    if samples < 1:
        raise ConfigError(f"{samples} samples were given; LocalZO needs at least 1 draw a slope, such as 5")
