"""Small files cannot ask for all memory, and honest ones are not refused."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idx_files import encode

from onward.core.errors import DataError
from onward.data import ArrayDataset, Recordings, limits, load, read_recordings
from onward.data import idx as idx_module
from onward.data.binning import MOST_ROWS, Binary, Counts, FixedWidth, event_dataset, pack
from onward.data.cifar import CIFAR10, read_cifar
from onward.data.folders import expanded
from onward.data.idx import read_idx
from onward.data.npz import read_npz


@pytest.fixture
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALWAYS", 50_000)


ZEROS, NOISE = np.zeros((1000, 80), np.uint8), np.random.default_rng(0).integers(0, 256, (1000, 80), dtype=np.uint8)


@pytest.mark.usefixtures("_little")
def test_zeros_by_the_thousand_are_refused_and_stored_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x=ZEROS)
    with pytest.raises(
        DataError, match=r"array x announces 80,128 bytes, and \d+ may unpack to .* store it uncompressed"
    ):
        read_npz(path, ["x"])
    np.savez(path, x=ZEROS)
    assert np.array_equal(read_npz(path, ["x"])["x"], ZEROS)
    np.savez_compressed(path, x=NOISE)
    assert np.array_equal(read_npz(path, ["x"])["x"], NOISE)


@pytest.mark.usefixtures("_little")
@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_idx_has_the_same_limit(tmp_path: Path, suffix: str, compress: Any) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(compress(encode(ZEROS)))
    with pytest.raises(DataError, match=r"announces 80,000 bytes, .* made to fill memory"):
        read_idx(path, 2)
    path.write_bytes(compress(encode(NOISE)))
    assert np.array_equal(read_idx(path, 2), NOISE)
    plain = tmp_path / "images"
    plain.write_bytes(encode(ZEROS))
    assert np.array_equal(read_idx(plain, 2), ZEROS)


@pytest.mark.usefixtures("_little")
def test_what_an_archive_says_of_itself_is_not_believed(tmp_path: Path) -> None:
    """A member that claims to be packed from more bytes than the file has would be allowed to grow."""
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x=ZEROS)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 : entry + 24] = (10**6).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match="array x announces 80,128 bytes"):
        read_npz(path, ["x"])


def test_xz_may_not_ask_for_a_vast_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.xz"
    path.write_bytes(lzma.compress(encode(NOISE), preset=9))
    assert np.array_equal(read_idx(path, 2), NOISE)
    monkeypatch.setattr(idx_module, "XZ_MEMORY", 2**25)
    with pytest.raises(DataError, match="Memory usage limit"):
        read_idx(path, 2)


@pytest.mark.parametrize("cut", [1, 500, 40_000])
def test_xz_that_ends_early_is_damaged_and_streams_may_follow_one_another(tmp_path: Path, cut: int) -> None:
    path, content = tmp_path / "images.xz", encode(NOISE)
    packed = lzma.compress(content)
    path.write_bytes(packed[:-cut])
    with pytest.raises(DataError, match=r"images\.xz"):
        read_idx(path, 2)
    path.write_bytes(lzma.compress(content[:cut]) + lzma.compress(content[cut:]))
    assert np.array_equal(read_idx(path, 2), NOISE)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_what_numpy_writes_is_unpacked(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "mine.npz", "w", method) as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(DataError, match="compressed in a way that numpy does not write"):
        read_npz(tmp_path / "mine.npz", ["x"])


def _npz(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    return path


def _head(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain text", "does not begin with a header"),
        (b"", "does not begin with a header"),
        (_head("'<f8'", "(10**12,)"), "does not begin with a header"),
        (_head("'<f8'", "(1000000000000,)"), "announces 8,000,000,000,000 bytes, but 0 follow"),
        (_head("'<f8'", "(2,)") + bytes(17), "announces 16 bytes, but 17 follow"),
        (_head("'<f8'", "(-1, -2)") + bytes(16), "negative dimensions"),
        (_head("'|u1'", str((1,) * 17)) + b"1", "has 17 axes; expected 16 at most"),
        (_head("'|V8'", "(1,)") + bytes(8), "has dtype .*V8; save plain numbers"),
        (_head("'<U0'", "(1000000000000,)"), "has dtype <U0"),
        (_head("[('a', 'O')]", "(1,)") + bytes(8), "Python objects, which are never loaded"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x00" + b" " * 9000, "does not begin with a header"),
    ],
)
def test_headers_are_held_against_the_bytes_that_are_there(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"array x cannot be read .*{message}"):
        read_npz(_npz(tmp_path / "mine.npz", content), ["x"])


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_in_either_order_and_can_be_written_to(tmp_path: Path, order: Any) -> None:
    x = np.arange(24.0, dtype=">f4").reshape(2, 3, 4).copy(order)
    np.savez_compressed(tmp_path / "mine.npz", x=x, one=np.float32(3))
    found = read_npz(tmp_path / "mine.npz", ["x", "one"])
    assert np.array_equal(found["x"], x)
    assert found["x"].dtype == x.dtype
    assert found["x"].flags.writeable
    assert found["one"].shape == ()


def test_a_damaged_checksum_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=NOISE)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        read_npz(path, ["x"])


def test_whole_numbers_beyond_64_bits_are_refused_not_wrapped() -> None:
    with pytest.raises(DataError, match=r"x holds 18446744073709551615; expected numbers below 2\^63"):
        ArrayDataset(np.array([[2**64 - 1], [0]], np.uint64), np.arange(2))
    with pytest.raises(DataError, match="x is complex"):
        ArrayDataset(np.zeros((2, 1), np.clongdouble), np.arange(2))


def _recordings(t: list[int], steps_apart: int = 1) -> Recordings:
    count = len(t)
    return Recordings(
        np.arange(count, dtype=np.uint16),
        np.array(t, np.uint32) * steps_apart,
        np.array([0, count]),
        np.zeros(1, np.int64),
        5,
        4,
    )


@pytest.mark.parametrize("reading", [Binary(), Counts()])
def test_sorting_events_gives_what_marking_cells_gives(reading: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = _recordings([0, 3, 3, 3, 900, 900, 5000])
    dense = pack(recordings, FixedWidth(7), reading, 800)
    monkeypatch.setattr("onward.data.binning._DENSE", 0)
    sparse = pack(recordings, FixedWidth(7), reading, 800)
    for name in ("indices", "rows", "values"):
        one, other = getattr(dense, name), getattr(sparse, name)
        assert np.array_equal(one, other) if one is not None else other is None


def test_a_recording_of_an_hour_in_fine_steps_takes_memory_for_its_events_alone() -> None:
    late = _recordings([0, 1, 2**32 - 1])
    data = event_dataset(late, FixedWidth(100), Binary())
    assert data.steps == 42_949_673
    packed = pack(late, FixedWidth(100), Binary(), data.steps)
    assert packed.indices.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"1 recordings of 4,294,967,296 time steps .* --data\.bin-us"):
        pack(late, FixedWidth(1), Binary(), 2**32)
    assert MOST_ROWS < 2**32


def test_sensors_and_letters_have_limits(tmp_path: Path) -> None:
    path, one = tmp_path / "events.npz", np.zeros(1, np.int64)
    arrays = {"x": one, "y": one, "p": one, "t": one, "offsets": np.array([0, 1]), "label": one}
    np.savez(path, split=np.frombuffer(b"\xff\xff\xff\xff", "<U1"), **arrays)
    with pytest.raises(DataError, match="split holds numbers that are no letters"):
        read_recordings(path)
    np.savez(path, split=np.array(["train"]).astype(">U5"), **arrays)
    assert len(read_recordings(path)) == 1
    with pytest.raises(DataError, match="a sensor of 1000000 x 1000000 pixels was given; expected 16,777,216 at most"):
        read_recordings(path, 10**6, 10**6)


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "i8", "u8"])
def test_addresses_are_the_same_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    rng, path = np.random.default_rng(1), tmp_path / "events.npz"
    x, y, p = (rng.integers(0, high, 50) for high in (120, 110, 2))
    whole = {"t": np.arange(50), "offsets": np.array([0, 50]), "label": np.zeros(1, int)}
    np.savez(path, x=x.astype(dtype), y=y.astype(dtype), p=p.astype(dtype), **whole)
    assert np.array_equal(read_recordings(path, 200, 300).address, (p * 200 + y) * 300 + x)


def test_paths_that_cannot_be_opened_are_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"~nobody-of-this-name/x: there is no such user"):
        expanded("~nobody-of-this-name/x")
    for name in ("a" * 5000 + ".npz", "\x00.npz", "\udcff.npz"):
        with pytest.raises(DataError, match="no such file"):
            load({"name": "file", "file": name})
    with pytest.raises(DataError, match="looked for"):
        load({"name": "fashion-mnist", "root": "a" * 5000})
    with pytest.raises(DataError, match="cannot be read"):
        read_cifar(tmp_path / "absent", 1, CIFAR10)
