"""Products with what is mostly zero: events, spikes, and posts of slopes with exact zeros.

With the taps of `onward.kernels.taps`, both cost non-zeros x taps x outputs:

    gather    drive[p] = sum over taps k, places q = table[p, k], non-zeros (i, v) of q:   v W[k, i]
    scatter   dW[k, i] += v post[p]                                   over the same triples

The adjoint W^T post is a gather of posts, and the weight gradient also a scatter of them: weights and their gradient
are turned for that, and taps are those of the adjoint. Each product is a sum of rows of a table (of weights; of posts),
`SPAN` numbers of a row at a time, kept in registers. Plain twins: the dense products of the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from onward.kernels.choice import Share, seconds
from onward.kernels.compiled import Kernel
from onward.kernels.convolve import Geometry
from onward.kernels.host import SPAN
from onward.kernels.rows import SparseRows, sparse_rows
from onward.kernels.taps import Taps, conv_taps

NEAR = 256
"""Rows of posts, `SPAN` wide, that a core keeps at hand."""


def gather(rows: SparseRows, weight: Tensor, taps: Taps, bias: Tensor | None) -> Tensor:
    """The drive ``[R * positions, width]`` of a synapse without groups."""
    width, spans = len(weight), ceil(len(weight) / SPAN)
    taps_first = _taps_first(weight)
    packed = torch.empty(spans, *taps_first.shape[1:], SPAN)
    packed[-1, ..., width - (spans - 1) * SPAN :] = 0
    PACK(taps_first, packed)
    start = torch.zeros(spans, SPAN)
    if bias is not None:
        start.view(-1)[:width] = bias
    images = (len(rows.offsets) - 1) // taps.places
    out = torch.empty(images * taps.positions, width)
    GATHER(rows.indices, rows.offsets, rows.values, taps.table, taps.places, packed, start, out)
    return out


def scatter(rows: SparseRows, post: Tensor, taps: Taps, into: Tensor) -> None:
    """Adds the outer products of ``rows`` and ``post`` ``[R * positions, width]`` to the weight gradient ``into``."""
    count = len(rows.offsets) - 1
    images = max(1, NEAR // taps.total)
    starts = torch.zeros(ceil(count / (images * taps.places)), rows.inner + 1, dtype=torch.int64)
    turned, weights = torch.empty_like(rows.indices), torch.empty_like(rows.values)
    TURN(rows.indices, rows.offsets, rows.values, taps.cells, taps.total, images, count, turned, weights, starts)
    parts = ceil(2 * torch.get_num_threads() / ceil(len(into) / SPAN))
    grad = into.flatten(1)
    SCATTER(turned, weights, starts, post, taps.homes, taps.total, images, taps.shifts, parts, grad)
    if grad.data_ptr() != into.data_ptr():
        into.copy_(grad.view(into.shape))


def scatter_posts(posts: SparseRows, pre: Tensor, taps: Taps, into: Tensor) -> None:
    """As `scatter`, of the non-zeros of ``posts`` and dense ``pre`` ``[R * places, in]``; ``taps`` of the adjoint."""
    turned = into.new_zeros(into.transpose(0, 1).shape)
    scatter(posts, pre, taps, turned)
    into.add_(turned.transpose(0, 1))


def ready(*tensors: Tensor) -> bool:
    """Whether both products can be had as compiled loops on such tensors."""
    return all(kernel.serves(*tensors) for kernel in (PACK, GATHER, TURN, SCATTER))


def pays(
    below: Share,
    size: tuple[int, ...],
    rows: SparseRows,
    sparse: Callable[[SparseRows], object],
    dense: Callable[[Tensor], object],
    leaving: float = 0.0,
) -> bool:
    """Whether the ``sparse`` product of ``rows`` is faster here than its ``dense`` twin, both of that ``size``.

    Sparse products take time in proportion to the share of non-zeros, dense ones do not depend on it; the share at
    which they meet is measured when such a size is first seen. ``leaving`` is the part of the dense one's time that is
    spent in any case.
    """
    return rows.share <= (1 - leaving) * below.below(size, lambda: _break_even(rows, sparse, dense))


def _break_even(
    rows: SparseRows, sparse: Callable[[SparseRows], object], dense: Callable[[Tensor], object], share: float = 0.25
) -> float:
    """From one trial on random rows of the same shape."""
    generator = torch.Generator().manual_seed(0)
    shape = (*rows.shape[:2], *rows.shape[3:], rows.shape[2])
    x = (torch.rand(shape, generator=generator) < share).float().movedim(-1, 2)
    trial = sparse_rows(x, most=1.0)
    return 0.0 if trial is None else share * seconds(lambda: dense(x)) / seconds(lambda: sparse(trial))


def _taps_first(weight: Tensor) -> Tensor:
    """``[out, in, *kernel]`` as dense ``[out, taps, in]``."""
    return weight.flatten(2).transpose(1, 2).contiguous() if weight.dim() > 2 else weight.contiguous()[:, None]


class _Example:
    """A small convolution with everything unequal, for the checks of the kernels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (1, 3, 4, 6, 5)
        x = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.3)
        self.x = x[0].movedim(-1, 1)
        row, index = x.view(72, 5).nonzero().unbind(1)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (x.view(72, 5) != 0).sum(1).cumsum(0)])
        values = x.view(72, 5)[row, index]
        self.rows = SparseRows(index.to(torch.int32), offsets, values, torch.Size((1, 3, 5, 4, 6)), 24)
        self.taps = conv_taps((4, 6), (3, 2), Geometry((2, 1), (1, 0), (1, 2), groups=1))
        self.weight = torch.randn(SPAN + 6, 5, 3, 2, generator=generator)

    def drive(self, weight: Tensor) -> Tensor:
        """The convolution, by torch."""
        return torch.nn.functional.conv2d(self.x, weight, None, (2, 1), (1, 0), (1, 2))


