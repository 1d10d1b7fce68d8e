"""Products of chunks of time: dense or sparse, whichever was measured to be faster, on either side.

Zeros of inputs (spikes) and of posts (slopes far from the threshold) are left out where that pays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from onward.core.signal import dense
from onward.core.synapse import Params, SynapseOps, geometry, ops_of
from onward.kernels.choice import Share
from onward.kernels.rows import MOST, SparseRows, sparse_rows
from onward.kernels.scan import seen, weighted_sum
from onward.kernels.sparse import (
    GATHER_BELOW,
    GATHER_POSTS_BELOW,
    SCATTER_BELOW,
    SCATTER_POSTS_BELOW,
    gather,
    pays,
    ready,
    scatter,
    scatter_posts,
)
from onward.kernels.taps import Taps

ZEROS = "exact zeros"
"""What the way back from a drive is told where posts have them."""


def rowwise(f: Callable[..., Tensor], *chunks: Tensor) -> Tensor:
    """``f`` on the merged rows of ``chunks`` ``[K, B, ...]``; once, where all K steps are the same frame."""
    if all(x.stride(0) == 0 for x in chunks):
        return seen(f(*(x[0] for x in chunks)), len(chunks[0]))
    return f(*(x.flatten(0, 1) for x in chunks)).unflatten(0, chunks[0].shape[:2])


def still(x: Tensor | SparseRows) -> bool:
    """Whether the steps of a chunk ``[K, B, ...]`` are one frame, seen several times."""
    return isinstance(x, Tensor) and len(x) > 1 and x.stride(0) == 0


def drive(module: nn.Module, params: Params, x: Tensor | SparseRows) -> Tensor:
    """The drive ``[K, B, ...]`` of a chunk; of sparse rows without ever making them dense, where that can be."""
    ops = ops_of(module)
    if isinstance(x, Tensor):
        return rowwise(lambda rows: ops.apply(module, params, rows), x)
    taps = _gather_taps(module, params, x)
    if taps is None:
        return drive(module, params, x.dense())
    flat = gather(x, params["weight"].to(x.dtype), taps, params.get("bias"))
    return _as_drive(flat, module, x)


def through(module: nn.Module, params: Params, back: Params, x: Tensor, rows: Tensor | SparseRows) -> Tensor:
    """The drive of ``x`` ``[K, B, ...]`` by ``params``; errors go back to ``x`` by ``back``.

    ``rows`` hold the same numbers as ``x``; the product reads them.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return _Through.apply(x, module, params, back, rows)
    return drive(module, params, rows)


