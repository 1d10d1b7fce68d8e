"""Dense products in the way that is fastest here, found by measurement.

A processor may run the same product at very different speeds in the libraries that torch brings along. The first time
a product of a certain size is wanted, each way is timed; the winner is remembered, also on disk, so that later runs
choose alike. Ways differ in the order in which they add, and thus in the last bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onward.kernels.choice import Choice

WORTH = 1 << 20
"""Multiplications from which on it pays to look for the fastest way."""

_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert _onednn is not None
    return _onednn(x, weight, bias, "none", [], "")


def _in_place(post: Tensor, pre: Tensor, into: Tensor) -> None:
    into.addmm_(post.T, pre)


def _added(post: Tensor, pre: Tensor, into: Tensor) -> None:
    into.add_(_direct(post.T, pre.T, None))


LINEAR = Choice("linear", {"blas": _plain} | ({"onednn": _direct} if _onednn else {}))
OUTER = Choice("outer", {"blas": _in_place} | ({"onednn": _added} if _onednn else {}))


def _rounded_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x.to(weight.dtype).to(x.dtype), weight.to(x.dtype), bias)


def _native_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = F.linear(x.to(weight.dtype), weight).to(x.dtype)
    return y if bias is None else y.add_(bias)


def _rounded_outer(post: Tensor, pre: Tensor, into: Tensor, products: torch.dtype) -> None:
    outer(post.to(products).to(into.dtype), pre.to(products).to(into.dtype), into, into.dtype)


def _native_outer(post: Tensor, pre: Tensor, into: Tensor, products: torch.dtype) -> None:
    into.add_(post.to(products).T @ pre.to(products))


SHORT_LINEAR = Choice("linear in bf16", {"rounded": _rounded_linear, "native": _native_linear})
SHORT_OUTER = Choice("outer in bf16", {"rounded": _rounded_outer, "native": _native_outer})


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b on rows ``[R, in]`` in the dtype of ``x``; the product in that of ``weight``. No gradient."""
    size = (len(x), *weight.shape)
    if shortens(weight.dtype, x):
        return short(SHORT_LINEAR, size, x, weight, bias)
    if not _chooses(x, size):
        return F.linear(x, weight, bias)
    return LINEAR.best(size, lambda: (x, weight, bias))(x, weight, bias)


def outer(post: Tensor, pre: Tensor, into: Tensor, products: torch.dtype) -> None:
    """Adds post^T pre of rows ``[R, out]`` and ``[R, in]`` to ``into``; the product in the dtype ``products``."""
    size = (len(post), *into.shape)
    if shortens(products, post):
        return short(SHORT_OUTER, size, post, pre, into, products)
    if not _chooses(post, size):
        into.addmm_(post.T, pre)
        return None
    return OUTER.best(size, lambda: (post, pre, torch.zeros_like(into)))(post, pre, into)


def shortens(products: torch.dtype, x: Tensor) -> bool:
    """Whether a product of float32 ``x`` is asked for in bf16."""
    return products is torch.bfloat16 and x.dtype is torch.float32


def short(choice: Choice, size: tuple[int, ...], x: Tensor, *rest: Any) -> Any:
    """A product with factors shorter than float32.

    *native* leaves it to the processor. *rounded* multiplies the rounded factors in float32: the same numbers, where
    the processor has no such instructions and imitates them slowly. Accelerators have them.
    """
    if x.device.type != "cpu":
        return choice.ways["native"](x, *rest)
    if prod(size) < WORTH:
        return choice.ways["rounded"](x, *rest)
    return choice.best(size, lambda: (x, *_copies(rest)))(x, *rest)


def _copies(values: tuple[Any, ...]) -> Iterator[Any]:
    """``values``, of which no tensor is the one that was given: a way may write into it."""
    return (value.clone() if isinstance(value, Tensor) else value for value in values)


def column_sums(x: Tensor) -> Tensor:
    """The sum of ``x`` over all axes but the last."""
    return x.reshape(-1, x.shape[-1]).sum(0)


def _chooses(x: Tensor, size: tuple[int, ...]) -> bool:
    """Whether a product is worth choosing a way for: float32 on the CPU, no graph, a million multiplications."""
    chooses = x.dtype is torch.float32 and x.device.type == "cpu" and prod(size) >= WORTH
    return chooses and not (torch.is_grad_enabled() and x.requires_grad)
