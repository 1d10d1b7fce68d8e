"""How many rows a subspace gets, task by task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from onward.core.errors import ConfigError


class Growth(ABC):
    """Says how many rows the synapse in ``place`` (counted from 0) of ``width`` inputs gets for ``task``."""

    @abstractmethod
    def rows(self, task: int, place: int, width: int) -> int:
        """Rows for one task."""

    def plan(self, tasks: int, place: int, width: int) -> list[int]:
        """Rows for each task; together at most ``width``."""
        planned: list[int] = []
        for task in range(tasks):
            planned.append(min(self.rows(task, place, width), width - sum(planned)))
        return planned


@dataclass(frozen=True)
class Filled(Growth):
    """All tasks together take the share ``fill`` of a synapse's inputs, each the same number of rows."""

    fill: float
    tasks: int

    def rows(self, task: int, place: int, width: int) -> int:
        """See `Growth.rows`."""
        return max(1, int(self.fill * width / self.tasks))


@dataclass(frozen=True)
class Listed(Growth):
    """``initial`` rows for the first task, ``increment`` for every later one, ``decrement`` fewer from each task of
    ``drops`` on; numbers are given once for all synapses, or one a synapse.

    >>> Listed((80, 200, 100), (70,), 20, (3, 6, 9)).plan(10, 0, 784)
    [80, 70, 70, 50, 50, 50, 30, 30, 30, 10]
    """

    initial: tuple[int, ...]
    increment: tuple[int, ...]
    decrement: int = 0
    drops: tuple[int, ...] = ()

    def rows(self, task: int, place: int, width: int) -> int:
        """See `Growth.rows`."""
        if task == 0:
            return _of(self.initial, place)
        return max(0, _of(self.increment, place) - self.decrement * sum(task >= drop for drop in self.drops))


@dataclass(frozen=True)
class Tabled(Growth):
    """A list of numbers a task, as in `Listed`; the last list serves all later tasks."""

    table: tuple[tuple[int, ...], ...]

    def rows(self, task: int, place: int, width: int) -> int:
        """See `Growth.rows`."""
        return _of(self.table[min(task, len(self.table) - 1)], place)


def check_length(given: tuple[float, ...], count: int, what: str) -> None:
    """Raises `ConfigError` unless one number was given, or one for each of ``count`` synapses."""
    if len(given) not in (1, count):
        raise ConfigError(
            f"{len(given)} numbers were given for {what}, and {count} synapses are protected; give one for all of "
            "them, or one each in the order of the network"
        )


def _of(numbers: tuple[int, ...], place: int) -> int:
    return numbers[place if len(numbers) > 1 else 0]
