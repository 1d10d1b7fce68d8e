"""Arrays of numbers in MATLAB files of level 5 (``save -v6``, ``save -v7``), and nothing else of them.

A file is a header of 128 bytes and elements: a type and a length of four bytes each, then what they announce. An array
is an element that holds four more: flags, dimensions, name and values, the first axis fastest; or it is the zlib stream
of such an element (MathWorks, MAT-File Format, chapter 1).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from math import prod
from os import SEEK_CUR, fstat
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from onward.core.errors import DataError
from onward.data.limits import Readable, allowance, read_up_to, refusal

MOST_ARRAYS = 100
"""Arrays of a file, those included that nobody asks for."""

MOST_AXES = 16
MOST_NAME = 63
"""Letters of a name; MATLAB's own limit."""

Order = Literal["little", "big"]
_HEADER, _BLOCK = 128, 2**16
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {1: "a cell array", 2: "a struct", 3: "an object", 4: "text", 5: "a sparse array"}
_NUMERIC = range(6, 16)
_COMPLEX = 0x0800


class _Part:
    """The next ``left`` bytes of a file, as a file."""

    def __init__(self, file: Readable, left: int):
        self._file, self.left = file, left

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        part = self._file.read(min(size, self.left))
        self.left -= len(part)
        return part


class _Inflated:
    """A zlib stream, unpacked as far as it is read."""

    def __init__(self, packed: Readable):
        self._packed, self._decoder = packed, zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while size and not self._decoder.eof:
            rest = self._decoder.unconsumed_tail or self._packed.read(_BLOCK)
            if part := self._decoder.decompress(rest, size):
                return part
            if not rest and not self._decoder.eof:
                raise ValueError("the compressed data end before their end")
        return b""

    def finish(self) -> None:
        """Raises `ValueError` unless the stream ends here, where the file says so."""
        if self.read(1) or self._decoder.unused_data or self._packed.read(1):
            raise ValueError("the compressed data go on after the end of their array")


class _Head(NamedTuple):
    """What an array says of itself before its values."""

    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    name: str


def read_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays ``names`` of the file, in the type that their values are stored in, which may be a smaller one than
    that of the array.

    Memory is taken for what comes, not for what is announced, and a compressed array may unpack to so much only: see
    `onward.data.limits`. Raises `DataError` for a file that cannot be read, is damaged, of another level or lacks one
    of the arrays, and where one of them is complex or holds no numbers.
    """
    try:
        with path.open("rb") as file:
            found = dict(_arrays(file, names))
    except (OSError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error})") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: has no array {' and none '.join(missing)}")
    return found


def _arrays(file: IO[bytes], names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Those of ``names`` that are there."""
    order, left = _byte_order(file.read(_HEADER)), fstat(file.fileno()).st_size - _HEADER
    for _ in range(MOST_ARRAYS):
        if not left:
            return
        kind, size = _tag(_take(file, 8), order)
        left -= 8 + size
        if left < 0:
            raise ValueError(f"an array of {size:,} bytes is announced, and only {size + left:,} follow")
        element = _Part(file, size)
        found = _array(element, kind, order, names)
        if found is not None:
            yield found
        file.seek(element.left, SEEK_CUR)
    if left:
        raise ValueError(f"it holds more than {MOST_ARRAYS} arrays")


def _byte_order(header: bytes) -> Order:
    """From the last two bytes; those before are the level."""
    level, mark = header[124:126], header[126:]
    if mark not in (b"IM", b"MI"):
        raise ValueError("it does not begin like one of level 5")
    order: Order = "little" if mark == b"IM" else "big"
    if int.from_bytes(level, order) != 0x0100:
        raise ValueError("it is of another level than 5, such as HDF5; save it with -v7")
    return order


def _array(element: _Part, kind: int, order: Order, names: Sequence[str]) -> tuple[str, np.ndarray] | None:
    """Name and values of the array in ``element``; None, after its head alone was read, if it is none of ``names``."""
    if kind not in (_MATRIX, _COMPRESSED):
        raise ValueError(
            f"something of type {kind} stands where an array was expected, type {_MATRIX} or {_COMPRESSED}"
        )
    stream = _Inflated(element) if kind == _COMPRESSED else None
    matrix = element if stream is None else _unpacked(stream, element.left, order)
    head = _head(matrix, order)
    if head is None or head.name not in names:
        return None
    values = _values(matrix, head, order)
    if stream is not None:
        stream.finish()
    return head.name, values


