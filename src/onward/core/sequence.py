"""A mini-batch of inputs over time, read chunk by chunk so that nothing grows with the number of steps."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from onward.core.errors import ShapeError
from onward.kernels.rows import SparseRows
from onward.kernels.scan import leaky_sum, seen

PIECE = 8
"""Steps that a mean over time reads at once."""


class Sequence(ABC):
    """``steps`` time steps of a batch of ``batch`` samples, each of shape ``features``."""

    steps: int
    batch: int
    features: tuple[int, ...]

    @abstractmethod
    def chunk(self, start: int, stop: int) -> Tensor:
        """Steps ``start`` to ``stop - 1`` as a dense tensor ``[stop - start, B, *features]``."""

    def read(self, start: int, stop: int) -> Tensor | SparseRows:
        """Steps ``start`` to ``stop - 1`` as the sequence keeps them: sparse where it is."""
        return self.chunk(start, stop)

    def mean(self, decay: float = 1.0) -> Tensor:
        """The mean over time ``[B, *features]``, in which a step weighs ``decay`` times what the next one does.

        Reads the sequence in pieces; memory O(1) in the number of steps.
        """
        first = self.chunk(0, min(PIECE, self.steps))
        wide = torch.promote_types(first.dtype, torch.float32)
        total = leaky_sum(first.to(wide), None, decay)
        for start in range(PIECE, self.steps, PIECE):
            total = leaky_sum(self.chunk(start, min(start + PIECE, self.steps)).to(wide), total, decay)
        return (total / sum(decay**t for t in range(self.steps))).to(first.dtype)

    @abstractmethod
    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Sequence:
        """The same sequence on another device, and in another dtype if one is given."""

    @abstractmethod
    def permuted(self, order: Tensor) -> Sequence:
        """The same sequence with feature ``order[i]`` at place i; ``order`` ``[prod(features)]`` is a permutation."""


def _check(steps: int, batch: int) -> None:
    if steps < 1:
        raise ShapeError(f"a sequence of {steps} time steps was given; at least 1 is needed")
    if batch < 1:
        raise ShapeError(f"a batch of {batch} samples was given; at least 1 is needed")


class Static(Sequence):
    """The same frame at every step: ``x`` is ``[B, *features]``; a chunk is a view that copies nothing.

    >>> Static(torch.zeros(4, 784), steps=6).chunk(0, 6).shape
    torch.Size([6, 4, 784])
    """

    def __init__(self, x: Tensor, steps: int):
        if x.dim() < 2:
            raise ShapeError(f"a static input of shape {list(x.shape)} was given; expected [batch, *features]")
        _check(steps, len(x))
        self.x, self.steps, self.batch, self.features = x, steps, x.shape[0], tuple(x.shape[1:])

    def chunk(self, start: int, stop: int) -> Tensor:
        """The frame, seen ``stop - start`` times."""
        return seen(self.x, stop - start)

    def mean(self, decay: float = 1.0) -> Tensor:
        """The frame itself."""
        return self.x

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Static:
        """See `Sequence.to`."""
        return Static(self.x.to(device, dtype or self.x.dtype), self.steps)

    def permuted(self, order: Tensor) -> Static:
        """See `Sequence.permuted`."""
        return Static(self.x.flatten(1)[:, order].view_as(self.x), self.steps)


class Frames(Sequence):
    """Dense frames: ``x`` is ``[T, B, *features]``."""

    def __init__(self, x: Tensor):
        if x.dim() < 3:
            raise ShapeError(f"frames of shape {list(x.shape)} were given; expected [time, batch, *features]")
        _check(*x.shape[:2])
        self.x, self.steps, self.batch, self.features = x, x.shape[0], x.shape[1], tuple(x.shape[2:])

    def chunk(self, start: int, stop: int) -> Tensor:
        """A slice of the frames."""
        return self.x[start:stop]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Frames:
        """See `Sequence.to`."""
        return Frames(self.x.to(device, dtype or self.x.dtype))

    def permuted(self, order: Tensor) -> Frames:
        """See `Sequence.permuted`."""
        return Frames(self.x.flatten(2)[:, :, order].view_as(self.x))


class Events(Sequence):
    """Sparse rows: row ``t * B + b`` lists the flat feature indices that are active at step t in sample b.

    ``indices`` ``[nnz]`` int64; ``offsets`` ``[T * B + 1]`` int64, rows ordered by time, then sample;
    ``values`` ``[nnz]``, or None where every event counts 1. Memory O(events), not O(T * features).
    """

    def __init__(
        self,
        indices: Tensor,
        offsets: Tensor,
        steps: int,
        batch: int,
        features: tuple[int, ...],
        values: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        _check(steps, batch)
        if offsets.shape != (steps * batch + 1,):
            raise ShapeError(
                f"event offsets of shape {list(offsets.shape)} were given; "
                f"{steps} steps of {batch} samples need [{steps * batch + 1}]"
            )
        self.indices, self.offsets, self.values, self.dtype = indices, offsets, values, dtype
        self.steps, self.batch, self.features = steps, batch, tuple(features)

    def read(self, start: int, stop: int) -> SparseRows:
        """The rows of steps ``start`` to ``stop - 1``."""
        offsets = self.offsets[start * self.batch : stop * self.batch + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        shape = (stop - start, self.batch, *self.features)
        counts = offsets.new_ones(last - first) if self.values is None else self.values[first:last]
        return SparseRows.events(self.indices[first:last], offsets - first, shape, counts.to(self.dtype))

    def chunk(self, start: int, stop: int) -> Tensor:
        """The rows scattered into zeros; only this chunk is ever dense."""
        return self.read(start, stop).dense()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Events:
        """See `Sequence.to`; ``dtype`` is that of the dense chunks."""
        values = None if self.values is None else self.values.to(device)
        return Events(
            self.indices.to(device),
            self.offsets.to(device),
            self.steps,
            self.batch,
            self.features,
            values,
            dtype or self.dtype,
        )

    def permuted(self, order: Tensor) -> Events:
        """See `Sequence.permuted`."""
        return Events(
            order.argsort()[self.indices],
            self.offsets,
            self.steps,
            self.batch,
            self.features,
            self.values,
            self.dtype,
        )
