"""Products with what is mostly zero: events, and spikes.

A row lists the non-zeros of one sample at one step, or of one position of a spike map. A synapse is a set of *taps*,
each of which reads one place of the input for every position of its output (a linear layer has one tap and one
position; a 3 x 3 convolution nine taps). Both products cost non-zeros x taps x outputs:

    gather    drive[p] = sum over taps k, places q = table[p, k], non-zeros (i, v) of q:   v W[k, i]
    scatter   dW[k, i] += v post[p]                                   over the same triples

Plain twins: the dense products of the same tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, prod

import torch
from torch import Tensor

from onward.kernels.choice import measured, seconds
from onward.kernels.compiled import Kernel, Use, in_use
from onward.kernels.dense import linear, outer

SPAN = 160
"""Outputs whose weights are worked on together, so that they stay in a core's cache."""

NEVER = 0.3
"""A share of non-zeros at which sparse products are slower on any machine."""


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A chunk ``[K, B, *features]`` of which only the non-zeros are kept, as rows over its last axis in memory.

    Row r holds ``values[offsets[r]:offsets[r + 1]]`` at ``indices`` of the same slice. A row is a sample at a step
    (all features), or, where ``places`` is not 1, one place of a map ``[C, *places]`` (its channels).
    Memory O(non-zeros).

    >>> rows = SparseRows.events(torch.tensor([1, 0]), torch.tensor([0, 1, 1, 2]), (3, 1, 4), torch.ones(2))
    >>> rows.dense().flatten(1).tolist()
    [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    """

    indices: Tensor
    offsets: Tensor
    values: Tensor
    shape: torch.Size
    places: int = 1

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

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, steps: slice) -> SparseRows:
        """Some of the steps."""
        start, stop, _ = steps.indices(len(self))
        a_step = self.shape[1] * self.places
        offsets = self.offsets[start * a_step : stop * a_step + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        shape = torch.Size((stop - start, *self.shape[1:]))
        return SparseRows(self.indices[part], offsets - offsets[0], self.values[part], shape, self.places)

    def dim(self) -> int:
        """The number of axes of the chunk."""
        return len(self.shape)

    def flattened(self) -> SparseRows:
        """The same rows with features in one axis; only rows over all features can be."""
        return SparseRows(self.indices, self.offsets, self.values, torch.Size((*self.shape[:2], self.inner)))

    def dense(self) -> Tensor:
        """The chunk with its zeros."""
        rows = torch.arange(len(self.offsets) - 1, device=self.indices.device)
        row = rows.repeat_interleave(self.offsets.diff(), output_size=len(self.indices))
        flat = torch.zeros(len(rows) * self.inner, dtype=self.dtype, device=self.values.device)
        flat.index_add_(0, row * self.inner + self.indices, self.values)
        if self.places == 1:
            return flat.view(self.shape)
        maps = flat.view(*self.shape[:2], *self.shape[3:], self.inner)
        return maps.movedim(-1, 2)


def sparse_rows(x: Tensor, most: float | None = None) -> SparseRows | None:
    """The non-zeros of a chunk ``[K, B, n]`` or ``[K, B, C, *map]``; None where it is denser than ``most``.

    Without ``most``, where dense products are faster on this machine. Maps must be laid out channels last, so that a
    row is contiguous. Cost: two passes over ``x``.
    """
    rows = _as_rows(x)
    if rows is None or not COUNT.serves(rows):
        return None
    sizes = torch.empty(len(rows), dtype=torch.int64)
    COUNT(rows, sizes)
    offsets = torch.zeros(len(rows) + 1, dtype=torch.int64)
    torch.cumsum(sizes, 0, out=offsets[1:])
    total = int(offsets[-1])
    if not _worth_it(total / x.numel(), rows, most):
        return None
    indices, values = torch.empty(total, dtype=torch.int32), torch.empty(total)
    COLLECT(rows, offsets, indices, values)
    return SparseRows(indices, offsets, values, x.shape, prod(x.shape[3:]) if x.dim() > 3 else 1)


def _worth_it(share: float, rows: Tensor, most: float | None) -> bool:
    """Whether that share of non-zeros is kept sparse; no loop is compiled to find out that it is far too many."""
    if share > (NEVER if most is None and in_use() is Use.AUTO else 1.0) or not (COLLECT.works and ready(rows)):
        return False
    return share <= (break_even() if most is None else most)


def _as_rows(x: Tensor) -> Tensor | None:
    """A view of ``x`` as rows over features or channels, if its memory is laid out so."""
    if x.dim() > 3:
        x = x.movedim(2, -1)
    return x.view(-1, x.shape[-1]) if x.is_contiguous() else None


@dataclass(frozen=True)
class Taps:
    """Where a synapse reads: ``table`` ``[positions, taps]`` of input places, -1 beyond the border."""

    table: Tensor
    places: int

    @property
    def positions(self) -> int:
        """Places of the output map."""
        return len(self.table)


LINEAR = Taps(torch.zeros(1, 1, dtype=torch.int32), 1)
"""One tap that reads the only place."""


@cache
def conv_taps(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Taps:
    """The taps of a convolution over a map of ``size``."""
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    axes = []
    for axis in range(len(size)):
        at = torch.arange(out[axis])[:, None] * stride[axis] - padding[axis]
        axes.append(at + torch.arange(kernel[axis]) * dilation[axis])
    table = torch.zeros((), dtype=torch.int64)
    inside = torch.ones((), dtype=torch.bool)
    for axis, place in enumerate(axes):  # [out_0, k_0, out_1, k_1, ...], then positions before taps
        shape = [1] * (2 * len(size))
        shape[2 * axis], shape[2 * axis + 1] = place.shape
        table = table * size[axis] + place.view(shape)
        inside = inside & ((place >= 0) & (place < size[axis])).view(shape)
    order = [*range(0, 2 * len(size), 2), *range(1, 2 * len(size), 2)]
    table = torch.where(inside, table, -1).permute(order).reshape(prod(out), prod(kernel))
    return Taps(table.to(torch.int32).contiguous(), prod(size))


def _spans(width: int) -> tuple[int, int]:
    spans = ceil(width / SPAN)
    return spans, ceil(width / spans)


def _taps_first(weight: Tensor) -> Tensor:
    """``[out, in, *kernel]`` as ``[out, taps, in]``."""
    return weight.flatten(2).transpose(1, 2) if weight.dim() > 2 else weight[:, None]


def gather(rows: SparseRows, weight: Tensor, taps: Taps, bias: Tensor | None) -> Tensor:
    """The drive ``[R * positions, width]`` of a synapse without groups."""
    spans, span = _spans(len(weight))
    taps_first = _taps_first(weight).contiguous()
    packed = torch.zeros(spans, *taps_first.shape[1:], span)
    PACK(taps_first, packed)
    images = (len(rows.offsets) - 1) // taps.places
    out = torch.zeros(images * taps.positions, len(weight)) if bias is None else bias.repeat(images * taps.positions, 1)
    GATHER(rows.indices, rows.offsets, rows.values, taps.table, taps.places, packed, out)
    return out


def scatter(rows: SparseRows, post: Tensor, taps: Taps, into: Tensor) -> None:
    """Adds the outer products of ``rows`` and ``post`` ``[R * positions, width]`` to the weight gradient ``into``."""
    spans, span = _spans(len(into))
    taps_first = _taps_first(into)
    packed = torch.zeros(spans, *taps_first.shape[1:], span)
    SCATTER(rows.indices, rows.offsets, rows.values, taps.table, taps.places, post, packed)
    if taps_first.is_contiguous():
        UNPACK(packed, taps_first)
    else:
        UNPACK(packed, grad := torch.zeros(taps_first.shape))
        taps_first.add_(grad)


def ready(*tensors: Tensor) -> bool:
    """Whether both products can be had as compiled loops on such tensors."""
    return all(kernel.serves(*tensors) for kernel in (PACK, GATHER, SCATTER, UNPACK))


def break_even() -> float:
    """The share of non-zeros up to which sparse products are the faster ones here, found at first use."""
    return 1.0 if in_use() is Use.ALWAYS else float(measured("sparse below", lambda: f"{_break_even():.3f}"))


def _break_even(rows: int = 1024, size: int = 512, share: float = 0.1) -> float:
    """From one layer: sparse products take time in proportion to the share, dense ones do not depend on it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, rows, size, generator=generator)
    sparse = sparse_rows(x * (x < share), most=1.0)
    assert sparse is not None
    weight, post, into = torch.ones(size, size), x[0], torch.zeros(size, size)
    forward = seconds(lambda: linear(x[0], weight, None)) / seconds(lambda: gather(sparse, weight, LINEAR, None))
    dense = seconds(lambda: outer(post, x[0], into, into.dtype))
    return share * min(forward, dense / seconds(lambda: scatter(sparse, post, LINEAR, into)))


