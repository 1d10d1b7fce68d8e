"""Recurrences over the time axis of a chunk, in plain torch: one pass a step, preallocated results."""

from __future__ import annotations

import torch
from torch import Tensor


def leaky_scan(x: Tensor, start: Tensor | None, decay: float) -> Tensor:
    """y[t] = decay * y[t-1] + x[t] over ``x`` ``[K, ...]``, y[-1] = ``start`` (None is zero); no gradient.

    >>> leaky_scan(torch.ones(3, 1), None, 0.5).flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if start is None:
        y[0] = x[0]
    else:
        torch.add(x[0], start, alpha=decay, out=y[0])
    for t in range(1, len(x)):
        torch.add(x[t], y[t - 1], alpha=decay, out=y[t])
    return y


def shift(x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` ``[K, ...]`` delayed by ``len(past)`` steps: the delayed chunk, and what waits for the next one."""
    line = torch.cat([past, x])
    return line[: len(x)], line[len(x) :].clone()
