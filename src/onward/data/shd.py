"""The Spiking Heidelberg Digits: spoken digits as spikes of 700 channels of a model of the ear, in HDF5 files.

``spikes/times`` (seconds) and ``spikes/units`` hold a list for each recording, ``labels`` a class from 0 to 19
(https://compneuro.net; Cramer et al., The Heidelberg Spiking Data Sets for the Systematic Evaluation of Spiking Neural
Networks, 2020). Read with h5py, which is needed for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from onward.core.errors import DataError
from onward.data.choices import RecordedChoice
from onward.data.dataset import Split
from onward.data.folders import find_files
from onward.data.limits import allowance, refusal
from onward.data.recordings import Recording, Recordings, gathered, recording
from onward.data.unbinned import tested_on, trained_on

FILES = ("shd_train.h5", "shd_test.h5")
CHANNELS, CLASSES = 700, 20
_SECOND = 1_000_000
_ADVICE = "They are offered at https://compneuro.net/datasets/ (.h5.gz, .h5.zip); unpack them"


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError:
        raise DataError(
            "SHD is in HDF5 files, and h5py, which reads them, is not installed; install it with `pip install h5py`, "
            "or Onward with its extra `hdf5`"
        ) from None


def locate_shd(choice: RecordedChoice) -> str:
    """The folder of the files; raises `DataError` when there is none."""
    return str(find_files("shd", choice.root, FILES, [""], _ADVICE)[0].parent)


def load_shd(choice: RecordedChoice) -> Split:
    """The recordings to train on and to test on, in memory: 6 bytes a spike."""
    train, test = map(read_shd, find_files("shd", choice.root, FILES, [""], _ADVICE))
    return Split(trained_on(train, choice, choice.name, CLASSES), tested_on(test, choice, choice.name, CLASSES))


def read_shd(path: Path) -> Recordings:
    """The recordings of a file, as those of a sensor of one row and one polarity.

    A list is read at a time; what they hold together may be no more than a file of this size unpacks to, see
    `onward.data.limits`. Raises `DataError` for a file that is damaged or lacks something, for lists that do not match,
    channels, labels and times out of range, data outside of the file, and without h5py.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            return _recordings(h5py, file, path)
    except DataError:
        raise
    except Exception as error:  # h5py hands on whatever HDF5 meets in a damaged file
        raise DataError(f"{path}: cannot be read as HDF5 ({error})") from None


def _recordings(h5py: Any, file: Any, path: Path) -> Recordings:
    times, units, labels = (_list(h5py, file, name, path) for name in ("spikes/times", "spikes/units", "labels"))
    if not len(labels) or not len(times) == len(units) == len(labels):
        raise DataError(
            f"{path}: has {len(times):,} lists of times, {len(units):,} of units and {len(labels):,} labels; expected "
            "as many of each, and one at least"
        )
    found = np.asarray(labels[()])
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= CLASSES:
        raise DataError(f"{path}: labels of {found.dtype} reach up to {found.max()}; expected 0 to {CLASSES - 1}")
    most, parts = allowance(path.stat().st_size), []
    for row in range(len(found)):
        parts.append(_spikes(np.asarray(times[row]), np.asarray(units[row]), row, path))
        most -= sum(array.nbytes for array in parts[-1])
        if most < 0:
            raise DataError(f"{path}: {refusal(allowance(path.stat().st_size) - most, path.stat().st_size)}")
    return gathered(parts, found.astype(np.int64), 1, CHANNELS, 1)


def _list(h5py: Any, file: Any, name: str, path: Path) -> Any:
    """A list in the file itself: links and data that lead to other files are refused."""
    group = file
    for part in name.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise DataError(f"{path}: has no {name} in itself; expected spikes/times, spikes/units and labels")
        group = group[part]
    if not isinstance(group, h5py.Dataset) or len(group.shape or ()) != 1 or group.external or group.is_virtual:
        raise DataError(f"{path}: {name} is no list in the file itself; expected one entry for each recording")
    if len(group) * group.dtype.itemsize > allowance(path.stat().st_size):
        raise DataError(f"{path}: {name} {refusal(len(group) * group.dtype.itemsize, path.stat().st_size)}")
    return group


def _spikes(times: np.ndarray, units: np.ndarray, row: int, path: Path) -> Recording:
    if times.dtype.kind != "f" or units.dtype.kind not in "iu" or times.shape != units.shape or times.ndim != 1:
        raise DataError(
            f"{path}: recording {row} has times {list(times.shape)} of {times.dtype} and units {list(units.shape)} of "
            f"{units.dtype}; expected as many numbers and channels"
        )
    t = times.astype(np.float64) * _SECOND
    if not np.isfinite(t).all() or abs(t).max(initial=0) >= 2**62:
        raise DataError(f"{path}: recording {row} has a time that is no number of seconds")
    none = np.zeros(len(t), np.int64)
    return recording(units.astype(np.int64), none, none, t.astype(np.int64), 1, CHANNELS, path)
