"""IDX files: what was written is read; every kind of damage is one clear error."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from idx_files import encode

from onward.core.errors import DataError
from onward.data.idx import read_idx, read_pair

PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


@given(values=arrays(np.uint8, array_shapes(max_dims=3, max_side=5)), suffix=st.sampled_from(list(PACKERS)))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, suffix: str) -> None:
    path = tmp_path_factory.mktemp("idx") / f"images{suffix}"
    path.write_bytes(PACKERS[suffix](encode(values)))
    read = read_idx(path, values.ndim)
    assert read.dtype == np.uint8
    assert np.array_equal(read, values)


GOOD = encode(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"starts with bytes \(none\); expected 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "starts with bytes 00 00 0d 03; expected 00 00 08 03"),
        (GOOD[:9], "ends inside the header, after 9 of 16 bytes"),
        (GOOD[:-1], r"announces 24 values \[2, 3, 4\], but only 23 follow"),
        (GOOD + b"\x00", "announces 24 values .* but more follow"),
        (bytes([0, 0, 8, 3]) + bytes([0, 0, 1, 0] * 3) + b"\x00" * 9, "but only 9 follow"),
        (bytes([0, 0, 8, 3]) + bytes([0, 0, 0, 2] * 2) + bytes(4), r"announces \[2, 2, 0\], no values"),
    ],
)
@pytest.mark.parametrize("suffix", list(PACKERS))
def test_damage_is_named(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(PACKERS[suffix](content))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "not compressed"])
def test_damaged_compression(tmp_path: Path, suffix: str, damage: str) -> None:
    packed = bytearray(PACKERS[suffix](encode(np.random.default_rng(0).integers(0, 255, (5, 20, 20)))))
    if damage == "truncated":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed = bytearray(GOOD)
    path = tmp_path / f"images{suffix}"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="images"):
        read_idx(path, 3)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("excess", [b"\x00" * 100, b"more"])
def test_bytes_after_the_compressed_data_are_refused(tmp_path: Path, suffix: str, excess: bytes) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(PACKERS[suffix](GOOD) + excess)
    with pytest.raises(DataError, match="images"):
        read_idx(path, 3)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "absent", 3)


def test_pair_of_different_lengths(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(GOOD)
    (tmp_path / "y").write_bytes(encode(np.zeros(3)))
    with pytest.raises(DataError, match="holds 2 images, but y holds 3 labels"):
        read_pair(tmp_path / "x", tmp_path / "y")
