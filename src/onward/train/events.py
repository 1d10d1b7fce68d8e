"""What training tells: every event goes to the one read-only callback ``on_event(event)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onward.train.score import Score


@dataclass(frozen=True)
class Event:
    """Something that happened; watchers read it and change nothing."""


@dataclass(frozen=True)
class Started(Event):
    """Training begins: ``epochs`` of ``batches`` mini-batches each, over ``parameters`` trained numbers.

    ``done`` mini-batches were learned before, by a process that this one continues.
    """

    title: str
    epochs: int
    batches: int
    parameters: int
    folder: Path | None
    done: int = 0


@dataclass(frozen=True)
class BatchDone(Event):
    """A mini-batch was learned. ``loss`` and ``accuracy`` (percent) are means over the epoch so far;
    ``rates`` are spikes per neuron and step, by layer, as last looked at."""

    epoch: int
    batch: int
    loss: float
    accuracy: float
    samples_per_second: float
    lr: float
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochDone(Event):
    """An epoch ended; ``score`` is on ``judged_on`` ("validation" or "test"), None where none was due.

    ``skipped`` counts mini-batches that were left out; ``alarms`` name layers that are silent or saturated; ``active``
    is the share of slopes that were not zero, by layer, as last looked at, for surrogates that count them. ``lesson``
    is the part of a stream at hand. ``flips`` is the share of binary weights whose sign changed, by synapse.
    ``observed`` is what `onward.train.observe` noted, where there is a run folder.
    """

    epoch: int
    loss: float
    accuracy: float
    samples_per_second: float
    rates: Mapping[str, float]
    active: Mapping[str, float]
    rule: Mapping[str, float]
    score: Score | None
    judged_on: str
    lesson: int = 0
    skipped: int = 0
    flips: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    observed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TasksTested(Event):
    """All tasks of a stream were tested after ``lesson`` (counted from 1; 0: before all): percent of each, by name.

    ``leakage`` is how much the lesson changed the drives of earlier tasks, by synapse.
    """

    lesson: int
    accuracies: Mapping[str, float]
    leakage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Warned(Event):
    """Something that a person should know, in plain words."""

    text: str


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint was written."""

    path: Path


@dataclass(frozen=True)
class Ended(Event):
    """Training ended before its last epoch; ``reason`` says why."""

    reason: str


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback that does nothing."""
