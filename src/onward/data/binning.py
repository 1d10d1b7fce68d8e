"""From events in microseconds to sparse rows in time steps.

Two decisions, each an object: which time step an event falls into (`Binning`), and what several events of one pixel in
one step are worth (`Reading`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
import torch
from torch import Tensor

from onward.core.errors import ConfigError, DataError
from onward.core.sequence import Events
from onward.data.cache import Arrays
from onward.data.dataset import Batch, Dataset, digest
from onward.data.recordings import Recordings

MOST_ROWS = 2**28
"""Time steps of all recordings together; their starts take 8 bytes each. N-MNIST has 18 million at a millisecond."""

_CHUNK = 256  # recordings packed at once: bounds the dense scratch memory
_DENSE = 2**27  # cells of scratch memory; for more, the events are sorted, which takes memory for them alone


class Binning(ABC):
    """Assigns events to time steps."""

    @abstractmethod
    def steps(self, t: np.ndarray, duration: np.ndarray, steps: int) -> np.ndarray:
        """Time step of each event, from its time and its recording's duration, both ``[E]`` int64 microseconds.

        Steps of ``steps`` or more mean that the event is left out.
        """

    @abstractmethod
    def natural_steps(self, longest: int) -> int | None:
        """How many steps hold a recording of ``longest`` microseconds, or None where any number does."""


@dataclass(frozen=True)
class ByDuration(Binning):
    """Equal parts of each recording: step = floor(t * steps / duration), duration = last event's t + 1."""

    def steps(self, t: np.ndarray, duration: np.ndarray, steps: int) -> np.ndarray:
        """See `Binning.steps`."""
        return t * steps // duration

    def natural_steps(self, longest: int) -> int | None:
        """See `Binning.natural_steps`."""
        return None


@dataclass(frozen=True)
class FixedWidth(Binning):
    """Steps of ``microseconds`` each: step = floor(t / microseconds); events after the last step are left out."""

    microseconds: int

    def __post_init__(self) -> None:
        if self.microseconds < 1:
            raise ConfigError(f"time steps of {self.microseconds} microseconds were given; at least 1 is needed")

    def steps(self, t: np.ndarray, duration: np.ndarray, steps: int) -> np.ndarray:
        """See `Binning.steps`."""
        return t // self.microseconds

    def natural_steps(self, longest: int) -> int | None:
        """See `Binning.natural_steps`."""
        return ceil(longest / self.microseconds)


