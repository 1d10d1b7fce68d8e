"""Event data sets of other libraries, such as Tonic's: what they give is read by shape, and nothing is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onward.core.errors import DataError
from onward.data.binning import Binary, Binning, ByDuration, Reading
from onward.data.dataset import Dataset
from onward.data.recordings import MOST_PIXELS, Recording, Recordings, gathered, recording
from onward.data.unbinned import Unbinned

Change = Callable[[np.ndarray], np.ndarray]
"""A transform of the events of a recording."""


class EventSamples(Protocol):
    """Pairs of events, a structured array with the fields x, y, t and p, and a class number."""

    def __len__(self) -> int:
        """The number of recordings."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        """A recording and its class."""
        ...


def from_events(
    samples: EventSamples,
    transforms: Sequence[Change] = (),
    *,
    sensor_size: tuple[int, int, int] | None = None,
    binning: Binning | None = None,
    reading: Reading | None = None,
    classes: int | None = None,
    steps: int | None = None,
    name: str | None = None,
) -> Dataset:
    """Recordings of ``samples`` as a data set for `Loader`, binned mini-batch by mini-batch.

    A sample is a structured array ``[E]`` (x, y pixels; t microseconds from the start; p polarity) and its class;
    ``transforms`` change its events, in order. ``sensor_size`` is (width, height, polarities), that of ``samples`` by
    default; sensors of one row or polarity need no y or p. ``classes`` is the largest label + 1 by default, ``steps``
    the natural number of time steps, if there is one. Labels are ``samples.targets`` where that is there, else every
    recording is read once. Raises `DataError` for samples that are no events, or lie outside of the sensor.

    >>> import torch
    >>> class Two:
    ...     sensor_size = (4, 3, 2)
    ...     def __len__(self): return 2
    ...     def __getitem__(self, i):
    ...         return np.array([(i, 1, 10, 1), (3, 2, 20, 0)], [(k, "i8") for k in "xytp"]), i
    >>> data = from_events(Two())
    >>> data.features, data.classes, data.batch(torch.tensor([1]), 2).x.chunk(0, 2).flatten(1).nonzero().tolist()
    ((2, 3, 4), 2, [[0, 17], [1, 11]])
    """
    title = name or type(samples).__name__
    sensor = _sensor(sensor_size or getattr(samples, "sensor_size", None), title)
    archive = _Archive(samples, transforms, sensor, title)
    return Unbinned(
        title, archive, binning or ByDuration(), reading or Binary(), classes or int(archive.label.max()) + 1, steps
    )


class _Archive:
    """Recordings that are asked for when they are needed; see `onward.data.recordings.Archive`."""

    def __init__(self, samples: EventSamples, transforms: Sequence[Change], sensor: tuple[int, int, int], name: str):
        self.samples, self.transforms, self.name = samples, transforms, name
        self.width, self.height, self.polarities = sensor
        self.label = _labels(samples, name)

    @property
    def features(self) -> tuple[int, int, int]:
        """``(polarities, height, width)``."""
        return (self.polarities, self.height, self.width)

    def take(self, rows: np.ndarray) -> Recordings:
        """The recordings ``rows`` in that order."""
        parts = [self._read(row) for row in rows.tolist()]
        return gathered(parts, self.label[rows], self.height, self.width, self.polarities)

    def _read(self, row: int) -> Recording:
        events, where = self.samples[row][0], f"sample {row} of {self.name}"
        for change in self.transforms:
            events = change(events)
        x, t = _field(events, "x", where), _field(events, "t", where)
        y = _field(events, "y", where) if self.height > 1 else np.zeros_like(x)
        p = _field(events, "p", where) if self.polarities > 1 else np.zeros_like(x)
        return recording(x, y, p, t, self.height, self.width, Path(where))


def _field(events: Any, key: str, where: str) -> np.ndarray:
    """A field of structured events, as whole numbers."""
    names = getattr(getattr(events, "dtype", None), "names", None) or ()
    if key not in names:
        shape = list(getattr(events, "shape", ()))
        what = f"fields {', '.join(names)}" if names else f"a {type(events).__name__} of shape {shape}"
        raise DataError(
            f"{where} has {what}; expected events with the fields x, y, t and p: leave out transforms that make "
            "frames, since events become time steps here"
        )
    return np.floor(events[key]).astype(np.int64)


def _sensor(given: Any, name: str) -> tuple[int, int, int]:
    """Width, height and polarities; raises `DataError` where they cannot be told."""
    try:
        width, height, polarities = (int(size) for size in given or ())
    except (TypeError, ValueError):
        raise DataError(
            f"{name} has sensor_size {given}; expected (width, height, polarities): give sensor_size=(34, 34, 2), say"
        ) from None
    if min(width, height, polarities) < 1 or polarities > 2 or width * height > MOST_PIXELS:
        raise DataError(
            f"{name} has a sensor of {width} x {height} pixels and {polarities} polarities; expected 1 or 2 of these, "
            f"and {MOST_PIXELS:,} pixels at most"
        )
    return width, height, polarities


def _labels(samples: EventSamples, name: str) -> np.ndarray:
    """``[N]`` int64; raises `DataError` where they are no class numbers."""
    if not len(samples):
        raise DataError(f"{name} has no samples; expected at least one")
    targets = getattr(samples, "targets", None)
    told = targets is not None and len(targets) == len(samples)
    found = np.asarray(targets if told else [samples[row][1] for row in range(len(samples))])
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < 0:
        raise DataError(f"{name} has labels such as {found.flat[0]!r}; expected class numbers from 0 on")
    return found.astype(np.int64)
