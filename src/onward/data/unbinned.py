"""Recordings as the options say: binned once, or mini-batch by mini-batch because they are changed before."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from onward.core.sequence import Events
from onward.data.binning import Binary, Binning, ByDuration, Counts, FixedWidth, Reading, event_dataset, pack
from onward.data.choices import BinningFields, RecordingFields
from onward.data.dataset import Batch, Dataset
from onward.data.event_changes import event_changes
from onward.data.raw import Raw
from onward.data.recordings import Archive, Recordings


def binning_of(choice: BinningFields) -> Binning:
    """The binning that the options name."""
    return ByDuration() if choice.bin_us is None else FixedWidth(choice.bin_us)


def reading_of(choice: BinningFields) -> Reading:
    """What several events of a pixel in one step are worth, as the options say."""
    return Counts() if choice.counts else Binary()


class Unbinned(Dataset):
    """Recordings that are binned mini-batch by mini-batch, so that they may be changed before."""

    def __init__(
        self, name: str, archive: Archive, binning: Binning, reading: Reading, classes: int, steps: int | None
    ):
        self.name, self.classes, self.features, self.steps = name, classes, archive.features, steps
        self._archive, self._binning, self._reading = archive, binning, reading
        self._labels = torch.from_numpy(archive.label)

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`; ``x`` is `Raw`, and binned when it is first read."""
        taken = self._archive.take(ids.numpy())
        make = partial(_binned, binning=self._binning, reading=self._reading, steps=steps)
        return Batch(Raw(taken, make, steps, len(ids), self.features), self._labels[ids], ids)

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self._labels


def _binned(taken: Recordings, binning: Binning, reading: Reading, steps: int) -> Events:
    return pack(taken, binning, reading, steps).events(np.arange(len(taken)), taken.features)


def trained_on(whole: Recordings, choice: RecordingFields, name: str, classes: int) -> Dataset:
    """Recordings in memory to train on: binned once, or each time where the options change them before."""
    if not event_changes(choice):
        return tested_on(whole, choice, name, classes)
    steps = binning_of(choice).natural_steps(int(whole.durations().max()))
    return Unbinned(name, whole, binning_of(choice), reading_of(choice), classes, steps)


def tested_on(whole: Recordings, choice: BinningFields, name: str, classes: int) -> Dataset:
    """Recordings in memory, binned once, as they are."""
    return event_dataset(whole, binning_of(choice), reading_of(choice), name=name, classes=classes)