class Reading(ABC):
    """What the events of one pixel and polarity in one step are worth."""

    @abstractmethod
    def collect(self, cells: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Distinct ``cells`` (each below ``size``) in ascending order, and their values (None: all 1)."""


@dataclass(frozen=True)
class Binary(Reading):
    """1 where there is any event."""

    def collect(self, cells: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Reading.collect`; O(events + size) by marking, or by sorting where that takes too much memory."""
        if size > _DENSE:
            return np.unique(cells), None
        marked = np.zeros(size, bool)
        marked[cells] = True
        return np.flatnonzero(marked), None


@dataclass(frozen=True)
class Counts(Reading):
    """The number of events."""

    def collect(self, cells: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Reading.collect`; O(events + size) by counting, or by sorting where that takes too much memory."""
        if size > _DENSE:
            active, counts = np.unique(cells, return_counts=True)
            return active, counts.astype(np.float32)
        counts = np.bincount(cells, minlength=size)
        active = np.flatnonzero(counts)
        return active, counts[active].astype(np.float32)


@dataclass(frozen=True)
class Packed:
    """Binned recordings: 2 bytes an active cell (6 with counts).

    ``indices`` ``[nnz]`` holds the active features of row ``i * steps + t`` (recording i, step t) at
    ``rows[row]:rows[row + 1]``, ascending; ``rows`` is ``[N * steps + 1]`` int64; ``values`` ``[nnz]`` or None.
    """

    indices: np.ndarray
    rows: np.ndarray
    values: np.ndarray | None
    steps: int

    @classmethod
    def of(cls, arrays: Arrays, steps: int) -> Packed:
        """From what `arrays` gave."""
        return cls(arrays["indices"], arrays["rows"], arrays.get("values"), steps)

    def arrays(self) -> Arrays:
        """As they are kept in the cache."""
        arrays = {"indices": self.indices, "rows": self.rows}
        return arrays if self.values is None else {**arrays, "values": self.values}

    def events(self, ids: np.ndarray, features: tuple[int, ...]) -> Events:
        """The recordings ``ids`` as a batch of sparse rows ordered by step, then sample."""
        row = (ids * self.steps + np.arange(self.steps)[:, None]).ravel()
        starts, sizes = self.rows[row], self.rows[row + 1] - self.rows[row]
        offsets = np.zeros(len(row) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        place = np.repeat(starts - offsets[:-1], sizes)
        place += np.arange(len(place))
        indices = torch.from_numpy(self.indices[place].astype(np.int64))
        values = None if self.values is None else torch.from_numpy(self.values[place])
        return Events(indices, torch.from_numpy(offsets), self.steps, len(ids), features, values)


def pack(recordings: Recordings, binning: Binning, reading: Reading, steps: int) -> Packed:
    """Bins every recording into ``steps`` time steps: O(events + N * steps * features) time, done once.

    Raises `DataError` for more than 2^28 time steps in all.
    """
    count = len(recordings)
    if count * steps > MOST_ROWS:
        raise DataError(
            f"{count:,} recordings of {steps:,} time steps each were asked for, {MOST_ROWS:,} in all at most; "
            "choose wider ones with --data.bin-us, or fewer with --train.steps"
        )
    parts = [
        _pack_chunk(recordings, start, min(start + _CHUNK, count), binning, reading, steps)
        for start in range(0, count, _CHUNK)
    ]
    return concatenate(parts)


def concatenate(parts: list[Packed]) -> Packed:
    """Packed recordings one after the other."""
    starts = np.cumsum([0, *(len(part.indices) for part in parts)])
    rows = [part.rows[:-1] + start for part, start in zip(parts, starts, strict=False)]
    values = [part.values for part in parts if part.values is not None]
    return Packed(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([*rows, starts[-1:]]),
        np.concatenate(values) if values else None,
        parts[0].steps,
    )


def _pack_chunk(
    recordings: Recordings, start: int, stop: int, binning: Binning, reading: Reading, steps: int
) -> Packed:
    offsets = recordings.offsets[start : stop + 1]
    events = slice(int(offsets[0]), int(offsets[-1]))
    sizes, size = np.diff(offsets), int(np.prod(recordings.features))
    duration = np.repeat(recordings.durations()[start:stop], sizes)
    step = binning.steps(recordings.t[events].astype(np.int64), duration, steps)
    row = np.repeat(np.arange(stop - start) * steps, sizes) + step
    cells = (row * size + recordings.address[events])[step < steps]
    active, values = reading.collect(cells, (stop - start) * steps * size)
    rows = np.searchsorted(active, np.arange((stop - start) * steps + 1) * size)
    return Packed((active % size).astype(recordings.address.dtype), rows, values, steps)


class EventDataset(Dataset):
    """Recordings as sparse rows; ``packed(steps)`` is asked once for each number of steps in turn."""

    def __init__(
        self,
        name: str,
        y: Tensor,
        classes: int,
        features: tuple[int, ...],
        packed: Callable[[int], Packed],
        steps: int | None = None,
    ):
        self.name, self.y, self.classes, self.features, self.steps = name, y, classes, features, steps
        self._packed = packed
        self._last: Packed | None = None

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`; the first call with another number of steps bins every recording."""
        return Batch(self._binned(steps).events(ids.numpy(), self.features), self.y[ids], ids)

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self.y

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`."""
        packed = self._binned(steps)
        return digest(packed.indices, packed.rows, *([] if packed.values is None else [packed.values]), self.y)

    def _binned(self, steps: int) -> Packed:
        if self._last is None or self._last.steps != steps:
            self._last = self._packed(steps)
        return self._last


def event_dataset(
    recordings: Recordings, binning: Binning, reading: Reading, *, name: str = "events", classes: int | None = None
) -> EventDataset:
    """Recordings, binned on the first batch, as a data set; ``classes``: one more than the largest label."""
    return EventDataset(
        name,
        torch.from_numpy(recordings.label),
        classes or int(recordings.label.max()) + 1,
        recordings.features,
        partial(pack, recordings, binning, reading),
        binning.natural_steps(int(recordings.durations().max())),
    )
