"""Running averages of what a sequence shows: the memory of feedback that is estimated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from onward.core.signal import Carry
from onward.core.sink import Use


class Averages:
    """Averages A of what every step shows, a[t], with momentum ``rho`` a step; they move once a sequence.

        A <- rho^T A + (1 - rho) sum_t rho^(T - t) a[t]

    They are buffers of ``owner``. Until they move, chunks add to sums in the carry: chunks change no number.
    """

    def __init__(self, owner: nn.Module, rho: float):
        self.owner, self.rho = owner, rho
        self._names: list[str] = []

    def clear(self) -> None:
        """Keeps nothing any more."""
        self._names = []

    def keep(self, name: str, start: Tensor) -> None:
        """One more average, under ``name``."""
        self.owner.register_buffer(name, start)
        self._names.append(name)

    @property
    def nbytes(self) -> int:
        """What they hold."""
        return sum(self[name].nbytes for name in self._names)

    def __getitem__(self, name: str) -> Tensor:
        return self.owner.get_buffer(name)

    def aged(self, x: Tensor) -> Tensor:
        """rho^(K - 1 - k) x[k] of a chunk ``[K, ...]``."""
        ages = torch.arange(len(x) - 1, -1, -1, device=x.device, dtype=torch.float64)
        return x * (self.rho**ages).to(x).view(-1, *[1] * (x.dim() - 1))

    def count(self, carry: Carry, steps: int) -> None:
        """Notes that a chunk of ``steps`` was seen."""
        seen = carry.sums.get(self._steps, torch.zeros((), dtype=torch.int64))
        carry.sums[self._steps] = seen + steps

    def gather(self, carry: Carry, name: str, amount: Tensor, steps: int) -> None:
        """Adds what a chunk of ``steps`` showed, the sum of its aged a[t], in the average's own precision."""
        held, amount = carry.sums.get(name), amount.to(self[name].dtype)
        carry.sums[name] = amount if held is None else held * self.rho**steps + amount

    def gathered(self, carry: Carry) -> list[Tensor]:
        """The sums, for several processes to add up at once."""
        return [carry.sums[name] for name in self._names]

    def absorb(self, carry: Carry, total: Callable[[Tensor, Use], object]) -> int:
        """Moves averages towards their sums; ``total`` brings the sum over all processes. Returns the steps seen.

        An average of which the sequence showed nothing stays.
        """
        if self._steps not in carry.sums:
            return 0
        steps = int(carry.sums.pop(self._steps))
        for name in (name for name in self._names if name in carry.sums):
            total(carry.sums.pop(name), partial(self._move, name, steps))
        return steps

    @property
    def _steps(self) -> str:
        return f"steps of {type(self.owner).__name__}"

    def _move(self, name: str, steps: int, amount: Tensor) -> None:
        self[name].mul_(self.rho**steps).add_(amount.to(self[name]), alpha=1 - self.rho)
