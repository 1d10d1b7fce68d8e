"""Event-camera recordings: the .npz layout, read strictly, held compactly.

| array | dtype, shape | meaning |
|---|---|---|
| `x`, `y` | integers `[E]` | pixel column and row |
| `p` | integers `[E]` | polarity: 1 = ON, 0 = OFF |
| `t` | integers `[E]` | microseconds from the start of the recording, not descending within a recording |
| `offsets` | integers `[N + 1]` | recording i is the slice `offsets[i]:offsets[i + 1]` of the four arrays above |
| `label` | integers `[N]` | class number |
| `split` | strings `[N]`, optional | such as "train" and "test" |
| `mnist_index` | integers `[N]`, optional | index of the same digit in MNIST's file of that split |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import maxunicode
from typing import NamedTuple, Protocol

import numpy as np

from onward.core.errors import DataError
from onward.data.npz import read_npz

REQUIRED = ("x", "y", "p", "t", "offsets", "label")
OPTIONAL = ("split", "mnist_index")

MOST_PIXELS = 2**24
"""Of a sensor: sixteen times the largest there are."""


class Archive(Protocol):
    """Recordings that some can be taken of: those in memory, or in files that are read then."""

    @property
    def label(self) -> np.ndarray:
        """``[N]`` int64 class numbers."""
        ...

    @property
    def features(self) -> tuple[int, int, int]:
        """``(polarities, height, width)``."""
        ...

    def take(self, rows: np.ndarray) -> Recordings:
        """The recordings ``rows`` in that order."""
        ...


class Recording(NamedTuple):
    """One recording: ``address`` and ``t`` as those of `Recordings`."""

    address: np.ndarray
    t: np.ndarray


@dataclass(frozen=True)
class Recordings:
    """N recordings on a sensor of ``height`` x ``width`` pixels and ``polarities``: 6 bytes an event.

    ``address`` ``[E]`` is the flat index of (p, y, x) in ``[polarities, height, width]``; ``t`` ``[E]`` uint32,
    microseconds; recording i is the slice ``offsets[i]:offsets[i + 1]`` of both. ``split`` and ``mnist_index`` are
    ``[N]`` or None; so is ``lasting``, the durations where the last event does not tell them.
    """

    address: np.ndarray
    t: np.ndarray
    offsets: np.ndarray
    label: np.ndarray
    height: int = 34
    width: int = 34
    split: np.ndarray | None = None
    mnist_index: np.ndarray | None = None
    polarities: int = 2
    lasting: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def features(self) -> tuple[int, int, int]:
        """``(polarities, height, width)``: OFF events first."""
        return (self.polarities, self.height, self.width)

    def durations(self) -> np.ndarray:
        """Microseconds from the start to the last event, that event included: ``[N]`` int64; 1 where there is none."""
        if self.lasting is not None:
            return self.lasting
        last = np.maximum(self.offsets[1:] - 1, 0)
        empty = np.diff(self.offsets) == 0
        ends = self.t[last].astype(np.int64) + 1 if len(self.t) else np.ones(len(self), np.int64)
        return np.where(empty, 1, ends)

    def take(self, rows: np.ndarray) -> Recordings:
        """The recordings ``rows`` in that order, copied."""
        starts, sizes = self.offsets[rows], np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        events = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Recordings(
            self.address[events],
            self.t[events],
            offsets,
            self.label[rows],
            self.height,
            self.width,
            None if self.split is None else self.split[rows],
            None if self.mnist_index is None else self.mnist_index[rows],
            self.polarities,
            None if self.lasting is None else self.lasting[rows],
        )

    def rows_of(self, split: str) -> np.ndarray:
        """Positions of the recordings of ``split``; raises `DataError` when there are none."""
        if self.split is None:
            raise DataError(f"split {split!r} was asked for, but the recordings have no split array")
        rows = np.flatnonzero(self.split == split)
        if not len(rows):
            raise DataError(f"no recording has split {split!r}; there are {', '.join(np.unique(self.split))}")
        return rows


def read_recordings(path: Path, height: int = 34, width: int = 34) -> Recordings:
    """All recordings of a file in the layout above.

    Raises `DataError`, naming the file and the first defect, for a damaged file, a missing array, a wrong dtype or
    length, offsets that do not cut the events into recordings, a pixel beyond the sensor, a polarity other than 0 and
    1, time that runs backward, or a negative label; and for a sensor of more than 2^24 pixels.
    """
    if height * width > MOST_PIXELS:
        raise DataError(f"a sensor of {height} x {width} pixels was given; expected {MOST_PIXELS:,} at most")
    arrays = read_npz(path, REQUIRED, OPTIONAL)
    _check_dtypes(arrays, path)
    _check_lengths(arrays, path)
    _check_offsets(arrays["offsets"], len(arrays["t"]), path)
    _check_range("x", arrays["x"], width - 1, path)
    _check_range("y", arrays["y"], height - 1, path)
    _check_range("p", arrays["p"], 1, path)
    _check_range("t", arrays["t"], 2**32 - 1, path)
    _check_range("label", arrays["label"], 2**31 - 1, path)
    _check_time(arrays["t"], arrays["offsets"], path)
    return Recordings(
        addresses(arrays["p"], arrays["y"], arrays["x"], height, width),
        arrays["t"].astype(np.uint32),
        arrays["offsets"].astype(np.int64),
        arrays["label"].astype(np.int64),
        height,
        width,
        arrays.get("split"),
        arrays.get("mnist_index"),
    )


def addresses(p: np.ndarray, y: np.ndarray, x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Flat indices in ``[2, height, width]``, in the smallest dtype; takes 4 bytes an event on the way."""
    address = p.astype(np.int32)
    for side, place in ((height, y), (width, x)):
        address *= side
        np.add(address, place, out=address, casting="unsafe")  # within the sensor, as was checked
    return address.astype(np.uint16) if 2 * height * width <= 1 << 16 else address


