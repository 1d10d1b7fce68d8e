"""Eligibility traces: a[t] = decay * a[t-1] + x[t], the current input included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from onward.core.signal import Carry, dense
from onward.kernels.rows import SparseRows
from onward.kernels.scan import leaky_scan, leaky_sum, reverse_scan, weighted_sum


@dataclass(frozen=True)
class Trace:
    """The trace of ``x`` ``[K, B, ...]`` over a chunk, ``before`` it ``[B, ...]`` (None is zero), kept as its parts.

    A deposit needs sum_t post[t] a[t]^T, and the memory may sit on either side of that product:

        sum_t post[t] a[t]^T = sum_s (sum_{t >= s} decay^(t-s) post[t]) x[s]^T + (sum_t decay^(t+1) post[t]) before^T
    """

    x: Tensor | SparseRows
    decay: float
    before: Tensor | None

    def dense(self) -> Tensor:
        """The trace at every step, ``[K, B, ...]``."""
        return leaky_scan(dense(self.x), self.before, self.decay)

    def last(self) -> Tensor:
        """The trace at the last step, ``[B, ...]``."""
        return leaky_sum(dense(self.x), self.before, self.decay)

    def terms(self, post: Postsynaptic) -> Iterator[tuple[Tensor | SparseRows, Postsynaptic]]:
        """Pairs whose outer products add up to the deposit; the memory sits where it costs less, and fills up zeros."""
        if isinstance(post, SparseRows):
            yield self.dense(), post
            return
        if isinstance(self.x, Tensor) and self.x.stride(0) != 0 and self.x.numel() < post.numel():
            yield self.dense(), post
            return
        if isinstance(self.x, Tensor) and self.x.stride(0) == 0:
            yield self.x[:1], weighted_sum(post, ones_trace(0, len(post), self.decay))[None]
            if self.before is not None:
                yield self.before[None], weighted_sum(post, [self.decay ** (t + 1) for t in range(len(post))])[None]
            return
        memory = reverse_scan(post, self.decay)
        yield self.x, memory
        if self.before is not None:
            yield self.before[None], self.decay * memory[:1]


Presynaptic = Tensor | SparseRows | Trace
"""What a deposit may take as its presynaptic factor."""
Postsynaptic = Tensor | SparseRows
"""What it may take as its postsynaptic factor: ``[K, B, ...]``, or what is not exactly zero of it."""


def trace(
    x: Tensor | SparseRows, decay: float, carry: Carry, owner: str, more: bool = True
) -> Tensor | SparseRows | Trace:
    """The trace of the chunk ``x``; what follows it waits in the carry, unless no ``more`` chunks follow.

    A decay of 0 is the input itself and costs nothing.
    """
    if decay == 0:
        return x
    found = Trace(x, decay, carry.traces.get(owner))
    if more:
        carry.traces[owner] = found.last()
    return found


def ones_trace(start: int, stop: int, decay: float) -> list[float]:
    """The trace of a constant 1 at steps ``start`` to ``stop - 1``: (1 - decay^(t+1)) / (1 - decay).

    >>> ones_trace(0, 3, 0.5)
    [1.0, 1.5, 1.75]
    """
    if decay == 1:
        return [float(t + 1) for t in range(start, stop)]
    return [(1 - decay ** (t + 1)) / (1 - decay) for t in range(start, stop)]
