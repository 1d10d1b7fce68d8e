"""Data sets of recordings in files, each read when it is needed: for all time steps once, or for every mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from onward.core.errors import DataError
from onward.data import aedat, binning, nmnist_files, recordings
from onward.data.aedat import Listed
from onward.data.binning import EventDataset, Packed, concatenate, pack
from onward.data.cache import Arrays, cache_key, cached, stamps
from onward.data.choices import BinningFields, RecordingFields
from onward.data.dataset import Dataset
from onward.data.event_changes import event_changes
from onward.data.recordings import Recording, Recordings, gathered, recording
from onward.data.unbinned import Unbinned, binning_of, reading_of

_CHUNK = 16  # recordings read at once: some of a gesture's length take 100 MB on the way
_SOURCES = [Path(__file__), *(Path(str(module.__file__)) for module in (aedat, binning, nmnist_files, recordings))]


class Trial(NamedTuple):
    """A recording in a file: its events from ``start`` up to ``stop`` microseconds; all of them where that is None."""

    path: Path
    label: int
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Filed:
    """Recordings of a sensor of ``height`` x ``width`` pixels that stay in their files, which ``read`` reads."""

    trials: Sequence[Trial]
    read: Callable[[Path], Listed]
    height: int
    width: int

    @property
    def features(self) -> tuple[int, int, int]:
        """See `Archive.features`."""
        return (2, self.height, self.width)

    @property
    def label(self) -> np.ndarray:
        """See `Archive.label`."""
        return np.array([trial.label for trial in self.trials], np.int64)

    def take(self, rows: np.ndarray) -> Recordings:
        """See `Archive.take`; a file that holds several recordings in a row is read once.

        Raises `DataError`, naming the file, as its reader does, for pixels beyond the sensor, and for a recording
        without events.
        """
        parts, path, listed = [], None, None
        for trial in (self.trials[row] for row in rows):
            if listed is None or trial.path != path:
                path, listed = trial.path, self.read(trial.path)
            parts.append(self._cut(trial, listed))
        label = np.array([self.trials[row].label for row in rows], np.int64)
        return gathered(parts, label, self.height, self.width)

    def _cut(self, trial: Trial, listed: Listed) -> Recording:
        x, y, p, t = listed
        if trial.stop is not None:
            x, y, p, t = (values[(t >= trial.start) & (t < trial.stop)] for values in listed)
            if not len(t):
                raise DataError(f"{trial.path}: has no event from {trial.start:,} to {trial.stop:,} microseconds")
        return recording(x, y, p, t - trial.start, self.height, self.width, trial.path)


def filed_train(filed: Filed, choice: RecordingFields, classes: int) -> Dataset:
    """Recordings in files to train on: see `filed_test`, or read for every mini-batch where the options change them."""
    if not event_changes(choice):
        return filed_test(filed, choice, classes)
    binning, reading = binning_of(choice), reading_of(choice)
    return Unbinned(choice.name, filed, binning, reading, classes, _natural_steps(filed, choice))


def filed_test(filed: Filed, choice: BinningFields, classes: int) -> Dataset:
    """Recordings in files, binned when first needed, and kept in the cache in that form."""
    packed = partial(_packed, filed, choice)
    labels, steps = torch.from_numpy(filed.label), _natural_steps(filed, choice)
    return EventDataset(choice.name, labels, classes, filed.features, packed, steps)


def _natural_steps(filed: Filed, choice: BinningFields) -> int | None:
    """Reads all files, once, where steps have a width of their own."""
    if choice.bin_us is None:
        return None
    found = cached(f"{choice.name}-{_key(filed, {})}", lambda: _durations(filed))
    return binning_of(choice).natural_steps(int(found["durations"].max()))


def _durations(filed: Filed) -> Arrays:
    return {"durations": np.concatenate([filed.take(rows).durations() for rows in _chunks(filed)])}


def _packed(filed: Filed, choice: BinningFields, steps: int) -> Packed:
    """The recordings binned into ``steps``, from the cache or made and put there."""
    options = {"bin_us": choice.bin_us, "counts": choice.counts, "steps": steps}
    arrays = cached(f"{choice.name}-{_key(filed, options)}", lambda: _made(filed, choice, steps))
    return Packed.of(arrays, steps)


def _made(filed: Filed, choice: BinningFields, steps: int) -> Arrays:
    binning, reading = binning_of(choice), reading_of(choice)
    return concatenate([pack(filed.take(rows), binning, reading, steps) for rows in _chunks(filed)]).arrays()


def _chunks(filed: Filed) -> list[np.ndarray]:
    rows = np.arange(len(filed.trials))
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]


def _key(filed: Filed, options: dict[str, object]) -> str:
    """Over the files, as far as can be told without reading them, and what becomes of them."""
    files = stamps(trial.path for trial in filed.trials)
    cuts = [[trial.start, trial.stop] for trial in filed.trials]
    return cache_key({**options, "files": files, "cuts": cuts}, _SOURCES)
