"""Reading .npz files: every defect is a one-line `DataError`, and no pickled object is ever loaded.

A file may come from anywhere. What its headers announce is compared with the bytes that it has before memory is
taken, and compressed arrays may unpack to so much only: see `onward.data.limits`.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from math import prod
from pathlib import Path
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from onward.core.errors import DataError
from onward.data.limits import allowance, read_up_to, refusal

MOST_AXES = 16
"""No layer reads an array of more than five."""

MOST_HEADER = 4096
"""Bytes of an array's header: numpy's own take about 128, and what numpy parses it with is slow beyond."""

_DAMAGE = (
    BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    OSError,
    EOFError,
    zlib.error,
    struct.error,
)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class _Member(NamedTuple):
    """An array in an open archive, and the bytes that it can have there at most."""

    archive: ZipFile
    info: ZipInfo
    packed: int


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, _Member]]:
    """The arrays of the file by name, to be read while it is open."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; expected an .npz file written by numpy.savez")
    try:
        archive, size = _archive(path), os.stat(path).st_size
    except _DAMAGE as error:
        raise DataError(f"{path}: is no .npz file, or a truncated one ({_reason(error)})") from None
    with archive:
        infos = archive.infolist()
        yield {
            info.filename.removesuffix(".npy"): _Member(archive, info, min(info.compress_size, size)) for info in infos
        }


def _archive(path: Path) -> ZipFile:
    with path.open("rb") as file:
        start = file.read(len(npy.MAGIC_PREFIX))
    if start == npy.MAGIC_PREFIX:
        raise DataError(f"{path}: holds a single array; expected an .npz file written by numpy.savez")
    if not start.startswith(b"PK"):
        raise ValueError("it does not begin like one")
    return ZipFile(path)


def npz_keys(path: Path) -> list[str]:
    """Names of the arrays in the file."""
    with _opened(path) as members:
        return sorted(members)


def read_npz(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays ``required``, and those of ``optional`` that the file has, each read whole.

    Raises `DataError` when the file is missing, is no .npz, is damaged, lacks an array, holds Python objects, or
    unpacks to far more than it is.
    """
    with _opened(path) as members:
        missing = [name for name in required if name not in members]
        if missing:
            raise DataError(
                f"{path}: has no array {', '.join(missing)}; it holds {', '.join(sorted(members)) or 'nothing'}"
            )
        wanted = [*required, *(name for name in optional if name in members)]
        return {name: _array(members[name], f"{path}: array {name}") for name in wanted}


def _array(member: _Member, label: str) -> np.ndarray:
    archive, info, packed = member
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise DataError(f"{label} is compressed in a way that numpy does not write; save it with numpy.savez")
    if info.file_size > allowance(packed):
        raise DataError(f"{label} {refusal(info.file_size, packed)}")
    try:
        with archive.open(info) as file:
            head = BytesIO(file.read(MOST_HEADER))
            shape, fortran, dtype = _header(head)
            size, follow = prod(shape) * dtype.itemsize, info.file_size - head.tell()
            if size != follow:
                raise ValueError(f"its header announces {size:,} bytes, but {follow:,} follow")
            payload = bytearray(head.read())
            payload += read_up_to(file, size - len(payload))
            return np.ndarray(shape, dtype, payload, order="F" if fortran else "C")
    except _DAMAGE as error:
        raise DataError(f"{label} cannot be read ({_reason(error)})") from None


def _header(file: BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis runs fastest, and dtype; anything wrong with them is a `ValueError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers of an old style, which are understood
            shape, fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    except Exception:  # numpy hands on whatever the parser of Python's own literals raises
        raise ValueError("it does not begin with a header that numpy writes") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded; save plain numbers")
    if dtype.kind not in "biufcSUmM" or not dtype.itemsize:
        raise ValueError(f"it has dtype {dtype}; save plain numbers")
    if len(shape) > MOST_AXES:
        raise ValueError(f"it has {len(shape)} axes; expected {MOST_AXES} at most")
    return tuple(map(int, shape)), fortran, dtype


def _reason(error: Exception) -> str:
    """The first line of an error of numpy or zipfile."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Arrays(NamedTuple):
    """Samples and labels of a file; the test part is None where the file has none."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray] | None


def read_arrays(path: Path) -> Arrays:
    """``x``, ``y`` and, where present, ``x_test``, ``y_test`` (one without the other is a `DataError`)."""
    found = read_npz(path, ("x", "y"), ("x_test", "y_test"))
    if ("x_test" in found) != ("y_test" in found):
        raise DataError(f"{path}: has only one of x_test and y_test; expected both or neither")
    test = (found["x_test"], found["y_test"]) if "x_test" in found else None
    return Arrays((found["x"], found["y"]), test)
