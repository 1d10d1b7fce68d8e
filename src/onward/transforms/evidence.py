"""What a mini-batch tells about the inputs of a synapse: rows x, or their second moment S = sum x x^T.

A convolution's rows are its patches. A frame that stands still is looked at once and counted as often as it is seen;
so is its trace, a[t] = c[t] x + e[t] b, whose steps lie in the plane of x and b.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import reduce

import torch
from torch import Tensor, nn

from onward.core.products import deposit, still
from onward.core.signal import dense
from onward.core.trace import Trace, ones_trace
from onward.kernels.dense import outer
from onward.kernels.rows import SparseRows

PIECE = 1 << 23
"""Numbers of patches that are unfolded at a time."""

_PRODUCT = nn.Linear(1, 1, bias=False)
"""Tells the engine which product x x^T of spikes is."""

Patches = Callable[[Tensor], Tensor]
"""Rows ``[R, P, n]`` of inputs ``[R, ...]``."""


class Evidence(ABC):
    """Gathers inputs of width n; ``count`` is the number of rows, as a tensor so that processes can add theirs up."""

    def __init__(self, width: int, patches: Patches, like: Tensor):
        self.width, self.patches = width, patches
        self.count = like.new_zeros(())

    def see(self, x: Tensor | SparseRows) -> None:
        """Inputs ``[K, B, ...]`` of some steps."""
        if isinstance(x, Tensor) and still(x):
            return self.add(x[0], float(len(x)))
        return self.add(dense(x).flatten(0, 1))

    def trace(self, pre: Trace) -> None:
        """The traces ``[K, B, ...]`` of some steps."""
        self.see(pre.dense())

    @abstractmethod
    def add(self, x: Tensor, times: float = 1.0) -> None:
        """Inputs ``[R, ...]``, each of which counts ``times``."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """What processes add up, in place."""

    @abstractmethod
    def seen_by(self, rows: Tensor) -> Tensor:
        """rows E[x x^T], for lateral ``rows`` ``[k, n]``."""

    @abstractmethod
    def energy(self) -> Tensor:
        """E |x|^2."""


class Moment(Evidence):
    """The second moment; up to ``most`` rows are kept in its place, where that is cheaper."""

    def __init__(self, width: int, patches: Patches, like: Tensor, most: float = 0.0):
        super().__init__(width, patches, like)
        self._like, self._most, self._rows, self._sum = like, most, list[Tensor](), None

    @property
    def sum(self) -> Tensor:
        """S ``[n, n]``; rows that were kept are folded into it."""
        if self._sum is None:
            self._sum = self._like.new_zeros(self.width, self.width)
            for rows in self._rows:
                self._fold(rows)
            self._rows = []
        return self._sum

    def see(self, x: Tensor | SparseRows) -> None:
        """See `Evidence.see`; spikes are multiplied without their zeros where that is faster."""
        if not isinstance(x, SparseRows) or x.places != 1 or x.dim() != 3 or self._keeps(x.shape[0] * x.shape[1]):
            return super().see(x)
        self.count += x.shape[0] * x.shape[1]
        into = {"weight": self.sum}
        return deposit(_PRODUCT, into, x, x.dense().to(self._like.dtype), into)

    def trace(self, pre: Trace) -> None:
        """See `Evidence.trace`; that of a still frame as two rows with the same second moment."""
        x, steps = pre.x, len(pre.x)
        if not isinstance(x, Tensor) or x.stride(0) != 0 or steps < 2:
            return super().trace(pre)
        c = torch.tensor(ones_trace(0, steps, pre.decay), dtype=torch.float64)
        e = torch.tensor([pre.decay ** (t + 1) for t in range(steps)], dtype=torch.float64)
        mixed, old = float(c @ e / c.norm()), x.new_zeros(()) if pre.before is None else pre.before
        self.add(x[0] * float(c.norm()) + old * mixed)
        if pre.before is not None:
            self.add(old * max(0.0, float(e @ e) - mixed**2) ** 0.5)
        self.count += (steps - (1 if pre.before is None else 2)) * self._images(x[0])
        return None

    def add(self, x: Tensor, times: float = 1.0) -> None:
        """See `Evidence.add`."""
        scaled = x if times == 1 else x * times**0.5
        piece = max(1, PIECE // max(1, self.patches(scaled[:1]).numel()))
        for part in scaled.split(piece):
            self._add(self.patches(part).flatten(0, 1).to(self._like.dtype))
        self.count += times * self._images(x)

    def tensors(self) -> list[Tensor]:
        """See `Evidence.tensors`."""
        return [self.count, self.sum]

    def seen_by(self, rows: Tensor) -> Tensor:
        """See `Evidence.seen_by`."""
        if self._sum is not None:
            return rows @ self._sum / self.count
        return _added((rows @ x.T) @ x for x in self._rows) / self.count

    def energy(self) -> Tensor:
        """See `Evidence.energy`."""
        if self._sum is not None:
            return self._sum.trace() / self.count
        return _added(x.square().sum() for x in self._rows) / self.count

    def _images(self, x: Tensor) -> int:
        """Rows that inputs come to."""
        return len(x) * self.patches(x[:1]).shape[1]

    def _add(self, rows: Tensor) -> None:
        if self._keeps(len(rows)):
            self._rows.append(rows.clone())  # whose memory may be a chunk's
        else:
            self._fold(rows)

    def _keeps(self, more: int) -> bool:
        return self._sum is None and sum(map(len, self._rows)) + more <= self._most

    def _fold(self, rows: Tensor) -> None:
        outer(rows, rows, self.sum, self._like.dtype)


class Samples(Evidence):
    """The rows themselves, for who asks each of them: memory O(rows)."""

    def __init__(self, width: int, patches: Patches, like: Tensor):
        super().__init__(width, patches, like)
        self._like = like
        self.rows: list[tuple[Tensor, float]] = []

    def add(self, x: Tensor, times: float = 1.0) -> None:
        """See `Evidence.add`."""
        rows = self.patches(x).flatten(0, 1).to(self._like.dtype, copy=True)
        self.rows.append((rows, times))
        self.count += times * len(rows)

    def tensors(self) -> list[Tensor]:
        """See `Evidence.tensors`; samples stay with their process."""
        return [self.count]

    def seen_by(self, rows: Tensor) -> Tensor:
        """See `Evidence.seen_by`."""
        return _added((rows @ x.T) @ x * times for x, times in self.rows) / self.count

    def energy(self) -> Tensor:
        """See `Evidence.energy`."""
        return _added(x.square().sum() * times for x, times in self.rows) / self.count


def _added(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)
