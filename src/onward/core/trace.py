"""Eligibility traces: a[t] = decay * a[t-1] + x[t], the current input included."""

from __future__ import annotations

from torch import Tensor

from onward.core.signal import Carry
from onward.kernels.scan import leaky_scan


def trace(x: Tensor, decay: float, carry: Carry, owner: str) -> Tensor:
    """The trace of ``x`` ``[K, B, ...]`` at every step of the chunk; what follows it waits in the carry.

    A decay of 0 is the input itself and costs nothing.
    """
    if decay == 0:
        return x
    values = leaky_scan(x, carry.traces.get(owner), decay)
    carry.traces[owner] = values[-1].clone()  # a view would keep the whole chunk alive
    return values


def ones_trace(start: int, stop: int, decay: float) -> list[float]:
    """The trace of a constant 1 at steps ``start`` to ``stop - 1``: (1 - decay^(t+1)) / (1 - decay).

    >>> ones_trace(0, 3, 0.5)
    [1.0, 1.5, 1.75]
    """
    if decay == 1:
        return [float(t + 1) for t in range(start, stop)]
    return [(1 - decay ** (t + 1)) / (1 - decay) for t in range(start, stop)]
