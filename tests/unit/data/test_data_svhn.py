"""MATLAB files: what is read is what was written, by hand or by others, and all else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fuzz import packing
from tests.fuzz.packing import mat_array, mat_element, mat_header, mat_packed

from onward.core.errors import DataError
from onward.data import limits, load
from onward.data.mat import MOST_ARRAYS, read_mat
from onward.data.svhn import read_svhn

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]


def write(path: Path, *elements: bytes, order: packing.Order = "little") -> Path:
    path.write_bytes(mat_header(order) + b"".join(elements))
    return path


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("code", DTYPES)
def test_every_type_in_either_byte_order(tmp_path: Path, code: str, order: packing.Order) -> None:
    values = np.arange(24).astype(code).reshape(2, 3, 4)
    element = mat_array("values", values, order)
    for stored in (element, mat_packed(element, order)):
        found = read_mat(write(tmp_path / "a.mat", stored, order=order), ["values"])["values"]
        assert np.array_equal(found, values)
        assert (found.dtype.kind, found.itemsize) == (code[0], int(code[1]))


def test_short_elements_and_others_in_between(tmp_path: Path) -> None:
    label, text = mat_array("y", np.array([[7]], np.uint8)), mat_array("comment", np.zeros((1, 3), np.uint16), kind=4)
    handle = mat_element(14, mat_element(6, bytes([17]) + bytes(7)) + mat_element(1, b"anything at all"))
    path = write(tmp_path / "a.mat", mat_packed(text), handle, label, text)
    assert read_mat(path, ["y"])["y"].tolist() == [[7]]


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes(tmp_path: Path, compressed: bool) -> None:
    io = pytest.importorskip("scipy.io", reason="compares with files that scipy writes")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (32, 32, 3, 40), dtype=np.uint8), rng.integers(1, 11, (40, 1))
    io.savemat(tmp_path / "a.mat", {"about": {"n": 40}, "X": x, "y": y, "empty": []}, do_compression=compressed)
    images, labels = read_svhn(tmp_path / "a.mat")
    assert np.array_equal(images, np.moveaxis(x, (3, 2), (0, 1)))
    assert np.array_equal(labels, y[:, 0] % 10)
    assert images.flags.c_contiguous


def test_what_scipy_reads(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io", reason="the files of these tests are read by scipy too")
    path = write(tmp_path / "a.mat", *packing.digits()[1:])
    assert np.array_equal(io.loadmat(path)["X"], read_mat(path, ["X"])["X"])


def test_rows_columns_channels_and_the_digit_0(tmp_path: Path) -> None:
    x = np.zeros((32, 32, 3, 2), np.uint8)
    x[5, 7, 1, 1] = 9
    images, labels = read_svhn(
        write(tmp_path / "a.mat", mat_array("X", x), mat_array("y", np.array([[10], [3]], np.uint8)))
    )
    assert (images.shape, images[1, 1, 5, 7], images.sum()) == ((2, 3, 32, 32), 9, 9)
    assert labels.tolist() == [0, 3]


X = mat_array("X", np.zeros((32, 32, 3, 2), np.uint8))
Y = mat_array("y", np.ones((2, 1)))


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ((X,), r"has no array y$"),
        ((), r"has no array X and none y$"),
        ((mat_array("X", np.zeros((32, 32, 3, 2), np.int8)), Y), r"X is \[32, 32, 3, 2\] of int8; expected"),
        ((mat_array("X", np.zeros((32, 32, 2), np.uint8)), Y), r"X is \[32, 32, 2\] of uint8; expected \[32, 32, 3, N"),
        ((mat_array("X", np.zeros((32, 32, 3, 0), np.uint8)), Y), r"X is \[32, 32, 3, 0\]"),
        ((X, mat_array("y", np.ones((1, 2)))), r"y is \[1, 2\]; expected \[2, 1\], a label for each image"),
        ((X, mat_array("y", np.array([[1.0], [0.0]]))), r"y holds the label 0.0; expected 1 to 10"),
        ((X, mat_array("y", np.array([[1.5], [2.0]]))), r"y holds the label 1.5"),
        ((X, mat_array("y", np.array([[np.nan], [2.0]]))), r"y holds the label nan"),
        ((X, mat_array("y", np.ones((2, 1), np.uint16), kind=4)), "y is text; expected real numbers"),
        ((X, mat_array("y", np.ones((2, 1)), kind=0x0806)), "y is complex; expected real numbers"),
        ((X[:-8], Y), "an array is announced|too early|stands where an array was expected"),
        ((X, Y[:-8]), r"an array of 64 bytes is announced, and only 56 follow"),
        ((mat_packed(X + bytes(8)), Y), "the compressed data go on after the end of their array"),
        ((mat_packed(X[:-1000]), Y), "it ends 1,000 bytes too early"),
        ((mat_packed(X)[:-4], Y), "cannot be read as a MATLAB file"),
        ((mat_element(9, bytes(16)),), "something of type 9 stands where an array was expected"),
        ((mat_packed(mat_element(9, bytes(16))),), "compressed data hold something of type 9"),
        ((mat_array("z", np.zeros((1, 1))) * (MOST_ARRAYS + 1),), "more than 100 arrays"),
        ((b"\x0e\x00",), "it ends 6 bytes too early"),
    ],
)
def test_what_is_refused(tmp_path: Path, elements: tuple[bytes, ...], words: str) -> None:
    path = write(tmp_path / "a.mat", *elements)
    with pytest.raises(DataError, match=words) as refused:
        read_svhn(path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin like one of level 5"),
        (b"P5 28 28 255 ".ljust(200), "does not begin like one of level 5"),
        (mat_header()[:124] + b"\x00\x02IM" + bytes(600), "of another level than 5, such as HDF5; save it with -v7"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_mat(tmp_path / "a.mat", ["X"])
    with pytest.raises(DataError, match="No such file"):
        read_mat(tmp_path / "b.mat", ["X"])


def test_a_small_file_cannot_ask_for_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALWAYS", 50_000)
    zeros = mat_array("z", np.zeros((100, 1000), np.uint8))
    with pytest.raises(DataError, match=r"announces 100,\d+ bytes, .* store it uncompressed"):
        read_mat(write(tmp_path / "a.mat", mat_packed(zeros)), ["z"])
    assert not read_mat(write(tmp_path / "a.mat", zeros), ["z"])["z"].any()


def test_svhn_from_a_folder(tmp_path: Path) -> None:
    header, *arrays = packing.digits()
    (tmp_path / "svhn").mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / "svhn" / name).write_bytes(header + b"".join(map(mat_packed, arrays)))
    split = load({"name": "svhn", "root": str(tmp_path)})
    assert (len(split.train), split.test.features, split.test.classes) == (2, (3, 32, 32), 10)
    assert split.train.labels().tolist() == [0, 3]
    with pytest.raises(DataError, match=r"svhn: looked for train_32x32.mat and 1 more in .*ufldl.stanford.edu"):
        load({"name": "svhn", "root": str(tmp_path / "elsewhere")})