class _Through(torch.autograd.Function):
    """Forward by one set of weights, backward by another."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, module: nn.Module, params: Params, back: Params, rows: Tensor | SparseRows
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module, ctx.back = module, back
        return drive(module, params, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,), post = ctx.saved_tensors, grads[0]
        rows = _listed(post, ctx.back, x, GATHER_POSTS_BELOW) if ZEROS in ctx.metadata else None
        return transpose(ctx.module, ctx.back, rows or post, x), None, None, None, None


def expect_zeros(drive: Tensor) -> None:
    """Tells the way back from a ``drive`` of `through` that many posts are exactly zero: it is to look for them."""
    back: Any = drive.grad_fn
    if back is not None:
        back.metadata[ZEROS] = True


def transpose(module: nn.Module, params: Params, post: Tensor | SparseRows, like: Tensor) -> Tensor:
    """W^T post of a chunk ``[K, B, ...]`` in the shape of ``like``; of sparse rows without the zeros if that pays."""
    if isinstance(post, SparseRows):
        taps = _gather_posts_taps(module, params, post, like)
        if taps is not None:
            flat = gather(post, params["weight"].transpose(0, 1), taps, None)
            return flat.view(*like.shape[:2], *like.shape[3:], like.shape[2]).movedim(-1, 2)
        post = post.dense()
    credit = ops_of(module).transpose(module, params, post.flatten(0, 1), like.flatten(0, 1))
    return credit.unflatten(0, like.shape[:2])


def few_posts(module: nn.Module, params: Params, pre: Tensor | SparseRows, post: Tensor) -> Tensor | SparseRows:
    """What a deposit with ``pre`` is to take of a ``post`` with exact zeros: the rest alone, where that is fastest.

    It is not where ``pre`` stands still, nor where leaving out its own zeros saves more.
    """
    if still(pre):
        return post
    rows = _listed(post, params, pre, SCATTER_POSTS_BELOW, _as_sparse_as(pre, post))
    return rows if rows is not None and _scatter_posts_taps(module, params, dense(pre), rows) else post


def _as_sparse_as(pre: Tensor | SparseRows, post: Tensor) -> float:
    """The share of non-zeros in ``post`` at which its zeros save as many products as those of ``pre``.

    Events save more in any case: to make them dense would cost too much.
    """
    if isinstance(pre, Tensor):
        return 1.0
    return 0.0 if pre.source is None else len(pre.values) * post.shape[2] / (pre.inner * post.numel())


def _listed(
    post: Tensor, params: Params, pre: Tensor | SparseRows, below: Share, most: float = 1.0
) -> SparseRows | None:
    """The non-zeros of ``post`` up to a share of ``most``, if products that ``below`` tells of may be faster so.

    They cannot where weights do not join each input ``pre`` with each output, or are no float32.
    """
    weight = params.get("weight")
    if most == 0 or weight is None or weight.dtype is not torch.float32:
        return None
    if weight.shape[:2] != (post.shape[2], pre.shape[2]):
        return None
    return sparse_rows(post, min(most, below.foreseen(_posts_size(post.shape, weight), MOST)))


def deposit(
    module: nn.Module, params: Params, pre: Tensor | SparseRows, post: Tensor | SparseRows, into: Params
) -> None:
    """Adds the outer product of two chunks ``[K, B, ...]``, summed over steps and batch, to ``into``.

    Of sparse rows the zeros are left out where that is faster; those of ``post``, if both are sparse.
    """
    ops = ops_of(module)
    if isinstance(pre, Tensor) and still(pre):
        return ops.outer(module, params, pre[0], weighted_sum(dense(post), [1.0] * len(post)), into)
    if isinstance(post, SparseRows):
        taps = _scatter_posts_taps(module, params, dense(pre), post)
        if taps is not None:
            return scatter_posts(post, _as_rows(dense(pre)), taps, into["weight"])
        post = post.dense()
    if isinstance(pre, SparseRows):
        taps = _scatter_taps(module, params, pre, post, into)
        if taps is not None:
            return scatter(pre, _as_rows(post), taps, into["weight"])
        pre = pre.dense()
    return ops.outer(module, params, pre.flatten(0, 1), post.flatten(0, 1), into)


def _taps(ops: SynapseOps, module: nn.Module, rows: SparseRows) -> Taps | None:
    taps = ops.taps(module, rows)
    return taps if taps is not None and ready(rows.values) else None


def gather_pays(module: nn.Module, params: Params, x: SparseRows, leaving: float = 0.0) -> bool:
    """Whether the drive of ``x`` is faster without its zeros; ``leaving``: see `onward.kernels.sparse.pays`."""
    return _gather_taps(module, params, x, leaving) is not None


def _gather_taps(module: nn.Module, params: Params, x: SparseRows, leaving: float = 0.0) -> Taps | None:
    """How the module reads ``x``, where its drive is faster without the zeros."""
    ops, weight = ops_of(module), params["weight"]
    taps = _taps(ops, module, x)
    if taps is None:
        return None
    faster = pays(
        GATHER_BELOW,
        _size(x, weight),
        x,
        lambda rows: gather(rows, weight.to(x.dtype), taps, None),
        lambda dense: ops.apply(module, params, dense.flatten(0, 1)),
        leaving,
    )
    return taps if faster else None


def _scatter_taps(module: nn.Module, params: Params, pre: SparseRows, post: Tensor, into: Params) -> Taps | None:
    """How the module reads ``pre``, where its weight gradient is faster without the zeros."""
    ops, weight = ops_of(module), into["weight"]
    taps = _taps(ops, module, pre)
    if taps is None or weight.dtype is not torch.float32:
        return None
    trial = cache(lambda: {"weight": torch.zeros_like(weight)})  # only a measurement needs it, outside its timing
    faster = pays(
        SCATTER_BELOW,
        _size(pre, weight),
        pre,
        lambda rows: scatter(rows, _as_rows(post), taps, trial()["weight"]),
        lambda dense: ops.outer(module, params, dense.flatten(0, 1), post.flatten(0, 1), trial()),
    )
    return taps if faster else None


def _gather_posts_taps(module: nn.Module, params: Params, post: SparseRows, like: Tensor) -> Taps | None:
    """How the adjoint reads ``post``, where W^T post is faster without the zeros."""
    ops, weight = ops_of(module), params["weight"]
    taps = ops.adjoint_taps(module, post, like)
    if taps is None or not ready(post.values, weight):
        return None
    turned = weight.transpose(0, 1)
    faster = pays(
        GATHER_POSTS_BELOW,
        _posts_size(post.shape, weight),
        post,
        lambda rows: gather(rows, turned, taps, None),
        lambda trial: ops.transpose(module, params, trial.flatten(0, 1), like.flatten(0, 1)),
    )
    return taps if faster else None


def _scatter_posts_taps(module: nn.Module, params: Params, pre: Tensor, post: SparseRows) -> Taps | None:
    """How the adjoint reads ``post``, where the weight gradient is faster without its zeros."""
    ops, weight = ops_of(module), params["weight"]
    taps = ops.adjoint_taps(module, post, pre)
    if taps is None or not ready(post.values, weight):
        return None
    trial = cache(lambda: {"weight": torch.zeros_like(weight)})
    faster = pays(
        SCATTER_POSTS_BELOW,
        _posts_size(post.shape, weight),
        post,
        lambda rows: scatter_posts(rows, _as_rows(pre), taps, trial()["weight"]),
        lambda x: ops.outer(module, params, pre.flatten(0, 1), x.flatten(0, 1), trial()),
    )
    return taps if faster else None


def _size(rows: SparseRows, weight: Tensor) -> tuple[int, ...]:
    """What tells one product from another: images, places, outputs, and the numbers that each adds up."""
    return rows.shape[0] * rows.shape[1], rows.places, len(weight), weight[0].numel()


def _posts_size(shape: torch.Size, weight: Tensor) -> tuple[int, ...]:
    """The same for products of posts of such a ``shape`` with turned weights."""
    return shape[0] * shape[1], prod(shape[3:]), weight.shape[1], weight.numel() // weight.shape[1]


def _as_drive(flat: Tensor, module: Any, x: SparseRows) -> Tensor:
    """Rows ``[K * B * positions, out]`` as the drive of a layer."""
    if x.dim() == 3:
        return flat.view(*x.shape[:2], -1)
    out = geometry(module).size_after(tuple(x.shape[3:]), module.kernel_size)
    return flat.view(*x.shape[:2], *out, -1).movedim(-1, 2)


def _as_rows(post: Tensor) -> Tensor:
    """A chunk as rows ``[K * B * positions, out]``."""
    return post.movedim(2, -1).reshape(-1, post.shape[2])
