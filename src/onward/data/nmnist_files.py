"""N-MNIST as it is published: a file a digit, in a folder a class, in ``Train`` and ``Test``.

An event is 5 bytes: column, row, one bit of polarity (1: ON) and 23 of the time in microseconds, the highest first. One
in row 240 is no event but says that the camera's clock passed 8,192 microseconds once more.
(https://www.garrickorchard.com/datasets/n-mnist; Orchard et al., Converting Static Image Datasets to Spiking
Neuromorphic Datasets Using Saccades, 2015).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onward.core.errors import DataError
from onward.data.aedat import Listed

_EVENT = 5
_TICK_ROW, _TICK = 240, 1 << 13


def read_nmnist(path: Path) -> Listed:
    """The events of a digit.

    Raises `DataError` for a file that is no whole number of events, has none, or cannot be read.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not content.size or content.size % _EVENT:
        raise DataError(f"{path}: is {content.size:,} bytes long; expected {_EVENT} for each event, and an event")
    x, y, high, middle, low = content.reshape(-1, _EVENT).astype(np.int64).T
    ticks = y == _TICK_ROW
    t = ((high & 0x7F) << 16 | middle << 8 | low) + _TICK * np.cumsum(ticks)
    if ticks.all():
        raise DataError(f"{path}: holds no event but {len(ticks):,} of the clock")
    return Listed(*(values[~ticks] for values in (x, y, high >> 7, t)))
