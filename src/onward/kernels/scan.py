"""Recurrences over the time axis of a chunk, in plain torch: one pass a step, preallocated results."""

from __future__ import annotations

import torch
from torch import Tensor

from onward.kernels.host import fills


def leaky_scan(x: Tensor, start: Tensor | None, decay: float) -> Tensor:
    """y[t] = decay * y[t-1] + x[t] over ``x`` ``[K, ...]``, y[-1] = ``start`` (None is zero); no gradient.

    >>> leaky_scan(torch.ones(3, 1), None, 0.5).flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    y = _like(x)
    if start is None:
        y[0] = x[0]
    else:
        torch.add(x[0], start, alpha=decay, out=y[0])
    for t in range(1, len(x)):
        torch.add(x[t], y[t - 1], alpha=decay, out=y[t])
    return y


def reverse_scan(x: Tensor, decay: float) -> Tensor:
    """y[t] = decay * y[t+1] + x[t] over ``x`` ``[K, ...]``: memory seen from the other end of the chunk.

    >>> reverse_scan(torch.ones(3, 1), 0.5).flatten().tolist()
    [1.75, 1.5, 1.0]
    """
    y = _like(x)
    y[-1] = x[-1]
    for t in reversed(range(len(x) - 1)):
        torch.add(x[t], y[t + 1], alpha=decay, out=y[t])
    return y


def leaky_sum(x: Tensor, start: Tensor | None, decay: float) -> Tensor:
    """The last step of `leaky_scan`, without those before it.

    >>> leaky_sum(torch.ones(3, 1), None, 0.5).tolist()
    [1.75]
    """
    y = x[0].clone() if start is None else torch.add(x[0], start, alpha=decay)
    for x_t in x[1:]:
        y = torch.add(x_t, y, alpha=decay)
    return y


def weighted_sum(x: Tensor, weights: list[float]) -> Tensor:
    """sum_t weights[t] x[t], one pass over ``x`` ``[K, ...]``."""
    scale = x.new_tensor(weights)
    if fills(x[0]) and x.stride(0) == x[0].numel():
        flat = x.as_strided((len(x), x.stride(0)), (x.stride(0), 1))
        total = flat.sum(0) if set(weights) == {1.0} else scale @ flat
        return total.as_strided(x.shape[1:], x.stride()[1:])
    return torch.tensordot(scale, x, 1)


def seen(frame: Tensor, steps: int) -> Tensor:
    """``frame`` ``[B, ...]`` seen ``steps`` times without a copy: the stride over time is 0, for one step too.

    >>> seen(torch.zeros(2, 3), 1).stride()
    (0, 3, 1)
    """
    return frame.as_strided((steps, *frame.shape), (0, *frame.stride()), frame.storage_offset())


def shift(x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` ``[K, ...]`` delayed by ``len(past)`` steps: the delayed chunk, and what waits for the next one."""
    line = torch.cat([past, x])
    return line[: len(x)], line[len(x) :].clone()


def _like(x: Tensor) -> Tensor:
    """An empty chunk with steps laid out as those of ``x``."""
    if not fills(x[0]):
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return torch.empty_strided(x.shape, (x[0].numel(), *x[0].stride()), dtype=x.dtype, device=x.device)
