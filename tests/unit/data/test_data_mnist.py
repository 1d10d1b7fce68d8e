"""The embedded MNIST: its hashes, its contents, its licence, and what happens when it is damaged."""

from __future__ import annotations

import hashlib
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest

from onward.core.errors import DataError
from onward.data.mnist import FOLDER, hashes, mnist_arrays, read_embedded


def test_hashes_of_compressed_and_canonical_files() -> None:
    listed = hashes()
    packed = sorted(FOLDER.glob("*.xz"))
    assert len(packed) == 4
    for path in packed:
        content = path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == listed[path.name]
        assert hashlib.sha256(lzma.decompress(content)).hexdigest() == listed[path.stem]


def test_contents() -> None:
    (x, y), (test_x, test_y) = mnist_arrays()
    assert (x.shape, test_x.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert np.bincount(y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_decoded_once() -> None:
    assert mnist_arrays()[0][0] is mnist_arrays()[0][0]


def test_licence_is_beside_the_data() -> None:
    text = (FOLDER / "LICENSE-MNIST.txt").read_text()
    assert "CC BY-SA 3.0" in text
    assert "Yann LeCun and Corinna Cortes" in text


def test_damage_is_found_before_use(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "embedded")
    damaged = tmp_path / "embedded" / "t10k-labels-idx1-ubyte.xz"
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.xz: SHA-256 is .* reinstall onward"):
        read_embedded("t10k", tmp_path / "embedded")
