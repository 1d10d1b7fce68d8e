"""Direct feedback g = M e, kept as its factors until it meets a slope: g itself is never held.

post[r] = slope[r] * (M e[r]),    r over steps and samples, M [n, m], m much smaller than n
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from onward.kernels.compiled import Kernel
from onward.kernels.host import SPAN, fills


@dataclass(frozen=True)
class Feedback:
    """Credit M e ``[K, B, *features]`` at a layer, from its error ``[K, B, m]`` and matrix ``[n, m]``."""

    error: Tensor
    matrix: Tensor

    def dense(self, like: Tensor) -> Tensor:
        """The credit in the shape and dtype of ``like``."""
        return (self.error.to(self.matrix) @ self.matrix.T.contiguous()).to(like).view_as(like)

    def times(self, slope: Tensor) -> Tensor:
        """The credit times ``slope`` ``[K, B, *features]``, in one pass over it."""
        rows = _as_rows(slope)
        if rows is None or not FEEDBACK.serves(slope, self.error, self.matrix):
            return self.dense(slope) * slope
        post = torch.empty_strided(slope.shape, slope.stride(), dtype=slope.dtype)
        columns = torch.arange(self.matrix.shape[1], dtype=torch.int32)
        error, packed = self.error.flatten(0, 1).contiguous(), _packed(self.matrix, slope[0, 0])
        FEEDBACK(error, packed, columns, rows, post.as_strided(rows.shape, rows.stride()))
        return post


def correlate(z: Tensor, o: Tensor, half: int) -> Tensor:
    """Sums of z o^T over steps and each half of the samples, ``[2, n, m]``; the first ``half`` of them are one.

    ``z`` ``[N, B, *features]``, ``o`` ``[N, B, m]``.
    """
    rows = _as_rows(z)
    if rows is None or not CORRELATE.serves(z, o):
        parts = [(z[:, :half], o[:, :half]), (z[:, half:], o[:, half:])]
        return torch.stack([a.flatten(2).flatten(0, 1).T @ b.flatten(0, 1) for a, b in parts])
    features, strides, width = z.shape[2:], z.stride()[2:], o.shape[2]
    size = rows.shape[1]
    out = torch.empty_strided((2, width, *features), (width * size, size, *strides))
    CORRELATE(
        rows, o.flatten(0, 1).contiguous(), z.shape[1], half, out.as_strided((2, width, size), (width * size, size, 1))
    )
    return out.flatten(2).transpose(1, 2)


def _as_rows(x: Tensor) -> Tensor | None:
    """``[K, B, *features]`` as ``[K * B, n]`` in the order of memory, where that is one block."""
    size = x[0, 0].numel()
    if not fills(x[0, 0]) or x.stride()[:2] != (x.shape[1] * size, size):
        return None
    return x.as_strided((x.shape[0] * x.shape[1], size), (size, 1))


def _packed(matrix: Tensor, like: Tensor) -> Tensor:
    """M as ``[spans, m, SPAN]``, n in the order in which ``like`` ``[*features]`` lies in memory, zeros at the end."""
    size, width = like.numel(), matrix.shape[1]
    packed = torch.zeros(ceil(size / SPAN), width, SPAN, dtype=matrix.dtype)
    laid = torch.empty_strided((width, *like.shape), (size, *like.stride()), dtype=matrix.dtype)
    laid.copy_(matrix.T.reshape(laid.shape))
    flat, whole = laid.as_strided((width, size), (size, 1)), size // SPAN
    packed[:whole] = flat[:, : whole * SPAN].view(width, whole, SPAN).transpose(0, 1)
    packed[whole:, :, : size - whole * SPAN] = flat[:, whole * SPAN :]
    return packed


def _agrees() -> bool:
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(3, 13, 4, generator=generator)
    matrix = torch.randn(6 * 5 * 90, 4, generator=generator)
    slope = torch.rand(3, 13, 6, 5, 90, generator=generator).movedim(2, -1).contiguous().movedim(-1, 2)
    found = Feedback(error, matrix)
    return torch.allclose(found.times(slope), found.dense(slope) * slope, atol=1e-5)


def _correlates() -> bool:
    generator = torch.Generator().manual_seed(0)
    z, o = torch.randn(2, 5, 3, 1100, generator=generator), torch.randn(2, 5, 4, generator=generator)
    wanted = [z[:, part].flatten(2).flatten(0, 1).T @ o[:, part].flatten(0, 1) for part in (slice(3), slice(3, 5))]
    return torch.allclose(correlate(z, o, 3), torch.stack(wanted), atol=1e-4)


FEEDBACK = Kernel("feedback", _agrees, least=1 << 15)
CORRELATE = Kernel("correlate", _correlates, least=1 << 15)
