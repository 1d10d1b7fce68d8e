"""Files of the user's own: arrays or recordings, for training and for ``eval --data FILE``."""

from __future__ import annotations

from os.path import isfile
from pathlib import Path

import numpy as np
import torch

from onward.core.errors import DataError
from onward.core.registry import Choice
from onward.data.arrays import ArrayDataset, FramesLayout, Layout, Scale, StaticLayout, counted_classes
from onward.data.binning import event_dataset
from onward.data.choices import BinningFields, EventsChoice, FileChoice, HoldoutChoice
from onward.data.dataset import Dataset, Split, Subset
from onward.data.folders import expanded
from onward.data.loader import order
from onward.data.npz import npz_keys, read_arrays
from onward.data.recordings import REQUIRED, Recordings, read_recordings
from onward.data.unbinned import binning_of, reading_of, tested_on, trained_on

_LAYOUTS: dict[str, Layout] = {"static": StaticLayout(), "frames": FramesLayout()}


def locate_file(choice: HoldoutChoice) -> str:
    """The path of the file; raises `DataError` when none is named or it is not there."""
    return str(_path(choice))


def _path(choice: HoldoutChoice) -> Path:
    if choice.file is None:
        raise DataError(f"the data set {choice.name!r} needs a file: give --data.file FILE.npz")
    path = expanded(choice.file)
    if not isfile(path):
        raise DataError(f"{path}: no such file; give an .npz file with --data.file")
    return path


def holdout(count: int, fraction: float, seed: int, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to test on, both ascending; a pure function of its arguments.

    Sets of one seed that are split apart each have a ``number``.

    At least one row goes to each part; raises `DataError` for fewer than two rows.
    """
    held = held_out(count, fraction)
    chosen = order(seed, number, count).numpy()
    return np.sort(chosen[held:]), np.sort(chosen[:held])


def held_out(count: int, fraction: float) -> int:
    """How many of ``count`` samples are set aside; raises `DataError` for fewer than two."""
    if count < 2:
        raise DataError(f"{count} sample cannot be split into a training and a test part; give at least 2")
    return min(max(round(count * fraction), 1), count - 1)


def holdout_by_class(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `holdout`, with the same fraction of every class."""
    parts = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        parts.append([rows[part] for part in holdout(len(rows), fraction, seed, int(label))])
    train, test = (np.sort(np.concatenate(part)) for part in zip(*parts, strict=True))
    return train, test


def load_file(choice: FileChoice) -> Split:
    """x and y to train on; x_test and y_test, or a seeded fraction of x and y, to test on."""
    path = _path(choice)
    arrays, layout = read_arrays(path), _LAYOUTS[choice.layout]
    whole = ArrayDataset(*arrays.train, classes=choice.classes, name=str(path), layout=layout)
    if arrays.test is None:
        train, test = holdout(len(whole), choice.holdout, choice.holdout_seed)
        return Split(Subset(whole, torch.from_numpy(train)), Subset(whole, torch.from_numpy(test)))
    tested = ArrayDataset(*arrays.test, classes=whole.classes, name=f"{path} (test part)", layout=layout)
    if tested.x.shape[1:] != whole.x.shape[1:]:
        raise DataError(
            f"{path}: x_test has samples of shape {list(tested.x.shape[1:])}, x of {list(whole.x.shape[1:])}; "
            "expected the same"
        )
    return Split(whole, tested)


def load_events(choice: EventsChoice) -> Split:
    """Recordings of the file's splits "train" and "test", or of a seeded hold-out where it has not both."""
    path = _path(choice)
    recordings = read_recordings(path, choice.height, choice.width)
    classes = choice.classes or counted_classes(int(recordings.label.max()), str(path))
    if int(recordings.label.max()) >= classes:
        raise DataError(f"{path}: holds the label {recordings.label.max()}, but {classes} classes were given")
    train, test = (recordings.take(rows) for rows in _event_rows(recordings, choice))
    return Split(trained_on(train, choice, str(path), classes), tested_on(test, choice, str(path), classes))


def _event_rows(recordings: Recordings, choice: EventsChoice) -> tuple[np.ndarray, np.ndarray]:
    named = set() if recordings.split is None else set(recordings.split.tolist())
    if choice.split is None and {"train", "test"} <= named:
        return recordings.rows_of("train"), recordings.rows_of("test")
    rows = np.arange(len(recordings)) if choice.split is None else recordings.rows_of(choice.split)
    train, test = holdout(len(rows), choice.holdout, choice.holdout_seed)
    return rows[train], rows[test]


def open_samples(path: Path, like: Choice, scale: Scale | None, sensor: tuple[int, int], split: str | None) -> Dataset:
    """All samples of a file: see `onward.data.open_file`.

    ``scale`` is that of a training set that was normalised, ``sensor`` has the rows and columns of recordings.
    """
    keys = set(npz_keys(path))
    if set(REQUIRED) <= keys:
        return _open_events(path, like, sensor, split)
    if not {"x", "y"} <= keys:
        raise DataError(
            f"{path}: holds {', '.join(sorted(keys)) or 'nothing'}; expected x and y, "
            f"or event recordings: {', '.join(REQUIRED)}"
        )
    if split is not None:
        raise DataError(f"{path}: split {split!r} was asked for, but arrays x and y have no splits; leave it out")
    layout = _LAYOUTS[like.layout] if isinstance(like, FileChoice) else StaticLayout()
    return ArrayDataset(*read_arrays(path).train, name=str(path), layout=layout, scale=scale)


def _open_events(path: Path, like: Choice, sensor: tuple[int, int], split: str | None) -> Dataset:
    recordings = read_recordings(path, *sensor)
    chosen = recordings if split is None else recordings.take(recordings.rows_of(split))
    options = like if isinstance(like, BinningFields) else BinningFields(name="events")
    return event_dataset(chosen, binning_of(options), reading_of(options), name=str(path))
