"""The IDX format of MNIST and Fashion-MNIST: raw, .gz or .xz.

A file is two zero bytes, a type byte (0x08: unsigned bytes), the rank, one big-endian uint32 per axis, then the
values in C order (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Mapping
from math import prod
from os import SEEK_END, fstat
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from onward.core.errors import DataError
from onward.data.limits import Readable, allowance, read_up_to, refusal

XZ_MEMORY = 128 * 2**20
"""Bytes that unpacking xz may take beside what comes out: twice what its strongest setting, `xz -9`, needs."""

_BLOCK = 2**16


class _Xz:
    """Reads one xz stream after the other; `lzma.LZMAFile` lets a file ask for any amount of memory."""

    def __init__(self, file: IO[bytes]):
        self._file, self._decoder = file, _decoder()

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while True:
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._file.read(_BLOCK)
                if not rest.startswith(b"\xfd7zXZ"):
                    return b""
                self._decoder = _decoder()
            else:
                rest = self._file.read(_BLOCK) if self._decoder.needs_input else b""
                if self._decoder.needs_input and not rest:
                    raise EOFError("it ends before its end")
            if part := self._decoder.decompress(rest, size):
                return part


def _decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)


class Packing(NamedTuple):
    """How a file is compressed: its reader, and the bytes it ends with when it holds ``size`` bytes."""

    unpack: Callable[[IO[bytes]], Readable]
    ending: Callable[[int], bytes]


_PLAIN = Packing(lambda file: file, lambda size: b"")
_PACKINGS: Mapping[str, Packing] = {
    "": _PLAIN,
    ".gz": Packing(lambda file: gzip.GzipFile(fileobj=file), lambda size: (size % 2**32).to_bytes(4, "little")),
    ".xz": Packing(_Xz, lambda size: b"YZ"),
}
SUFFIXES = tuple(_PACKINGS)


def read_idx(path: Path, rank: int) -> np.ndarray:
    """The array of unsigned bytes in an IDX file with ``rank`` axes.

    Reads at most one byte more than the header announces, so a wrong file costs no memory.
    Raises `DataError` for a file that is truncated, longer than announced, of another type or rank, empty, unreadable,
    or that unpacks to far more than it is.
    """
    try:
        packing = _PACKINGS.get(path.suffix, _PLAIN)
        with path.open("rb") as packed:
            file = packing.unpack(packed)
            shape = _read_shape(file, path, rank)
            size, length = prod(shape), fstat(packed.fileno()).st_size
            if packing is not _PLAIN and size > allowance(length):
                raise DataError(f"{path}: {refusal(size, length)}")
            payload = read_up_to(file, size + 1)
            padded = not _ends_with(packed, packing.ending(4 + 4 * rank + size))
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read as IDX data ({error or type(error).__name__})") from None
    if len(payload) != size:
        came = "more" if len(payload) > size else f"only {len(payload):,}"
        raise DataError(f"{path}: the header announces {size:,} values {list(shape)}, but {came} follow")
    if padded:
        raise DataError(f"{path}: goes on after the end of its compressed data; expected nothing there")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def _ends_with(file: IO[bytes], ending: bytes) -> bool:
    file.seek(-len(ending), SEEK_END)
    return file.read() == ending


def _read_shape(file: Readable, path: Path, rank: int) -> tuple[int, ...]:
    magic = read_up_to(file, 4)
    if magic != bytes([0, 0, 8, rank]):
        raise DataError(
            f"{path}: starts with bytes {magic.hex(' ') or '(none)'}; "
            f"expected 00 00 08 {rank:02x}, an IDX file of unsigned bytes with {rank} axes"
        )
    header = read_up_to(file, 4 * rank)
    if len(header) != 4 * rank:
        raise DataError(f"{path}: ends inside the header, after {4 + len(header)} of {4 + 4 * rank} bytes")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(0, 4 * rank, 4))
    if 0 in shape:
        raise DataError(f"{path}: the header announces {list(shape)}, no values; expected at least one")
    return shape


def read_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 1, H, W]`` and labels ``[N]`` of two IDX files; raises `DataError` if their lengths differ."""
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y):
        raise DataError(f"{images}: holds {len(x):,} images, but {labels.name} holds {len(y):,} labels")
    return x[:, None], y