class _Example:
    """A small convolution with everything unequal, for the checks of the kernels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, 3, 4, 6, 5, generator=generator) * (torch.rand(1, 3, 4, 6, 5, generator=generator) < 0.3)
        self.flat = x.view(72, 5)
        self.x = x[0].movedim(-1, 1)
        row, index = self.flat.nonzero().unbind(1)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (self.flat != 0).sum(1).cumsum(0)])
        values = self.flat[row, index]
        self.rows = SparseRows(index.to(torch.int32), offsets, values, torch.Size((1, 3, 5, 4, 6)), 24)
        self.taps = conv_taps((4, 6), (3, 2), (2, 1), (1, 0), (1, 2))
        self.weight = torch.randn(7, 5, 3, 2, generator=generator)
        self.taps_first = _taps_first(self.weight).contiguous()
        halves = torch.cat([self.taps_first, torch.zeros(1, 6, 5)]).unflatten(0, (2, 4))
        self.packed = halves.permute(0, 2, 3, 1).contiguous()

    def drive(self, weight: Tensor) -> Tensor:
        """The convolution, by torch."""
        return torch.nn.functional.conv2d(self.x, weight, None, (2, 1), (1, 0), (1, 2))


def _gather_agrees() -> bool:
    case = _Example()
    found = gather(case.rows, case.weight, case.taps, None).view(3, -1, 7).transpose(1, 2)
    return torch.allclose(found, case.drive(case.weight).flatten(2), atol=1e-5)


def _scatter_agrees() -> bool:
    case = _Example()
    post = torch.linspace(-1, 1, 3 * case.taps.positions * 7).view(-1, 7)
    found, leaf = torch.ones_like(case.weight), case.weight.clone().requires_grad_()
    scatter(case.rows, post, case.taps, found)
    with torch.enable_grad():
        drive = case.drive(leaf)
        (wanted,) = torch.autograd.grad(drive, leaf, post.view(3, -1, 7).transpose(1, 2).reshape_as(drive))
    return torch.allclose(found - 1, wanted, atol=1e-5)


def _count_agrees() -> bool:
    case, sizes = _Example(), torch.empty(72, dtype=torch.int64)
    COUNT(case.flat, sizes)
    return torch.equal(sizes, case.rows.offsets.diff())


def _collect_agrees() -> bool:
    case = _Example()
    indices, values = torch.empty_like(case.rows.indices), torch.empty_like(case.rows.values)
    COLLECT(case.flat, case.rows.offsets, indices, values)
    return torch.equal(indices, case.rows.indices) and torch.equal(values, case.rows.values)


def _pack_agrees() -> bool:
    case, found = _Example(), torch.zeros(2, 6, 5, 4)
    PACK(case.taps_first, found)
    return torch.equal(found, case.packed)


def _unpack_agrees() -> bool:
    case, found = _Example(), torch.zeros(7, 6, 5)
    UNPACK(case.packed, found)
    return torch.equal(found, case.taps_first)


COUNT = Kernel("count", _count_agrees, least=1 << 16)
COLLECT = Kernel("collect", _collect_agrees)
PACK = Kernel("pack", _pack_agrees)
UNPACK = Kernel("unpack", _unpack_agrees)
GATHER = Kernel("gather", lambda: PACK.works and _gather_agrees())
SCATTER = Kernel("scatter", lambda: UNPACK.works and _scatter_agrees())
