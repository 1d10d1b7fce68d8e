"""The non-zeros of a chunk of time, where they are few."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from onward.kernels.compiled import Kernel, Use, in_use

MOST = 0.6
"""The share of non-zeros above which a chunk stays dense, unmeasured: listing more would cost memory and time.

By then, on two cores of a Zen 3, sparse products of linear layers were the slower ones (even at 0.2 to 0.35),
those of convolutions not always (drives at 0.4 to 0.7, weight gradients at 0.5 to 0.8).
"""


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A chunk ``[K, B, *features]`` of which only the non-zeros are kept, as rows over its last axis in memory.

    Row r holds ``values[offsets[r]:offsets[r + 1]]`` at ``indices`` of the same slice. A row is a sample at a step
    (all features), or, where ``places`` is not 1, one place of a map ``[C, *places]`` (its channels).
    ``source`` is the chunk itself, where it was dense before. Memory O(non-zeros), and that of ``source``.

    >>> rows = SparseRows.events(torch.tensor([1, 0]), torch.tensor([0, 1, 1, 2]), (3, 1, 4), torch.ones(2))
    >>> rows.dense().flatten(1).tolist()
    [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    """

    indices: Tensor
    offsets: Tensor
    values: Tensor
    shape: torch.Size
    places: int = 1
    source: Tensor | None = None

    @classmethod
    def events(cls, indices: Tensor, offsets: Tensor, shape: tuple[int, ...], values: Tensor) -> SparseRows:
        """Rows over all features, from flat feature ``indices``."""
        return cls(indices.to(torch.int32), offsets, values, torch.Size(shape))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def inner(self) -> int:
        """Features of one row."""
        return prod(self.shape[2:]) // self.places

    @property
    def share(self) -> float:
        """Non-zeros among all numbers of the chunk."""
        return len(self.values) / max(1, self.shape.numel())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, steps: slice) -> SparseRows:
        """Some of the steps."""
        start, stop, _ = steps.indices(len(self))
        a_step = self.shape[1] * self.places
        offsets = self.offsets[start * a_step : stop * a_step + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        shape = torch.Size((stop - start, *self.shape[1:]))
        source = None if self.source is None else self.source[steps]
        return SparseRows(self.indices[part], offsets - offsets[0], self.values[part], shape, self.places, source)

    def dim(self) -> int:
        """The number of axes of the chunk."""
        return len(self.shape)

    def flattened(self) -> SparseRows:
        """The same rows with features in one axis; only rows over all features can be."""
        return SparseRows(self.indices, self.offsets, self.values, torch.Size((*self.shape[:2], self.inner)))

    def dense(self) -> Tensor:
        """The chunk with its zeros."""
        if self.source is not None:
            return self.source
        rows = torch.arange(len(self.offsets) - 1, device=self.indices.device)
        row = rows.repeat_interleave(self.offsets.diff(), output_size=len(self.indices))
        flat = torch.zeros(len(rows) * self.inner, dtype=self.dtype, device=self.values.device)
        flat.index_add_(0, row * self.inner + self.indices, self.values)
        if self.places == 1:
            return flat.view(self.shape)
        maps = flat.view(*self.shape[:2], *self.shape[3:], self.inner)
        return maps.movedim(-1, 2)


def sparse_rows(x: Tensor, most: float | None = None) -> SparseRows | None:
    """The non-zeros of a chunk ``[K, B, n]`` or ``[K, B, C, *map]``; None where their share is above ``most``.

    Without ``most``: above `MOST`. Maps must be laid out channels last, so that a row is
    contiguous. Cost: two passes over ``x``.
    """
    rows = _as_rows(x)
    if rows is None or not COUNT.serves(rows):
        return None
    sizes = torch.empty(len(rows), dtype=torch.int64)
    COUNT(rows, sizes)
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int64)
    torch.cumsum(sizes, 0, out=offsets[1:])
    total = int(offsets[-1])
    if most is None:
        most = 1.0 if in_use() is Use.ALWAYS else MOST
    if total > most * x.numel() or not COLLECT.works:
        return None
    indices, values = torch.empty(total, dtype=torch.int32), torch.empty(total)
    COLLECT(rows, offsets, indices, values)
    return SparseRows(indices, offsets, values, x.shape, prod(x.shape[3:]), x)


def _as_rows(x: Tensor) -> Tensor | None:
    """A view of ``x`` as rows over features or channels, if its memory is laid out so."""
    if x.dim() > 3:
        x = x.movedim(2, -1)
    return x.view(-1, x.shape[-1]) if x.is_contiguous() else None


def _example() -> tuple[Tensor, SparseRows]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 72, 5, generator=generator) * (torch.rand(1, 72, 5, generator=generator) < 0.3)
    row, index = x[0].nonzero().unbind(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (x[0] != 0).sum(1).cumsum(0)])
    return x[0], SparseRows.events(index, offsets, (1, 72, 5), x[0, row, index])


def _count_agrees() -> bool:
    (x, rows), sizes = _example(), torch.empty(72, dtype=torch.int64)
    COUNT(x, sizes)
    return torch.equal(sizes, rows.offsets.diff())


def _collect_agrees() -> bool:
    x, rows = _example()
    indices, values = torch.empty_like(rows.indices), torch.empty_like(rows.values)
    COLLECT(x, rows.offsets, indices, values)
    return torch.equal(indices, rows.indices) and torch.equal(values, rows.values)


COUNT = Kernel("count", _count_agrees, least=1 << 16)
COLLECT = Kernel("collect", _collect_agrees)
