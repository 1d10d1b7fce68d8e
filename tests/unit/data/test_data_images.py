"""CIFAR and Fashion-MNIST from folders, the folder lookup, normalisation and limits."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import encode

from onward._folders import shared_folder
from onward.core.errors import DataError, UnknownName
from onward.data import Loader, augmentation, datasets, listing, load
from onward.data.cifar import CIFAR10, CIFAR100, Format, read_cifar


def records(count: int, form: Format, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, form.label_bytes + 3072), dtype=np.uint8)
    rows[:, : form.label_bytes] = rng.integers(0, form.classes, (count, form.label_bytes))
    return rows


@pytest.mark.parametrize("form", [CIFAR10, CIFAR100])
def test_cifar_round_trip(tmp_path: Path, form: Format) -> None:
    rows = records(7, form)
    rows.tofile(tmp_path / "part.bin")
    x, y = read_cifar(tmp_path / "part.bin", 7, form)
    assert np.array_equal(y, rows[:, form.label_bytes - 1]), "CIFAR-100's second byte is the fine label"
    assert np.array_equal(x[3, 1].ravel(), rows[3, form.label_bytes + 1024 : form.label_bytes + 2048]), "green plane"


@pytest.mark.parametrize("change", [-1, 1, -3073])
def test_cifar_of_another_size(tmp_path: Path, change: int) -> None:
    content = records(4, CIFAR10).tobytes() + b"\x00"
    (tmp_path / "part.bin").write_bytes(content[: 4 * 3073 + change])
    with pytest.raises(DataError, match=r"bytes long; expected 12,292 \(4 records of 3,073 bytes\)"):
        read_cifar(tmp_path / "part.bin", 4, CIFAR10)


def test_cifar_label_beyond_the_classes(tmp_path: Path) -> None:
    rows = records(4, CIFAR10)
    rows[2, 0] = 10
    rows.tofile(tmp_path / "part.bin")
    with pytest.raises(DataError, match="record 2 has label 10; expected 0 to 9"):
        read_cifar(tmp_path / "part.bin", 4, CIFAR10)


def write_fashion(folder: Path, train: int = 30, test: int = 10) -> np.ndarray:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    first = np.zeros(0)
    for part, count in (("train", train), ("t10k", test)):
        x, y = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        first = x if part == "train" else first
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(x)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode(y)))
    return first


@pytest.mark.parametrize("inside", ["", "fashion-mnist"])
def test_folder_or_its_parent(tmp_path: Path, inside: str) -> None:
    x = write_fashion(tmp_path / "files" / inside if inside else tmp_path / "files")
    split = load({"name": "fashion-mnist", "root": str(tmp_path / "files")})
    batch = split.train.batch(torch.tensor([4, 2]), steps=3)
    assert torch.allclose(batch.x.chunk(1, 2)[0, 0, 0], torch.from_numpy(x[4] / 255).float())
    assert batch.y.tolist() == [4, 2]
    assert (len(split.train), len(split.test), split.train.features) == (30, 10, (1, 28, 28))


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The platform's folder for data of a user who has none."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "share"))
    return shared_folder()


@pytest.mark.usefixtures("empty_home")
def test_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion(tmp_path / "fashion-mnist")
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
    assert len(load("fashion-mnist").train) == 30
    found = {line.name: line for line in listing()}
    assert found["fashion-mnist"].where == str(tmp_path / "fashion-mnist")
    assert found["fashion-mnist"].found
    assert found["mnist"].found
    assert not found["cifar10"].found


def test_folder_of_the_platform_comes_last(empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path / "data"))
    write_fashion(empty_home / "fashion-mnist", train=20)
    assert len(load("fashion-mnist").train) == 20
    write_fashion(tmp_path / "data" / "fashion-mnist")
    assert len(load("fashion-mnist").train) == 30
    with pytest.raises(DataError, match="looked for"):
        load({"name": "fashion-mnist", "root": str(tmp_path / "elsewhere")})


def test_missing_files_say_what_where_and_how(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONWARD_DATA", raising=False)
    with pytest.raises(
        DataError, match=rf"in {empty_home}/cifar-10-batches-bin\. `onward data get cifar10` fetches.*binary version"
    ):
        load("cifar10")
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=rf"in {tmp_path}/data/cifar-10-batches-bin or {tmp_path}/data or {empty_home}"):
        load("cifar10")
    with pytest.raises(
        DataError, match=rf"looked for train\.bin and 1 more in {tmp_path}/cifar-100-binary or {tmp_path}"
    ):
        load({"name": "cifar100", "root": str(tmp_path)})


def test_unknown_name_and_option() -> None:
    with pytest.raises(UnknownName, match="did you mean 'mnist'"):
        load("mnst")
    with pytest.raises(UnknownName, match="limt"):
        load({"name": "mnist", "limt": 3})


def test_normalised_by_the_training_part(tmp_path: Path) -> None:
    write_fashion(tmp_path / "fashion-mnist")
    split = load({"name": "fashion-mnist", "root": str(tmp_path), "normalise": True})
    x = split.train.batch(torch.arange(30), 1).x.chunk(0, 1)
    assert x.mean().abs() < 1e-5
    assert (x.std(unbiased=False) - 1).abs() < 1e-5
    assert split.test.batch(torch.arange(10), 1).x.chunk(0, 1).mean().abs() > 1e-5


def test_limits_spread_over_the_set() -> None:
    split = load({"name": "mnist", "limit": 6, "limit_test": 10_001})
    whole = load("mnist").train
    assert (len(split.train), len(split.test)) == (6, 10_000)
    taken, expected = split.train.batch(torch.arange(6), 2), whole.batch(torch.arange(0, 60_000, 10_000), 2)
    assert torch.equal(taken.x.chunk(0, 1), expected.x.chunk(0, 1))
    assert torch.equal(taken.y, expected.y)
    assert taken.ids.tolist() == list(range(6))


def test_augmentation_is_what_the_options_ask_for() -> None:
    assert augmentation(datasets.parse("mnist"), seed=0) is None
    assert augmentation(datasets.parse("file"), seed=0) is None
    choice = datasets.parse({"name": "mnist", "limit": 20, "crop": 2})
    plain, changed = (
        next(Loader(load(choice).train, 20, 1, shuffle=False, augment=a).epoch(0)).x.chunk(0, 1)
        for a in (None, augmentation(choice, seed=0))
    )
    assert changed.shape == plain.shape
    assert not torch.equal(changed, plain)


def test_every_option_is_described() -> None:
    for name in datasets.names():
        for field in datasets.entry(name).config.model_fields.values():
            assert field.description
