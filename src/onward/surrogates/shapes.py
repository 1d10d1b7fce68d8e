"""Surrogate derivatives psi(x) of the spike function, x = membrane potential - threshold.

=============  ======================================  ==================  =========================
name           psi(x)                                  peak, area          used by
=============  ======================================  ==================  =========================
sigmoid(k)     k S(kx) (1 - S(kx))                     k / 4, 1            OTTT, HLOP (k = 4)
triangle(k)    max(0, k - k^2 abs(x))                  k, 1                SLTT (k = 1)
rectangle(w)   1/w for abs(x) <= w/2                   1 / w, 1            SLTT (alternative)
atan(k)        (k/2) / (1 + (pi k x / 2)^2)            k / 2, 1            SpikingJelly (k = 2)
gaussian(s)    exp(-x^2 / 2 s^2) / (s sqrt(2 pi))      1/(s sqrt(2pi)), 1  LocalZO's Gaussian limit
fast_sigmoid   1 / (1 + k abs(x))^2                    1, 2/k              SuperSpike (k = 25)
quasi_clamp    1 for abs(x) <= a                       1, 2a               OTTT's code (a = 1)
=============  ======================================  ==================  =========================

S is the logistic function. Each costs one pass over x and keeps nothing.

>>> Triangle()(torch.tensor([-2.0, 0.0, 0.5]))
tensor([0.0000, 1.0000, 0.5000])
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor

from onward.kernels.fire import Shape
from onward.surrogates.base import Surrogate


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """psi(x) = k S(kx) (1 - S(kx)), S the logistic function."""

    slope: float = 4.0

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        s = (self.slope * x).sigmoid_()
        return torch.ops.aten.sigmoid_backward(s.new_tensor(self.slope), s)  # slope s (1 - s) in one pass

    @property
    def shape(self) -> Shape:
        """See `Surrogate.shape`."""
        return Shape("sigmoid", self.slope)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """psi(x) = max(0, k - k^2 abs(x))."""

    slope: float = 1.0
    exact_zeros = True

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return (self.slope - self.slope**2 * x.abs()).clamp_min(0)

    @property
    def shape(self) -> Shape:
        """See `Surrogate.shape`."""
        return Shape("triangle", self.slope)


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """psi(x) = 1/w for abs(x) <= w/2, else 0."""

    width: float = 1.0
    exact_zeros = True

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return (x.abs() <= self.width / 2).to(x.dtype) / self.width

    @property
    def shape(self) -> Shape:
        """See `Surrogate.shape`."""
        return Shape("rectangle", self.width)


@dataclass(frozen=True)
class ATan(Surrogate):
    """psi(x) = (k/2) / (1 + (pi k x / 2)^2)."""

    slope: float = 2.0

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return self.slope / 2 / (1 + (pi / 2 * self.slope * x).square())


@dataclass(frozen=True)
class Gaussian(Surrogate):
    """psi(x) = exp(-x^2 / (2 w^2)) / (w sqrt(2 pi))."""

    width: float = 1 / sqrt(2 * pi)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return torch.exp(-(x / self.width).square() / 2) / (self.width * sqrt(2 * pi))


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """psi(x) = 1 / (1 + k abs(x))^2."""

    slope: float = 25.0

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return (1 + self.slope * x.abs()).square().reciprocal()


@dataclass(frozen=True)
class QuasiClamp(Surrogate):
    """psi(x) = 1 for abs(x) <= a, else 0."""

    width: float = 1.0
    exact_zeros = True

    def __call__(self, x: Tensor) -> Tensor:
        """See `Surrogate.__call__`."""
        return (x.abs() <= self.width).to(x.dtype)