def _unpacked(stream: _Inflated, packed: int, order: Order) -> _Part:
    """The array that ``packed`` bytes hold."""
    kind, size = _tag(_take(stream, 8), order)
    if kind != _MATRIX:
        raise ValueError(f"compressed data hold something of type {kind}; expected an array ({_MATRIX})")
    if size > allowance(packed):
        raise ValueError(f"an array {refusal(size, packed)}")
    return _Part(stream, size)


def _head(matrix: _Part, order: Order) -> _Head | None:
    """None for what is no array but a kind of handle."""
    flags = int.from_bytes(_element(matrix, _UINT32, 8, order)[:4], order)
    if flags & 0xFF > _NUMERIC[-1]:
        return None
    axes = np.frombuffer(_element(matrix, _INT32, 4 * MOST_AXES, order), _dtype("i4", order))
    if len(axes) < 2 or axes.min() < 0:
        raise ValueError(f"an array has the dimensions {axes.tolist()}; expected two or more, none below 0")
    name = _element(matrix, _INT8, MOST_NAME, order).decode("latin-1")
    return _Head(flags & 0xFF, bool(flags & _COMPLEX), tuple(axes.tolist()), name)


def _values(matrix: _Part, head: _Head, order: Order) -> np.ndarray:
    """The values that end an array, held against its dimensions before any memory is taken."""
    if head.kind not in _NUMERIC or head.is_complex:
        found = "complex" if head.is_complex else _CLASSES.get(head.kind, f"of class {head.kind}")
        raise ValueError(f"{head.name} is {found}; expected real numbers")
    kind, size, short = _open(matrix, order)
    if kind not in _STORED:
        raise ValueError(f"{head.name} has values of type {kind}; expected one of {', '.join(map(str, _STORED))}")
    dtype = _dtype(_STORED[kind], order)
    expected = prod(head.shape) * dtype.itemsize
    if size != expected:
        raise ValueError(
            f"{head.name} has {size:,} bytes of values; expected {expected:,} for {list(head.shape)} of {dtype.name}"
        )
    payload = short or _take(matrix, size)
    _take(matrix, -size % 8 if not short else 0)
    if matrix.left:
        raise ValueError(f"{head.name} goes on for {matrix.left:,} bytes after its values")
    return np.ndarray(head.shape, dtype, payload, order="F")


def _element(source: _Part, kind: int, most: int, order: Order) -> bytes:
    """What an element of the type ``kind`` and at most ``most`` bytes holds."""
    found, size, short = _open(source, order)
    if found != kind or size > most:
        raise ValueError(f"{size:,} bytes of type {found} stand where at most {most} of type {kind} were expected")
    return bytes(short or _take(source, size + -size % 8)[:size])


def _open(source: _Part, order: Order) -> tuple[int, int, bytes]:
    """Type and length of the next element; if it is a short one, also what it holds, in the place of the length."""
    raw = _take(source, 8)
    kind, size = _tag(raw, order)
    if kind < 2**16:
        return kind, size, b""
    kind, size = kind % 2**16, kind // 2**16
    if size > 4:
        raise ValueError(f"a short element announces {size:,} bytes; expected 4 at most")
    return kind, size, bytes(raw[4 : 4 + size])


def _tag(raw: bytes | bytearray, order: Order) -> tuple[int, int]:
    return int.from_bytes(raw[:4], order), int.from_bytes(raw[4:], order)


def _take(source: Readable, size: int) -> bytearray:
    """The next ``size`` bytes; raises `ValueError` where fewer are left."""
    payload = read_up_to(source, size)
    if len(payload) < size:
        raise ValueError(f"it ends {size - len(payload):,} bytes too early")
    return payload


def _dtype(code: str, order: Order) -> np.dtype:
    return np.dtype(code).newbyteorder("<" if order == "little" else ">")
