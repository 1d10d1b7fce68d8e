"""What LocalZO probes a spike function with: the law of z, and the surrogate that its estimates have for a mean.

For an even law lambda, an exponent alpha and a factor c, the estimate and its mean are

    G(x) = c |z|^alpha / (2 delta) * 1{|x| < delta |z|},    E G(x) = (c / delta) int_{|x|/delta}^inf z^alpha lambda dz

and conversely, every even surrogate g that does not rise with |x| is the mean for

    lambda(z) = -(delta^2 / c) |z|^-alpha g'(delta |z|),      c = -2 delta^2 int_0^inf z^-alpha g'(delta z) dz

where that integral exists. With alpha = 1 and c = 1, G is the two-point estimate of the derivative of a smoothed step
(Mukhoty et al. 2023).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import gamma, pi, sqrt

import torch
from torch import Tensor

from onward.core.draws import Gaussian, Law, Rademacher, Uniform
from onward.core.errors import ConfigError
from onward.surrogates.base import Surrogate
from onward.surrogates.shapes import ATan, FastSigmoid, Sigmoid, Triangle
from onward.surrogates.shapes import Gaussian as Bell

KNOTS = 1 << 15
MOST = 0.01
"""The share of all draws above which the first or the last of `KNOTS` cells gives away an integral without a value."""


class Probe(ABC):
    """The law of z by its name, for perturbations ``delta`` in units of the membrane potential."""

    exponent: float = 1.0

    @abstractmethod
    def law(self, delta: float) -> Law:
        """The law of z; only |z| matters."""

    @abstractmethod
    def mean(self, delta: float) -> Surrogate:
        """The surrogate that estimates have for a mean."""

    def factor(self, delta: float) -> float:
        """c."""
        return 1.0


class Normal(Probe):
    """z ~ N(0, 1): the derivative of a step smoothed by N(0, delta^2)."""

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return Gaussian()

    def mean(self, delta: float) -> Surrogate:
        """phi(x / delta) / delta."""
        return Bell(delta)


class Flat(Probe):
    """z uniform on [-sqrt 3, sqrt 3]; beyond sqrt(3) delta from the threshold nothing is ever learned."""

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return Centred(sqrt(3))

    def mean(self, delta: float) -> Surrogate:
        """max(0, 3 - x^2 / delta^2) / (4 sqrt(3) delta)."""
        return Parabola(sqrt(3) * delta)


class Laplace(Probe):
    """z from the Laplace law of variance 1."""

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return Exponential(1 / sqrt(2))

    def mean(self, delta: float) -> Surrogate:
        """(|x| / delta + 1 / sqrt 2) exp(-sqrt 2 |x| / delta) / (2 delta)."""
        return LaplaceMean(delta)


class Signs(Probe):
    """z = +-1: a box, with no variance at all."""

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return Rademacher()

    def mean(self, delta: float) -> Surrogate:
        """1 / (2 delta) for |x| < delta."""
        return Box(delta)


@dataclass(frozen=True)
class StudentT(Probe):
    """z from Student's law with ``freedom`` degrees, at variance 1 where it has one (above 2), else as it is.

    Of 3 degrees the mean is `ATan`. Raises `ConfigError` where E|z| does not exist.
    """

    freedom: float = 3.0

    def __post_init__(self) -> None:
        if self.freedom <= 1:
            raise ConfigError(
                f"Student's law with {self.freedom:g} degrees of freedom was given: E|z| does not exist, so that "
                "estimates have no mean; expected more than 1"
            )

    @property
    def scale(self) -> float:
        """What brings its variance to 1."""
        return sqrt((self.freedom - 2) / self.freedom) if self.freedom > 2 else 1.0

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return Student(self.freedom, self.scale)

    def mean(self, delta: float) -> Surrogate:
        """A power of 1 + x^2 / (freedom scale^2 delta^2)."""
        if self.freedom == 3:
            return ATan(2 / (pi * delta))
        return StudentMean(self.freedom, self.scale, delta)


@dataclass(frozen=True)
class Matched(Probe):
    """The law whose estimates have ``surrogate`` for a mean, tabulated; ``exponent`` is alpha.

    Raises `ConfigError` where there is none: the surrogate rises with |x|, or the integral for c has no value.
    """

    surrogate: Surrogate
    exponent: float = 1.0

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        ends, weights = _cells(lambda z: self.surrogate(delta * z), self.exponent)
        return Tabulated(ends, _cumulated(weights, self.exponent))

    def mean(self, delta: float) -> Surrogate:
        """The surrogate."""
        return self.surrogate

    def factor(self, delta: float) -> float:
        """See `Probe.factor`."""
        _, weights = _cells(lambda z: self.surrogate(delta * z), self.exponent)
        return 2 * delta * float(weights.sum())


class Logistic(Matched):
    """The law of variance 1 whose mean is the derivative of a logistic function, k = sqrt(1 / 0.426) / delta."""

    VARIANCE = 7 * 1.2020569031595943 / (2 * pi**2)  # of the law for a slope of 1: 7 zeta(3) / (2 pi^2)

    def __init__(self) -> None:
        super().__init__(Sigmoid(1 / sqrt(self.VARIANCE)))

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return super().law(1.0)

    def mean(self, delta: float) -> Surrogate:
        """k S(kx) (1 - S(kx))."""
        return Sigmoid(1 / (sqrt(self.VARIANCE) * delta))

    def factor(self, delta: float) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Superspike(Probe):
    """alpha = -1 and a density of |z| of 2 k delta / (1 + k delta |z|)^3: the mean exists, although E|z| does not."""

    slope: float = 100.0
    exponent = -1.0

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return Odds(1 / (self.slope * delta))

    def mean(self, delta: float) -> Surrogate:
        """1 / (1 + k |x|)^2."""
        return FastSigmoid(self.slope)

    def factor(self, delta: float) -> float:
        """See `Probe.factor`."""
        return 2 / self.slope


@dataclass(frozen=True)
class Tent(Probe):
    """z uniform on [-width / delta, width / delta], alpha = 0: the mean is a triangle of area 1."""

    width: float = 1.0
    exponent = 0.0

    def law(self, delta: float) -> Law:
        """See `Probe.law`."""
        return Centred(self.width / delta)

    def mean(self, delta: float) -> Surrogate:
        """max(0, width - |x|) / width^2."""
        return Triangle(1 / self.width)

    def factor(self, delta: float) -> float:
        """See `Probe.factor`."""
        return 2 * delta / self.width


@dataclass(frozen=True)
class Centred(Law):
    """Uniform on [-reach, reach]."""

    reach: float

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        return (self.reach * (2 * _uniform(keys, n) - 1)).to(dtype)


@dataclass(frozen=True)
class Exponential(Law):
    """The size of a Laplace number."""

    scale: float

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        return (-self.scale * _uniform(keys, n).log_()).to(dtype)


@dataclass(frozen=True)
class Student(Law):
    """Student's law by Bailey's polar method (1994)."""

    freedom: float
    scale: float

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        u, v = _uniform(keys, 2 * n).split(n, 1)
        radius = (self.freedom * (u.pow_(-2 / self.freedom) - 1)).sqrt_()
        return (self.scale * radius * (2 * pi * v).cos_()).to(dtype)


@dataclass(frozen=True)
class Odds(Law):
    """scale * r / (1 - r), r the root of a uniform number: density 2 / (scale (1 + z / scale)^3)."""

    scale: float

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        root = _uniform(keys, n).sqrt_()
        return (self.scale * root / (1 - root)).to(dtype)


@dataclass(frozen=True, eq=False)
class Tabulated(Law):
    """|z| by its distribution function, linear between ``knots``."""

    knots: Tensor
    below: Tensor

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        u = _uniform(keys, n)
        knots, below = self.knots.to(u.device), self.below.to(u.device)
        right = torch.searchsorted(below, u).clamp_(1, len(below) - 1)
        left = right - 1
        part = (u - below[left]) / (below[right] - below[left])
        return torch.lerp(knots[left], knots[right], part).to(dtype)


def _uniform(keys: Tensor, n: int) -> Tensor:
    return Uniform().sample(keys, n, torch.float64)


@dataclass(frozen=True)
class Box(Surrogate):
    """psi(x) = 1 / (2 r) for |x| < r."""

    reach: float
    exact_zeros = True

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return (x.abs() < self.reach).to(x.dtype) / (2 * self.reach)


@dataclass(frozen=True)
class Parabola(Surrogate):
    """psi(x) = 3 max(0, 1 - x^2 / r^2) / (4 r)."""

    reach: float
    exact_zeros = True

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return (1 - (x / self.reach).square()).clamp_min_(0).mul_(3 / (4 * self.reach))


@dataclass(frozen=True)
class LaplaceMean(Surrogate):
    """psi(x) = (a + 1 / sqrt 2) exp(-sqrt 2 a) / (2 delta), a = |x| / delta."""

    delta: float

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        a = x.abs() / self.delta
        return (a + 1 / sqrt(2)) * torch.exp(-sqrt(2) * a) / (2 * self.delta)


@dataclass(frozen=True)
class StudentMean(Surrogate):
    """psi(x) = peak * (1 + x^2 / (freedom scale^2 delta^2))^(-(freedom - 1) / 2)."""

    freedom: float
    scale: float
    delta: float

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        v, wide = self.freedom, self.scale * self.delta
        peak = self.scale * gamma((v + 1) / 2) / gamma(v / 2) * sqrt(v / pi) / ((v - 1) * self.delta)
        return peak * (1 + (x / wide).square() / v) ** (-(v - 1) / 2)


def largest(probe: Probe, delta: float, samples: int) -> float:
    """E max |z| over ``samples`` draws, by the distribution that the mean surrogate gives away.

    Raises `ConfigError` where it is infinite.
    """
    surrogate = probe.mean(delta)
    ends, weights = _cells(lambda z: surrogate(delta * z), probe.exponent)
    middle, below = (ends[:-1] + ends[1:]) / 2, _cumulated(weights, probe.exponent)
    parts = middle * (below**samples).diff()
    if parts[-1] > 1e-4 * parts.sum():
        raise ConfigError("the window of these draws has no width, for E|z| is infinite; choose another law")
    return float(parts.sum())


def _cells(g: Callable[[Tensor], Tensor], alpha: float) -> tuple[Tensor, Tensor]:
    """Cells of z from 0 to far out, and z^-alpha (-dg) of each: what ``g`` falls by, weighted."""
    t = torch.linspace(0, 1, KNOTS + 1, dtype=torch.float64)[:-1]
    ends = _width(g) * t / (1 - t)
    falls = -g(ends).diff()
    if falls.min() < -1e-9 * g(ends[:1]):
        raise ConfigError("this surrogate rises with |x|; expected one that falls on both sides of 0")
    return ends, falls.clamp_min(0) * ((ends[:-1] + ends[1:]) / 2) ** -alpha


def _cumulated(weights: Tensor, alpha: float) -> Tensor:
    """The distribution function at the ends of the cells."""
    share = weights / weights.sum()
    if not share.isfinite().all() or max(share[0], share[-1]) > MOST:
        raise ConfigError(
            f"no law has this surrogate for its mean with exponent {alpha:g}: the integral of |z|^{-alpha:g} g' has no "
            f"value; choose --neuron.surrogate.law.exponent {0 if alpha > 0 else 1}"
        )
    return torch.cat([share.new_zeros(1), share.cumsum(0)])


def _width(g: Callable[[Tensor], Tensor]) -> float:
    """Where ``g`` has fallen to half its peak."""
    z = torch.logspace(-6, 6, 1201, dtype=torch.float64)
    low = (g(z) < g(torch.zeros(1, dtype=torch.float64)) / 2).nonzero()
    if not len(low):
        raise ConfigError("this surrogate does not fall off with |x|; expected one that does")
    return float(z[low[0]])