def recording(
    x: np.ndarray, y: np.ndarray, p: np.ndarray, t: np.ndarray, height: int, width: int, path: Path
) -> Recording:
    """Events of one file, in the order of their times; those at one time stay as they come.

    Raises `DataError` for a pixel beyond the sensor, a polarity other than 0 and 1, and a time below 0 or of 2^32
    microseconds (72 minutes) or more.
    """
    for name, values, high in (("x", x, width - 1), ("y", y, height - 1), ("p", p, 1), ("t", t, 2**32 - 1)):
        _check_range(name, values, high, path)
    address, t = addresses(p, y, x, height, width), t.astype(np.uint32)
    if (t[1:] < t[:-1]).any():
        order = np.argsort(t, kind="stable")
        address, t = address[order], t[order]
    return Recording(address, t)


def gathered(parts: Sequence[Recording], label: np.ndarray, height: int, width: int, polarities: int = 2) -> Recordings:
    """Recordings one after the other."""
    offsets = np.cumsum([0, *(len(part.t) for part in parts)])
    address, t = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Recordings(address, t, offsets, label, height, width, polarities=polarities)


def write_recordings(path: Path, recordings: Recordings) -> None:
    """Writes the recordings in the layout above, compressed, in the smallest dtypes that hold the numbers."""
    pixel = recordings.height * recordings.width
    place = recordings.address % pixel
    arrays = {
        "x": (place % recordings.width).astype(np.min_scalar_type(recordings.width - 1)),
        "y": (place // recordings.width).astype(np.min_scalar_type(recordings.height - 1)),
        "p": (recordings.address // pixel).astype(np.uint8),
        "t": recordings.t,
        "offsets": recordings.offsets,
        "label": recordings.label.astype(np.min_scalar_type(int(recordings.label.max()))),
        "split": recordings.split,
        "mnist_index": recordings.mnist_index,
    }
    present = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(path, allow_pickle=False, **present)


def _check_dtypes(arrays: dict[str, np.ndarray], path: Path) -> None:
    for name in (*REQUIRED, "mnist_index"):
        if name in arrays and arrays[name].dtype.kind not in "iu":
            raise DataError(f"{path}: {name} has dtype {arrays[name].dtype}; expected integers")
    if "split" in arrays and arrays["split"].dtype.kind != "U":
        raise DataError(f"{path}: split has dtype {arrays['split'].dtype}; expected strings")


def _check_lengths(arrays: dict[str, np.ndarray], path: Path) -> None:
    events, count = arrays["t"].size, arrays["label"].size
    of_events, of_recordings = dict.fromkeys("xypt", events), dict.fromkeys(("label", *OPTIONAL), count)
    expected: dict[str, int] = {**of_events, **of_recordings, "offsets": count + 1}
    for name, length in expected.items():
        if name in arrays and arrays[name].shape != (length,):
            raise DataError(
                f"{path}: {name} has shape {list(arrays[name].shape)}; expected [{length}], "
                f"as t has {events:,} events and label {count:,} recordings"
            )
    if not count:
        raise DataError(f"{path}: holds no recording; at least one is needed")
    if "split" in arrays and _letters(arrays["split"]).max() > maxunicode:
        raise DataError(f"{path}: split holds numbers that are no letters; expected strings such as train")


def _letters(strings: np.ndarray) -> np.ndarray:
    """Their code points, which numpy does not check."""
    return strings.astype(strings.dtype.newbyteorder("=")).view(np.uint32)


def _check_offsets(offsets: np.ndarray, events: int, path: Path) -> None:
    if int(offsets[0]) != 0 or int(offsets[-1]) != events:
        raise DataError(f"{path}: offsets run from {offsets[0]} to {offsets[-1]}; expected 0 to {events}, all events")
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falls):
        row = int(falls[0])
        raise DataError(f"{path}: offsets fall from {offsets[row]} to {offsets[row + 1]} at recording {row}")


def _check_range(name: str, values: np.ndarray, high: int, path: Path) -> None:
    bad = np.flatnonzero((values < 0) | (values > high))
    if len(bad):
        raise DataError(f"{path}: {name}[{bad[0]}] is {values[bad[0]]}; expected 0 to {high}")


def _check_time(t: np.ndarray, offsets: np.ndarray, path: Path) -> None:
    backward = t[1:] < t[:-1]
    starts = offsets[1:-1]
    backward[starts[(starts > 0) & (starts < len(t))] - 1] = False
    if backward.any():
        event = int(np.argmax(backward)) + 1
        row = int(np.searchsorted(offsets, event, side="right")) - 1
        raise DataError(
            f"{path}: time runs backward in recording {row}, from {t[event - 1]} to {t[event]} microseconds "
            f"at event {event}; sort each recording by t"
        )
