"""Small pictures as PNG inside a page: pixels in, a ``data:`` address out."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence

Channel = Sequence[Sequence[float]]
"""Rows of pixels."""

_ON, _OFF = (0.96, 0.62, 0.25), (0.30, 0.64, 0.86)
"""Colours of the two polarities of an event camera."""


def data_url(channels: Sequence[Channel]) -> str:
    """One channel as grey, two as the polarities of an event camera, three as red, green and blue; each stretched so
    that its largest value is full, colours together.

    >>> data_url([[[0.0, 1.0]]])[:22]
    'data:image/png;base64,'
    """
    low, high = (extreme(value for c in channels for row in c for value in row) for extreme in (min, max))
    scale = 1 / (high - low) if high > low else 0.0
    scaled = [[[(value - low) * scale for value in row] for row in channel] for channel in channels]
    pixels = [[_colour(values) for values in zip(*rows, strict=True)] for rows in zip(*scaled, strict=True)]
    raw = b"".join(b"\0" + bytes(round(255 * min(1.0, v)) for pixel in row for v in pixel) for row in pixels)
    size = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 2, 0, 0, 0)
    parts = (b"IHDR", size), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")
    return "data:image/png;base64," + b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(_part(*p) for p in parts)).decode()


def _colour(values: Sequence[float]) -> tuple[float, ...]:
    match len(values):
        case 1:
            return (values[0],) * 3
        case 2:
            return tuple(values[0] * off + values[1] * on for off, on in zip(_OFF, _ON, strict=True))
    return tuple(values[:3])


def _part(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
