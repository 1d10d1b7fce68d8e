"""What a run counts. All of it is in every checkpoint, so that a resumed run counts on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from onward._tensors import CheckpointError
from onward.core.group import Group
from onward.train.score import Score

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass
class Pace:
    """Samples learned from, and the seconds that loading, learning and updating took."""

    samples: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Throughput; 0 before the first mini-batch."""
        return self.samples / self.seconds if self.seconds else 0.0


@dataclass
class Sums:
    """An epoch so far; ``skipped`` counts the mini-batches that were left out."""

    loss: float = 0.0
    correct: int = 0
    samples: int = 0
    skipped: int = 0
    pace: Pace = field(default_factory=Pace)
    rates: dict[str, float] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Counts what another process has learned from, too."""
        self.loss += other.loss
        self.correct += other.correct
        self.samples += other.samples

    @property
    def means(self) -> tuple[float, float, float]:
        """Loss, accuracy in percent, samples per second; 0 where nothing was learned from."""
        seen = max(1, self.samples)
        return self.loss / seen, 100 * self.correct / seen, self.pace.per_second


@dataclass
class Progress:
    """Where a run is; ``updates`` counts mini-batches, ``best_updates`` is where the best checkpoint was written,
    ``logged`` counts lines of metrics, ``seconds`` is time spent by earlier processes. ``lesson`` is the part of a
    stream at hand, whose epochs are counted from 0."""

    lesson: int = 0
    epoch: int = 0
    batch: int = 0
    updates: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    best_updates: int | None = None
    stale: int = 0
    logged: int = 0
    seconds: float = 0.0


@dataclass
class Own:
    """What each process counts for itself.

    ``ways`` are the measured choices of kernels that it made: with others, sums round differently.
    """

    epoch: Sums = field(default_factory=Sums)
    ways: dict[str, str] = field(default_factory=dict)


@dataclass
class Fitted:
    """How training went; ``score`` is the last one taken, after ``scored_epoch``; ``peak_bytes`` see `meter`.

    ``matrix`` has a row for every lesson that was learned, and one before them: percent of each task that are right.
    ``leaks`` has, for every lesson, how much it changed the drives of earlier tasks, by synapse.

    ``full_precision`` says that products are computed in float32, whatever the configuration says. ``ranks`` holds
    what each process counts, by rank.
    """

    __pydantic_config__ = _STRICT

    progress: Progress = field(default_factory=Progress)
    score: Score | None = None
    scored_epoch: int = 0
    interrupted: bool = False
    peak_bytes: int = 0
    pace: Pace = field(default_factory=Pace)
    full_precision: bool = False
    matrix: list[list[float]] = field(default_factory=list)
    leaks: list[dict[str, float]] = field(default_factory=list)
    ranks: list[Own] = field(default_factory=lambda: [Own()])

    def own(self, group: Group) -> Own:
        """This process's part.

        Where there are more processes than before, the new ones start from nothing; what processes that are gone
        have counted goes to the first one.
        """
        self.ranks += [Own() for _ in range(group.size - len(self.ranks))]
        for gone in self.ranks[group.size :]:
            self.ranks[0].epoch.add(gone.epoch)
        del self.ranks[group.size :]
        return self.ranks[group.rank]

    def collect(self, group: Group) -> None:
        """Brings what every process counts here."""
        own = self.own(group)
        texts = group.gather(json.dumps(asdict(own)))
        self.ranks = [own if rank == group.rank else _OWN.validate_json(text) for rank, text in enumerate(texts)]

    def whole(self, group: Group) -> Sums:
        """The epoch over all processes; rates are those of all since they were looked at."""
        mine = self.own(group).epoch
        sums = torch.tensor([mine.loss, mine.correct, mine.samples], dtype=torch.float64)
        group.sum_([sums])
        loss, correct, samples = sums.tolist()
        return Sums(loss, int(correct), int(samples), mine.skipped, mine.pace, mine.rates, mine.active)

    def to_json(self) -> dict[str, Any]:
        """As plain values; `from_json` is the way back, exact for every float."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fitted:
        """Raises `CheckpointError` for anything that `to_json` did not write."""
        try:
            return _FITTED.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"the counters of a checkpoint are unusable ({place}: {first['msg']}); it is damaged, or of another "
                "version of Onward"
            ) from None


_OWN, _FITTED = TypeAdapter(Own), TypeAdapter(Fitted)
