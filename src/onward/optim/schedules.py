"""Learning-rate schedules: pure functions of the update's number, so that nothing needs to be stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, pi
from typing import Any

from pydantic import Field

from onward.core.registry import Choice, Registry


class Schedule(ABC):
    """The factor on the learning rate at each update of a run."""

    @abstractmethod
    def factor(self, update: int, total: int) -> float:
        """The factor at ``update`` (counted from 0) of ``total``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """1 throughout."""

    def factor(self, update: int, total: int) -> float:
        """See `Schedule.factor`."""
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """floor + (1 - floor) (1 + cos(pi k / K)) / 2 at update k of K (Loshchilov & Hutter 2017, no restarts).

    >>> [round(Cosine().factor(k, 4), 2) for k in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    """

    floor: float = 0.0

    def factor(self, update: int, total: int) -> float:
        """See `Schedule.factor`."""
        return self.floor + (1 - self.floor) * (1 + cos(pi * min(update / total, 1))) / 2


@dataclass(frozen=True)
class Steps(Schedule):
    """gamma^n once n of the ``drops``, given as fractions of the run, have passed.

    >>> [round(Steps().factor(k, 4), 4) for k in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    drops: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def factor(self, update: int, total: int) -> float:
        """See `Schedule.factor`."""
        return self.gamma ** sum(update >= drop * total for drop in self.drops)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A linear rise over the first ``fraction`` of the run, then ``then`` over what is left of it.

    >>> [round(WarmUp(0.5, Constant()).factor(k, 4), 2) for k in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """

    fraction: float
    then: Schedule

    def factor(self, update: int, total: int) -> float:
        """See `Schedule.factor`."""
        rise = round(self.fraction * total)
        return (update + 1) / rise if update < rise else self.then.factor(update - rise, max(total - rise, 1))


class ScheduleOptions(Choice):
    """Options shared by all schedules."""

    warmup: float = Field(0.0, ge=0, lt=1, description="fraction of the run over which the rate first rises from 0")


class CosineOptions(ScheduleOptions):
    """Options of the cosine schedule."""

    floor: float = Field(0.0, ge=0, le=1, description="factor at the end of the run")


class StepOptions(ScheduleOptions):
    """Options of the step schedule."""

    drops: tuple[float, ...] = Field((0.5, 0.75), description="when to drop, as fractions of the run")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of one drop")


def _warmed(choice: Any, schedule: Schedule) -> Schedule:
    return WarmUp(choice.warmup, schedule) if choice.warmup else schedule


schedules: Registry[Schedule] = Registry("schedule")
schedules.register("constant", ScheduleOptions, lambda c: _warmed(c, Constant()), "the same rate throughout")
schedules.register(
    "cosine",
    CosineOptions,
    lambda c: _warmed(c, Cosine(c.floor)),
    "half a cosine from the full rate to the floor",
)
schedules.register(
    "step",
    StepOptions,
    lambda c: _warmed(c, Steps(c.drops, c.gamma)),
    "the rate drops by a factor at given points",
)
