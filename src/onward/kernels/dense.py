"""Dense products in the way that is fastest here, found by measurement.

A processor may run the same product at very different speeds in the libraries that torch brings along. The first time
a product of a certain size is wanted, each way is timed; the winner is remembered, also on disk, so that later runs
choose alike. Ways differ in the order in which they add, and thus in the last bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onward.kernels.choice import Choice

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


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b on rows ``[R, in]``; no gradient."""
    if not _large(x, x.shape[0] * weight.numel()):
        return F.linear(x, weight, bias)
    return LINEAR.best((x.shape[0], *weight.shape), x, weight, bias)(x, weight, bias)


def outer(post: Tensor, pre: Tensor, into: Tensor) -> None:
    """Adds post^T pre of rows ``[R, out]`` and ``[R, in]`` to ``into``."""
    if not _large(post, len(post) * into.numel()):
        into.addmm_(post.T, pre)
        return
    OUTER.best((len(post), *into.shape), post, pre, torch.zeros_like(into))(post, pre, into)


def column_sums(x: Tensor) -> Tensor:
    """The sum of ``x`` over all axes but the last."""
    rows = x.reshape(-1, x.shape[-1])
    return rows.new_ones(len(rows)) @ rows


def _large(x: Tensor, products: int) -> bool:
    """Whether a product is worth choosing a way for: float32 on the CPU, no graph, a million multiplications."""
    chooses = x.dtype is torch.float32 and x.device.type == "cpu" and products >= 1 << 20
    return chooses and not (torch.is_grad_enabled() and x.requires_grad)
