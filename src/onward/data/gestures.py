"""The text files of DVS-Gesture: which trials belong to which part, and when in a trial which gesture is made.

Amir et al., A Low Power, Fully Event-Based Gesture Recognition System, 2017 (https://research.ibm.com/dvsgesture/).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from onward.core.errors import DataError

CLASSES = 11
_COLUMNS = "class,startTime_usec,endTime_usec"
_MOST_BYTES = 2**20


class Gesture(NamedTuple):
    """Microseconds ``start`` to ``stop`` - 1 of a trial; ``label`` counts from 0."""

    label: int
    start: int
    stop: int


def read_list(path: Path) -> list[str]:
    """The names of .aedat files in the folder of ``path``, one a line.

    Raises `DataError` for a file that cannot be read, names none, or names what is not in that folder.
    """
    names = [line.strip() for line in _lines(path) if line.strip()]
    for name in names:
        if "/" in name or "\\" in name or not name.endswith(".aedat"):
            raise DataError(f"{path}: names {name!r}; expected .aedat files of the same folder, one a line")
    if not names:
        raise DataError(f"{path}: names no .aedat file")
    return names


def read_gestures(path: Path) -> list[Gesture]:
    """The gestures of a trial, from a line of column names and then a line for each.

    Raises `DataError` for a file that cannot be read, has other columns, no gesture, a class beyond 1 to 11, or one
    that ends before it starts.
    """
    lines = [line.strip() for line in _lines(path) if line.strip()]
    if lines[:1] != [_COLUMNS] or len(lines) < 2:
        raise DataError(f"{path}: begins with {lines[:1]}; expected {_COLUMNS}, and a line for each gesture")
    return [_gesture(line, path) for line in lines[1:]]


def _gesture(row: str, path: Path) -> Gesture:
    try:
        number, start, stop = map(int, row.split(","))
    except ValueError:
        raise DataError(f"{path}: has the line {row!r}; expected three whole numbers, {_COLUMNS}") from None
    if not 1 <= number <= CLASSES or not 0 <= start < stop < 2**63:
        raise DataError(
            f"{path}: has the line {row!r}; expected a class from 1 to {CLASSES}, and a start before an end"
        )
    return Gesture(number - 1, start, stop)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise DataError(f"{path}: is longer than {_MOST_BYTES:,} bytes; expected a short list")
        return content.decode("ascii").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise DataError(f"{path}: holds bytes that are no ASCII text") from None
