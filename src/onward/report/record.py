"""What a run left behind, read with care: a page may be made of a folder that anybody handed over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from onward._tensors import CheckpointError
from onward.train.config import RunConfig
from onward.train.folder import CONFUSION, DATA, DONE, ENV, METRICS, SAMPLES, Interface, RunFolder

T = TypeVar("T")
Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Finite | None
"""None stands for NaN and infinity, which JSON lacks."""


def _expect(found: bool, what: str) -> None:
    if not found:
        raise ValueError(f"expected {what}")


@dataclass(frozen=True)
class Layer:
    """See `onward.train.observe.Membranes.noted`."""

    rate: Number
    dead: Number
    saturated: Number
    level: Number
    low: Number
    high: Number
    counts: list[int]
    slopes: list[Number]

    def __post_init__(self) -> None:
        _expect(len(self.counts) == len(self.slopes) > 0, "a slope for every bin")


@dataclass(frozen=True)
class Credit:
    """See `onward.train.alignment.compared`."""

    draws: int
    gradients: dict[str, dict[str, dict[str, Number]]]
    feedback: dict[str, Number]
    missing: dict[str, str]
    seconds: Finite


@dataclass(frozen=True)
class Observed:
    """See `onward.train.observe.Observer`."""

    samples: int = 0
    layers: dict[str, Layer] = field(default_factory=dict)
    credit: Credit | None = None


@dataclass(frozen=True)
class Judged:
    """See `onward.train.score.Score`."""

    accuracy: Number
    loss: Number
    samples: int
    seconds: Number
    rates: dict[str, Number]


@dataclass(frozen=True)
class Epoch:
    """See `onward.train.events.EpochDone`."""

    epoch: int
    loss: Number
    accuracy: Number
    samples_per_second: Number
    rates: dict[str, Number]
    score: Judged | None
    judged_on: str
    rule: dict[str, Number] = field(default_factory=dict)
    active: dict[str, Number] = field(default_factory=dict)
    flips: dict[str, Number] = field(default_factory=dict)
    lesson: int = 0
    skipped: int = 0
    alarms: list[str] = field(default_factory=list)
    observed: Observed = field(default_factory=Observed)


@dataclass(frozen=True)
class Kept:
    """See `onward.train.lessons.Retention`."""

    tasks: list[str]
    matrix: list[list[Number]]
    accuracy: Number
    backward: Number
    forward: Number


@dataclass(frozen=True)
class Consumed:
    """See `onward.energy.Energy.brief`."""

    technology: str
    samples: int
    spikes: Finite
    synaptic_operations: Finite
    multiplications: Finite
    nanojoules: Finite
    without_spikes_nanojoules: Finite


@dataclass(frozen=True)
class Result:
    """See `onward.train.launch.Summary`."""

    test_accuracy: Number
    test_loss: Number
    samples_per_second: Finite
    peak_bytes: int
    parameters: int
    epochs: int
    reported: str
    seconds: Finite
    fingerprint: str = ""
    stream: Kept | None = None
    energy: Consumed | None = None


@dataclass(frozen=True)
class Confused:
    """See `onward.train.fit.tested`."""

    epoch: int
    lesson: int
    on: str
    counts: list[list[int]]

    def __post_init__(self) -> None:
        _expect(all(len(row) == len(self.counts) for row in self.counts), "a square table")


@dataclass(frozen=True)
class ShownLayer:
    """See `onward.train.samples.shown`."""

    name: str
    of: int
    neurons: list[int]
    spikes: list[list[int]]
    rate: Number
    level: Number
    traced: list[int]
    potentials: list[list[Finite]]

    def __post_init__(self) -> None:
        _expect(len(self.traced) == len(self.potentials), "a trace for every traced neuron")
        _expect(all(0 <= k < len(self.spikes) for k in self.traced), "spikes for every traced neuron")


@dataclass(frozen=True)
class Picture:
    """See `onward.train.samples.picture`."""

    kind: str
    channels: list[list[list[Finite]]]

    def __post_init__(self) -> None:
        rows = [row for channel in self.channels for row in channel]
        same = len({len(row) for row in rows}) == 1 == len({len(channel) for channel in self.channels})
        _expect(same and len(self.channels) <= 3 and len(rows[0]) > 0, "one to three channels of the same size")


@dataclass(frozen=True)
class Sample:
    """See `onward.train.samples.shown`."""

    why: str
    sample: int
    label: int
    predicted: int
    certainty: Number
    steps: int
    input: Picture
    layers: list[ShownLayer]
    outputs: list[list[Finite]]


@dataclass(frozen=True)
class Samples:
    """The content of ``samples.json``."""

    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """Everything that a page is made of; ``result``, ``confusion`` and ``samples`` are missing in unfinished runs."""

    name: str
    config: RunConfig
    interface: Interface
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    epochs: list[Epoch]
    result: Result | None
    confusion: Confused | None
    samples: list[Sample]


def read(folder: RunFolder) -> Record:
    """The record of a run; raises `CheckpointError` or `ConfigError` in one line for a damaged or foreign folder."""
    shown = _file(folder, SAMPLES, Samples)
    return Record(
        name=folder.path.resolve().name,
        config=folder.config(),
        interface=folder.interface(),
        environment=folder.record(ENV),
        data=folder.record(DATA),
        epochs=_epochs(folder.path / METRICS),
        result=_file(folder, DONE, Result),
        confusion=_file(folder, CONFUSION, Confused),
        samples=shown.samples if shown else [],
    )


def _file(folder: RunFolder, name: str, kind: type[T]) -> T | None:
    found = folder.record(name)
    return _checked(found, kind, folder.path / name) if found else None


def _epochs(path: Path) -> list[Epoch]:
    """The lines of the metrics; one that a killed process left half-written is passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        values = [json.loads(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: is damaged; expected one JSON object a line") from None
    return [_checked(value, Epoch, path) for value in values]


def _checked(value: Any, kind: type[T], path: Path) -> T:
    try:
        return TypeAdapter(kind).validate_python(value)
    except (ValidationError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "nested too deeply"}
        place = ".".join(map(str, first["loc"]))[:80]
        raise CheckpointError(f"{path}: does not hold what a run writes ({place}: {first['msg']})") from None
