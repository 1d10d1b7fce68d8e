"""What a surrogate derivative is to a neuron."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from onward.core.neuron import Draw
from onward.kernels.fire import ABOVE, Shape


class Surrogate(ABC):
    """A stand-in for the derivative of the Heaviside step."""

    exact_zeros: bool = False
    """Whether psi is exactly 0 away from the threshold, so that products may leave zeros out."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """psi(x), elementwise; ``x`` is membrane potential minus threshold."""

    @property
    def shape(self) -> Shape:
        """What compiled loops know this surrogate by; `ABOVE` where they leave psi to it."""
        return ABOVE

    def bound(self, draw: Draw) -> Surrogate:
        """The surrogate of one chunk, whose random numbers, if it needs any, come from ``draw``."""
        return self

    def active(self) -> float | None:
        """The share of slopes that were not zero since this was last asked; None where it is not counted."""
        return None
