"""The AEDAT formats 2.0 and 3.1 of event cameras, as far as data sets use them: polarity events of a DVS128.

Header lines that begin with ``#``, the first of which names the version; then, in 2.0, pairs of a big-endian address
and a time, and in 3.1 packets of little-endian ones
(https://docs.inivation.com/software/software-advanced-usage/file-formats).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from onward.core.errors import DataError

SIDE = 128
"""Rows and columns of a DVS128."""

_MOST_HEADER = 2**16
_END = b"#!END-HEADER\r\n"
_EVENT = 8
_SPECIAL = 1 << 15  # of a DVS128, and above: marks of synchronisation and the like, no pixels
_WORDS = ("size", "offset", "overflow", "capacity", "number", "valid")
_PACKET = np.dtype([("kind", "<i2"), ("source", "<i2"), *((name, "<i4") for name in _WORDS)])
_POLARITY = 1
T = TypeVar("T")


class Listed(NamedTuple):
    """Events as a file lists them: column, row, polarity (1: ON) and microseconds, each ``[E]``."""

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray


def read_aedat2(path: Path) -> Listed:
    """The events of a DVS128 in a file of version 2.0, upright, from time 0 on.

    The address holds the polarity (bit 0; 1: OFF), 7 bits of the column and 7 of the row of a sensor that lay on its
    side: x = 127 - row, y = 127 - column. What has higher bits set is no pixel, and left out.

    Raises `DataError` for a file that is of another version, cut off, holds no event, or cannot be read.
    """
    return _told(path, lambda: _pairs(path.read_bytes()))


def read_aedat3(path: Path) -> Listed:
    """The polarity events in a file of version 3.1; times are those of the camera's clock.

    The 32 bits of an event are, from the lowest on, one for its validity, one for the polarity (1: ON), 15 for the row
    and 15 for the column. Events are taken for valid where the packet says that all of them are.

    Raises `DataError` as `read_aedat2` does, and for packets that end beyond the file.
    """
    return _told(path, lambda: _packets(path.read_bytes()))


def _told(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as AEDAT ({error})") from None


def _pairs(content: bytes) -> Listed:
    start = _header_end(content, b"2.0")
    if (len(content) - start) % _EVENT:
        raise ValueError(f"{len(content) - start:,} bytes follow the header; expected {_EVENT} for each event")
    address, t = np.frombuffer(content, ">u4", offset=start).reshape(-1, 2).astype(np.int64).T
    pixels = address < _SPECIAL
    if not pixels.any():
        raise ValueError("it holds no event of a pixel")
    address, t = address[pixels], t[pixels]
    row, column = address >> 8, address >> 1 & 0x7F
    return Listed(SIDE - 1 - row, SIDE - 1 - column, 1 - (address & 1), t - t.min())


def _packets(content: bytes) -> Listed:
    start = _header_end(content, b"3.1")
    parts = [_valid(*packet) for packet in _events(content, start)]
    if not parts:
        raise ValueError("it holds no polarity event")
    data, t = np.concatenate(parts, axis=1)
    return Listed(data >> 17, data >> 2 & 0x7FFF, data >> 1 & 1, t)


def _events(content: bytes, start: int) -> Iterator[tuple[np.ndarray, np.void]]:
    """Pairs ``[E, 2]`` of data and time, and the header, of each packet of polarity events."""
    while start < len(content):
        if len(content) - start < _PACKET.itemsize:
            raise ValueError(f"a packet ends inside its header, at byte {len(content):,}")
        head = np.frombuffer(content, _PACKET, 1, start)[0]
        start, count, size = start + _PACKET.itemsize, int(head["number"]), int(head["size"])
        if count < 0 or size < 1 or count * size > len(content) - start:
            raise ValueError(
                f"a packet announces {count:,} events of {size:,} bytes, and {len(content) - start:,} bytes follow"
            )
        if head["kind"] == _POLARITY and count:
            if size != _EVENT:
                raise ValueError(f"a packet holds polarity events of {size:,} bytes; expected {_EVENT}")
            yield np.frombuffer(content, "<u4", 2 * count, start).reshape(count, 2), head
        start += count * size


def _valid(pairs: np.ndarray, head: np.void) -> np.ndarray:
    """Data and times ``[2, E]`` int64, the overflow of the clock's 31 bits counted in."""
    kept = pairs if head["valid"] == head["number"] else pairs[pairs[:, 0] & 1 == 1]
    data, t = kept.astype(np.int64).T
    return np.stack([data, t + (int(head["overflow"]) << 31)])


def _header_end(content: bytes, version: bytes) -> int:
    """Where the events begin; raises `ValueError` for another version."""
    first = content[:64].partition(b"\n")[0].rstrip()
    if first != b"#!AER-DAT" + version:
        raise ValueError(f"it begins with {first[:20]!r}; expected #!AER-DAT{version.decode()}")
    end = 0
    while content[end : end + 1] == b"#":
        line = content.find(b"\n", end, _MOST_HEADER) + 1
        if not line:
            raise ValueError(f"its header does not end within {_MOST_HEADER:,} bytes")
        if content[end:line] == _END:
            return line
        end = line
    return end
