"""MNIST as it ships inside the package: four xz-compressed IDX files, checked against their hashes."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from onward.core.errors import DataError
from onward.data.idx import read_pair

FOLDER = Path(__file__).parent / "embedded"
PARTS = ("train", "t10k")


def hashes(folder: Path = FOLDER) -> dict[str, str]:
    """SHA-256 by file name, from ``SHA256SUMS``: each compressed file and the IDX file inside it."""
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def verify(path: Path, expected: str) -> None:
    """Raises `DataError` unless the SHA-256 of the file is ``expected``."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DataError(f"{path}: SHA-256 is {found}; expected {expected}. The file is damaged: reinstall onward")


def read_embedded(part: str, folder: Path = FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """Verified images ``[N, 1, 28, 28]`` and labels ``[N]`` of ``part`` ("train" or "t10k")."""
    paths = [folder / f"{part}-{kind}-ubyte.xz" for kind in ("images-idx3", "labels-idx1")]
    expected = hashes(folder)
    for path in paths:
        verify(path, expected[path.name])
    return read_pair(*paths)


@cache
def mnist_arrays() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(x, y) of the 60,000 training and of the 10,000 test digits.

    Decoded once per process (under a second) and kept: 55 MB.
    """
    with ThreadPoolExecutor(len(PARTS)) as pool:
        train, test = pool.map(read_embedded, PARTS)
    return train, test
