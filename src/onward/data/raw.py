"""Mini-batches of samples in the form in which they are stored, which can still be changed before they are shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from onward.core.sequence import Sequence
from onward.kernels.rows import SparseRows

T = TypeVar("T")


class Raw(Sequence, Generic[T]):
    """``samples`` that ``make`` turns into a sequence when it is first read: events to be binned, files to be decoded.

    To change them before, see `onward.data.Augmentation`.
    """

    def __init__(self, samples: T, make: Callable[[T], Sequence], steps: int, batch: int, features: tuple[int, ...]):
        self.samples, self.make = samples, make
        self.steps, self.batch, self.features = steps, batch, features

    @cached_property
    def made(self) -> Sequence:
        """The samples as they are."""
        return self.make(self.samples)

    def chunk(self, start: int, stop: int) -> Tensor:
        """See `Sequence.chunk`."""
        return self.made.chunk(start, stop)

    def read(self, start: int, stop: int) -> Tensor | SparseRows:
        """See `Sequence.read`."""
        return self.made.read(start, stop)

    def mean(self, decay: float = 1.0) -> Tensor:
        """See `Sequence.mean`."""
        return self.made.mean(decay)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Sequence:
        """See `Sequence.to`."""
        return self.made.to(device, dtype)

    def permuted(self, order: Tensor) -> Sequence:
        """See `Sequence.permuted`."""
        return self.made.permuted(order)
