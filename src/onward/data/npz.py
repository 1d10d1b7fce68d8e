"""Reading .npz files: every defect is a one-line `DataError`, and no pickled object is ever loaded."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from onward.core.errors import DataError


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an .npz file written by numpy.savez")
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except (BadZipFile, ValueError, OSError, EOFError) as error:
            reason = "it does not begin like one" if "pickle" in str(error) else _reason(error)
            raise DataError(f"{path}: is no .npz file, or a truncated one ({reason})") from None
        if not isinstance(archive, NpzFile):
            raise DataError(f"{path}: holds a single array; expected an .npz file written by numpy.savez")
        with archive:
            yield archive


def npz_keys(path: Path) -> list[str]:
    """Names of the arrays in the file."""
    with _opened(path) as archive:
        return sorted(archive.files)


def read_npz(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays ``required``, and those of ``optional`` that the file has, each read whole.

    Raises `DataError` when the file is missing, is no .npz, is damaged, lacks an array or holds Python objects.
    """
    with _opened(path) as archive:
        missing = [name for name in required if name not in archive.files]
        if missing:
            raise DataError(
                f"{path}: has no array {', '.join(missing)}; it holds {', '.join(sorted(archive.files)) or 'nothing'}"
            )
        wanted = [*required, *(name for name in optional if name in archive.files)]
        return {name: _member(archive, name, path) for name in wanted}


def _member(archive: NpzFile, name: str, path: Path) -> np.ndarray:
    try:
        return archive[name]
    except (BadZipFile, ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: array {name} cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The first sentence of an error of numpy or zipfile."""
    if "allow_pickle" in str(error):
        return "it holds Python objects, which are never loaded; save plain numbers"
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
