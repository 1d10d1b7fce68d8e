"""Processes that share every mini-batch: each learns from a part of it, and sums are taken over all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Group(ABC):
    """``size`` processes, of which this one is number ``rank``."""

    rank: int
    size: int

    @abstractmethod
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes; all must call it with tensors of the same shapes."""

    @abstractmethod
    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by that of the first process."""

    @abstractmethod
    def gather(self, text: str) -> list[str]:
        """The texts of all processes, in the order of ranks."""

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in some process."""
        if self.size == 1:
            return flag
        told = torch.tensor([float(flag)])
        self.sum_([told])
        return bool(told > 0)

    def part(self, total: int) -> slice:
        """This process's share of ``total`` rows: contiguous, in the order of ranks, sizes differing by one at most.

        >>> ALONE.part(10)
        slice(0, 10, None)
        """
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)


class Alone(Group):
    """One process: nothing to add up, nothing to pay."""

    rank, size = 0, 1

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.sum_`."""

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.copy_`."""

    def gather(self, text: str) -> list[str]:
        """See `Group.gather`."""
        return [text]


ALONE = Alone()


@dataclass(frozen=True)
class Share:
    """This process's part of a mini-batch of ``samples``: those from number ``first`` on.

    ``norms`` are the processes over which normalisation layers take their statistics: this one, or all of ``group``.
    """

    samples: int
    first: int = 0
    group: Group = ALONE
    norms: Group = ALONE
