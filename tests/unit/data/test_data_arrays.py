"""Arrays and torch data sets of one's own, and .npz files with x and y."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from onward.core.errors import ConfigError, DataError, ShapeError
from onward.data import ArrayDataset, FramesLayout, from_torch, load, open_file
from onward.data.catalogue import datasets

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["u1", "?", "i2", ">i4", "u2", "f2", "<f4", ">f8"])
def test_dtypes_of_x(dtype: str) -> None:
    values = RNG.integers(0, 2, (6, 4)) * (255 if dtype == "u1" else 1)
    data = ArrayDataset(values.astype(dtype), np.arange(6))
    x = data.batch(torch.arange(6), steps=2).x.chunk(0, 2)
    assert x.dtype == torch.float32
    assert np.array_equal(x[1], values / (255 if dtype == "u1" else 1))


def test_static_and_frames() -> None:
    values = RNG.random((5, 7, 3), dtype=np.float32)
    still = ArrayDataset(values, np.arange(5))
    moving = ArrayDataset(values, np.arange(5), layout=FramesLayout())
    assert (still.features, still.steps) == ((7, 3), None)
    assert (moving.features, moving.steps) == ((3,), 7)
    ids = torch.tensor([3, 0])
    assert torch.equal(moving.batch(ids, 7).x.chunk(2, 4), torch.from_numpy(values[[3, 0]]).transpose(0, 1)[2:4])
    with pytest.raises(ShapeError, match="7 frames each, but 6 time steps"):
        moving.batch(ids, 6)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[0.0, np.nan], [1, 2]], [0, 1], "NaN, infinity .* in 1 of 2 samples, first in sample 0"),
        ([[0.0, 1], [np.inf, 2]], [0, 1], "first in sample 1"),
        (np.array([[1e300], [0]]), [0, 1], "beyond float32"),
        ([[1j], [0]], [0, 1], "x is complex"),
        ([["a"], ["b"]], [0, 1], "x has dtype <U1; expected numbers"),
        ([1.0, 2.0], [0, 1], r"x has shape \[2\]; expected \[N, \*features\]"),
        (np.zeros((0, 3)), [0], "not empty"),
        (np.zeros((3, 2)), [0, 1], "x has 3 samples but y has 2 labels"),
        (np.zeros((2, 2)), [0.0, 1.0], "y has dtype float32; expected integers"),
        (np.zeros((2, 2)), [[1, 0], [0, 1]], r"y has shape \[2, 2\]; expected \[N\]"),
        (np.zeros((2, 2)), [-1, 0], "y holds the label -1"),
        (np.zeros((2, 2)), [0, 3], r"y holds the label 3, but there are 3 classes \(0 to 2\)"),
    ],
)
def test_unusable_arrays(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArrayDataset(np.asarray(x), np.asarray(y), classes=3, name="mine")


def test_labels_that_are_hardly_class_numbers() -> None:
    x, y = np.zeros((2, 3)), np.array([0, 10**9])
    with pytest.raises(DataError, match=r"would make 1,000,000,001 classes; number the classes from 0.*--data.classes"):
        ArrayDataset(x, y, name="mine")
    assert ArrayDataset(x, y, classes=10**9 + 1).classes == 10**9 + 1


def test_from_torch_reads_item_by_item() -> None:
    x, y = torch.rand(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    data = from_torch(TensorDataset(x, y), name="mine")
    batch = data.batch(torch.tensor([5, 1]), steps=4)
    assert (len(data), data.classes, data.features, data.steps) == (6, 3, (3,), None)
    assert torch.equal(batch.x.chunk(3, 4)[0], x[[5, 1]])
    assert batch.y.tolist() == [2, 1]


def test_from_torch_checks_items() -> None:
    x = torch.rand(3, 2)
    x[1] = torch.nan
    data = from_torch(TensorDataset(x, torch.arange(3)))
    with pytest.raises(DataError, match="NaN"):
        data.batch(torch.tensor([0, 1]), 1)
    with pytest.raises(DataError, match="label 2, but there are 2 classes"):
        from_torch(TensorDataset(x, torch.arange(3)), classes=2).batch(torch.tensor([2]), 1)
    with pytest.raises(DataError, match="the data set is empty"):
        from_torch(TensorDataset(x[:0], torch.arange(0)))


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_file_with_a_test_part(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (8, 3, 5), dtype=np.uint8), np.arange(8) % 4
    path = save(tmp_path / "mine.npz", x=x, y=y, x_test=x[:3], y_test=y[:3])
    split = load({"name": "file", "file": str(path)})
    assert (len(split.train), len(split.test), split.test.classes, split.train.features) == (8, 3, 4, (3, 5))
    assert np.allclose(split.test.batch(torch.arange(3), 1).x.chunk(0, 1)[0], x[:3] / 255)


def test_file_without_a_test_part_is_split_by_seed(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", x=np.arange(20.0)[:, None], y=np.arange(20) % 2)

    def parts(seed: int) -> list[list[float]]:
        split = load({"name": "file", "file": str(path), "holdout": 0.25, "holdout_seed": seed})
        return [part.batch(torch.arange(len(part)), 1).x.chunk(0, 1).flatten().tolist() for part in split]

    train, test = parts(0)
    assert (len(train), len(test)) == (15, 5)
    assert sorted(train + test) == list(range(20))
    assert parts(0) == [train, test]
    assert parts(1) != [train, test]


def test_frames_file(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", x=np.zeros((6, 9, 2, 4), np.float32), y=np.arange(6))
    train = load({"name": "file", "file": str(path), "layout": "frames"}).train
    assert (train.steps, train.features) == (9, (2, 4))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 2))}, "has no array y; it holds x"),
        ({"x": np.zeros((2, 2)), "y": np.arange(2), "x_test": np.zeros((2, 2))}, "only one of x_test and y_test"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, "a"], object)}, "array y cannot be read .*never loaded"),
        (
            {"x": np.zeros((2, 2)), "y": [0, 1], "x_test": np.zeros((2, 3)), "y_test": [0, 1]},
            r"x_test has samples of shape \[3\], x of \[2\]",
        ),
        (
            {"x": np.zeros((2, 2)), "y": [0, 1], "x_test": np.zeros((2, 2)), "y_test": [0, 2]},
            "label 2, but there are 2",
        ),
        ({"x": np.zeros((1, 2)), "y": [0]}, "cannot be split into a training and a test part"),
    ],
)
def test_unusable_files(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load({"name": "file", "file": str(save(tmp_path / "mine.npz", **arrays))})


def test_a_text_file_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_text("x,y")
    with pytest.raises(DataError, match=r"is no .npz file, or a truncated one \(it does not begin like one\)"):
        load({"name": "file", "file": str(path)})


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "mine.npz", x=RNG.random((50, 4)), y=np.arange(50))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"mine\.npz: .*truncated") as caught:
        load({"name": "file", "file": str(path)})
    assert "\n" not in str(caught.value)


def test_corrupted_file(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", x=RNG.random((50, 4)), y=np.arange(50))
    content = bytearray(path.read_bytes())
    content[600] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="array x cannot be read"):
        load({"name": "file", "file": str(path)})


def test_no_file_or_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give --data\.file FILE\.npz"):
        load("file")
    with pytest.raises(DataError, match="no such file"):
        load({"name": "file", "file": str(tmp_path / "absent.npz")})
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match="holds a single array"):
        load({"name": "file", "file": str(tmp_path / "single.npy")})
    with pytest.raises(ConfigError, match="holdout"):
        load({"name": "file", "file": "x.npz", "holdout": 1.5})


def test_open_file_by_its_keys(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", x=np.zeros((4, 6, 2)), y=np.arange(4))
    like = datasets.parse({"name": "file", "layout": "frames"})
    assert open_file(path, like).steps == 6
    assert open_file(path, datasets.parse("mnist")).steps is None
    with pytest.raises(DataError, match="have no splits"):
        open_file(path, like, split="test")
    with pytest.raises(DataError, match="holds a; expected x and y, or event recordings: x, y, p, t, offsets, label"):
        open_file(save(tmp_path / "other.npz", a=np.zeros(2)), like)


def test_open_file_scales_as_the_training_set_was(tmp_path: Path) -> None:
    like = datasets.parse({"name": "mnist", "normalise": True})
    digits = load("mnist").test
    bytes_ = (digits.batch(torch.arange(4), 1).x.chunk(0, 1)[0] * 255).round().byte()
    data = open_file(save(tmp_path / "mine.npz", x=bytes_.numpy(), y=np.arange(4)), like)
    expected = load(like).test.batch(torch.arange(4), 1).x.chunk(0, 1)
    assert torch.allclose(data.batch(torch.arange(4), 1).x.chunk(0, 1), expected)