def _pack_agrees() -> bool:
    weight, found = torch.randn(SPAN + 3, 2, 5), torch.zeros(2, 2, 5, SPAN)
    PACK(weight, found)
    wanted = torch.cat([weight, torch.zeros(SPAN - 3, 2, 5)]).unflatten(0, (2, SPAN)).permute(0, 2, 3, 1)
    return torch.equal(found, wanted)


def _gather_agrees() -> bool:
    case = _Example()
    found = gather(case.rows, case.weight, case.taps, None).view(3, -1, len(case.weight)).transpose(1, 2)
    return torch.allclose(found, case.drive(case.weight).flatten(2), atol=1e-5)


def _turn_agrees() -> bool:
    case = _Example()
    turned, weights = torch.empty_like(case.rows.indices), torch.empty_like(case.rows.values)
    starts, x = torch.zeros(1, 6, dtype=torch.int64), case.x.transpose(0, 1)  # [5, 3, 4, 6] on a grid of [3, 6, 8]
    TURN(case.rows.indices, case.rows.offsets, case.rows.values, case.taps.cells, 48, 3, 72, turned, weights, starts)
    _, image, row, column = x.nonzero().unbind(1)
    same = torch.equal(starts[0].diff(), (x != 0).flatten(1).sum(1)) and torch.equal(weights, x[x != 0])
    return same and torch.equal(turned, (image * 48 + row * 8 + column).to(torch.int32))


def _scatter_agrees() -> bool:
    case = _Example()
    post = torch.linspace(-1, 1, 3 * case.taps.positions * len(case.weight)).view(-1, len(case.weight))
    found, leaf = torch.ones_like(case.weight), case.weight.clone().requires_grad_()
    scatter(case.rows, post, case.taps, found)
    with torch.enable_grad():
        drive = case.drive(leaf)
        (wanted,) = torch.autograd.grad(drive, leaf, post.view(3, -1, len(leaf)).transpose(1, 2).reshape_as(drive))
    return torch.allclose(found - 1, wanted, atol=1e-4)


PACK = Kernel("pack", _pack_agrees)
GATHER = Kernel("gather", lambda: PACK.works and _gather_agrees())
TURN = Kernel("turn", _turn_agrees)
SCATTER = Kernel("scatter", lambda: TURN.works and _scatter_agrees())
GATHER_BELOW, SCATTER_BELOW = Share("gather"), Share("scatter")
GATHER_POSTS_BELOW, SCATTER_POSTS_BELOW = Share("gather of posts"), Share("scatter of posts")
