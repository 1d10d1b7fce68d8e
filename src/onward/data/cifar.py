"""The binary version of CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html).

A record is the label byte (CIFAR-100: a coarse one, then the fine one) and 3,072 bytes: red, green and blue
planes of 32 x 32, row by row.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from onward.core.errors import DataError

_PIXELS = 3 * 32 * 32


class Format(NamedTuple):
    """One of the two record layouts: the last of ``label_bytes`` is the class, one of ``classes``."""

    label_bytes: int
    classes: int


CIFAR10 = Format(label_bytes=1, classes=10)
CIFAR100 = Format(label_bytes=2, classes=100)


def read_cifar(path: Path, records: int, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[records, 3, 32, 32]`` uint8 and labels ``[records]`` uint8 of one file.

    Raises `DataError` if the file cannot be read, has not exactly ``records`` records or holds a label beyond the
    classes.
    """
    try:
        return _read_cifar(path, records, form)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read_cifar(path: Path, records: int, form: Format) -> tuple[np.ndarray, np.ndarray]:
    size, expected = path.stat().st_size, records * (form.label_bytes + _PIXELS)
    if size != expected:
        raise DataError(
            f"{path}: is {size:,} bytes long; expected {expected:,} "
            f"({records:,} records of {form.label_bytes + _PIXELS:,} bytes)"
        )
    rows = np.fromfile(path, np.uint8).reshape(records, form.label_bytes + _PIXELS)
    labels = rows[:, form.label_bytes - 1].copy()
    if labels.max() >= form.classes:
        row = int(np.argmax(labels >= form.classes))
        raise DataError(f"{path}: record {row} has label {labels[row]}; expected 0 to {form.classes - 1}")
    return np.ascontiguousarray(rows[:, form.label_bytes :]).reshape(records, 3, 32, 32), labels


def read_cifar_files(paths: list[Path], records: int, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Several files of ``records`` records each, one after the other."""
    parts = [read_cifar(path, records, form) for path in paths]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
