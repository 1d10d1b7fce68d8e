"""Five data sets as one: what each sample becomes, in which task it is, and what is said of missing files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from idx_files import encode
from tests.fuzz import packing

from onward.core.errors import MOST_CHARACTERS, ConfigError, DataError
from onward.data import ArrayDataset, datasets, images, listing, load, open_file
from onward.data.cifar import read_cifar_files
from onward.data.five import MEMBERS, Joined
from onward.data.mnist import mnist_arrays
from onward.data.notmnist import LETTERS
from onward.data.streams import streams
from onward.train.grammar import parse_tokens

NAMES = ["cifar10", "mnist", "svhn", "fashion-mnist", "notmnist"]


def cifar(folder: Path) -> np.ndarray:
    """Three images of each file, and in all the first the brightest pixel in the last column of row 1, in green."""
    folder.mkdir()
    records = np.zeros((3, 3073), np.uint8)
    records[:, 0], records[:, 1 + 1024 + 32 + 31] = [4, 9, 0], 255
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        records.tofile(folder / name)
    return records[:, 1:].reshape(3, 3, 32, 32)


def svhn(folder: Path) -> None:
    folder.mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (folder / name).write_bytes(b"".join(packing.digits()))


def fashion(folder: Path, side: int = 28) -> np.ndarray:
    folder.mkdir()
    x = np.random.default_rng(0).integers(0, 256, (6, side, side))
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(encode(x))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(encode(np.arange(6)))
    return x


def letters(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="writes and decodes pictures with Pillow")
    for number, letter in enumerate(LETTERS):
        (folder / "notMNIST_small" / letter).mkdir(parents=True)
        for copy in range(2):
            image.new("L", (28, 28), 20 * number).save(folder / "notMNIST_small" / letter / f"{copy}.png")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few files of each set, with three images in a file of CIFAR-10 in the place of 10,000."""
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "read_cifar_files", lambda paths, _records, form: read_cifar_files(paths, 3, form))
    home = tmp_path / "data"
    home.mkdir()
    cifar(home / "cifar-10-batches-bin")
    svhn(home / "svhn")
    fashion(home / "fashion-mnist")
    letters(home / "notmnist")
    return home


def five(root: Path, **options: Any) -> dict[str, Any]:
    return {"name": "five-datasets", "root": str(root), "normalise": True, **options}


def test_tasks_are_the_sets_in_their_order(root: Path) -> None:
    stream = streams.build("five-datasets", five(root), 0)
    assert stream.names == NAMES == [member.name for member in MEMBERS]
    assert (stream.heads, stream.classes, stream.lessons) == (5, 10, ((0,), (1,), (2,), (3,), (4,)))
    assert [len(task.split.train) for task in stream.tasks] == [15, 60_000, 2, 6, 10]
    assert [len(task.split.test) for task in stream.tasks] == [3, 10_000, 2, 6, 10]
    labels = [task.split.test.labels().tolist() for task in stream.tasks]
    assert (labels[0], labels[2], labels[3], labels[4]) == ([4, 9, 0], [0, 3], [0, 1, 2, 3, 4, 5], list(range(10)))
    assert labels[1] == mnist_arrays()[1][1].tolist()
    for number, task in enumerate(stream.tasks):
        batch = task.split.train.batch(torch.tensor([1, 0]), 4)
        assert (batch.x.features, batch.x.steps, batch.task) == ((3, 32, 32), 4, number)
        assert torch.equal(batch.y, task.split.train.labels()[[1, 0]])


def test_a_limit_is_shared_out_evenly(root: Path) -> None:
    stream = streams.build("five-datasets", five(root, limit=20, limit_test=10), 0)
    assert [len(task.split.train) for task in stream.tasks] == [4, 4, 2, 4, 4]
    assert [len(task.split.test) for task in stream.tasks] == [2] * 5


def test_one_head_for_all(root: Path) -> None:
    stream = streams.build({"name": "five-datasets", "head": "shared"}, five(root), 0)
    assert (stream.heads, stream.classes) == (1, 10)


@pytest.mark.parametrize(
    ("task", "mean", "std"),
    [
        ("cifar10", [125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255]),
        ("mnist", [0.1] * 3, [0.2752] * 3),
        ("svhn", [0.4377, 0.4438, 0.4728], [0.198, 0.201, 0.197]),
        ("fashion-mnist", [0.2190] * 3, [0.3318] * 3),
        ("notmnist", [0.4254] * 3, [0.4501] * 3),
    ],
)
def test_each_set_has_its_own_constants(root: Path, task: str, mean: list[float], std: list[float]) -> None:
    number = NAMES.index(task)
    plain, normalised = (
        streams.build("five-datasets", five(root, normalise=on), 0).tasks[number].split.test.batch(torch.arange(2), 1)
        for on in (False, True)
    )
    shift, size = (torch.tensor(values)[:, None, None] for values in (mean, std))
    expected = (plain.x.chunk(0, 1) - shift) / size
    assert torch.allclose(normalised.x.chunk(0, 1), expected, atol=1e-5)


def test_grey_images_lie_in_black_and_colours_where_they_were(root: Path) -> None:
    tasks = streams.build("five-datasets", five(root, normalise=False), 0).tasks
    grey = tasks[1].split.train.batch(torch.tensor([7]), 1).x.chunk(0, 1)[0, 0]
    digit = torch.from_numpy(mnist_arrays()[0][0][7] / 255).float()
    assert torch.allclose(grey, torch.nn.functional.pad(digit, [2] * 4).expand(3, -1, -1))
    colour = tasks[0].split.train.batch(torch.tensor([7]), 1).x.chunk(0, 1)[0, 0]
    assert colour.nonzero().tolist() == [[1, 1, 31]]


def test_mnist_and_fashion_have_the_mean_of_padded_images() -> None:
    x = np.pad(mnist_arrays()[0][0], ((0, 0), (0, 0), (2, 2), (2, 2)))
    mnist = MEMBERS[1]
    assert x.mean() / 255 == pytest.approx(mnist.mean[0], abs=1e-3)
    assert x.std() / 255 == pytest.approx(mnist.std[0], abs=1e-3)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as refused:
        load(five(tmp_path))
    for words in ("data_batch_1.bin to data_batch_5.bin", "train_32x32.mat", "images-idx3-ubyte", "notMNIST_small"):
        assert words in str(refused.value)
    assert len(str(refused.value)) < MOST_CHARACTERS - 100
    assert str(refused.value).startswith(f"five-datasets: {tmp_path} lacks cifar-10-batches-bin (")
    svhn(tmp_path / "svhn")
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
    line = next(line for line in listing() if line.name == "five-datasets")
    assert not line.found
    assert "svhn" not in line.where


def test_found_where_all_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_DATA", str(root))
    found = {line.name: line.where for line in listing() if line.found}
    assert found["five-datasets"] == str(root)
    assert found["svhn"] == str(root / "svhn")
    assert found["notmnist"] == str(root / "notmnist")


def test_images_that_no_frame_fits_are_refused(root: Path) -> None:
    for file in (root / "fashion-mnist").iterdir():
        file.unlink()
    (root / "fashion-mnist").rmdir()
    fashion(root / "fashion-mnist", side=33)
    with pytest.raises(DataError, match="fashion-mnist: has images of 33 x 33; expected 28 x 28, or 32 x 32"):
        load(five(root))


def test_a_file_of_ones_own_is_like_none_of_the_five(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((2, 3, 32, 32), np.uint8), y=np.arange(2))
    with pytest.raises(DataError, match=r"mine.npz: five-datasets normalises each of its sets in another way"):
        open_file(path, datasets.parse(five(root)))
    assert len(open_file(path, datasets.parse(five(root, normalise=False)))) == 2


def test_another_number_of_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 tasks .* one for each of its 5 sets; .* --stream split --data five-"):
        streams.build({"name": "five-datasets", "tasks": 3}, "five-datasets", 0)
    with pytest.raises(ConfigError, match=r"is made of five-datasets, and the data are mnist; .* --stream split, "):
        streams.build("five-datasets", "mnist", 0)


def test_sets_are_joined_in_any_order_of_samples() -> None:
    rng = torch.Generator().manual_seed(0)
    parts = [
        ArrayDataset(torch.rand(n, channels, 2, 2, generator=rng), torch.arange(n) % 3, classes=3)
        for n, channels in ((4, 1), (7, 3))
    ]
    whole = Joined("both", parts, (3, 2, 2))
    ids = torch.randperm(11)
    batch = whole.batch(ids, 2)
    for place, row in enumerate(ids.tolist()):
        part, local = (parts[0], row) if row < 4 else (parts[1], row - 4)
        assert torch.equal(batch.x.chunk(1, 2)[0, place], part.x[local].expand(3, 2, 2))
        assert batch.y[place] == part.y[local] + (0 if row < 4 else 3)
    assert torch.equal(whole.labels()[ids], batch.y)
    assert torch.equal(batch.ids, ids)
    assert (len(whole), whole.classes) == (11, 6)
    assert whole.fingerprint(1) != Joined("both", parts[::-1], (3, 2, 2)).fingerprint(1)


@pytest.mark.parametrize("name", ["five-datasets", "mini-imagenet"])
def test_the_stream_brings_its_data(name: str) -> None:
    config = parse_tokens(["--stream", name, "--data.root", "/data", "--data.skip-unreadable"])
    data = config.data.model_dump()
    assert (data["name"], data["normalise"], data["root"], data["skip_unreadable"]) == (name, True, "/data", True)


def test_mini_imagenet_has_20_tasks_that_the_seed_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))
    image = pytest.importorskip("PIL.Image", reason="writes and decodes pictures with Pillow")
    for label in range(100):
        folder = tmp_path / "mini-imagenet" / f"n{label:03}"
        folder.mkdir(parents=True)
        for copy in range(3):
            image.new("RGB", (84, 84), (label, copy, 0)).save(folder / f"{copy}.png")
    data = {"name": "mini-imagenet", "root": str(tmp_path)}
    stream, again, other = (streams.build("mini-imagenet", data, seed) for seed in (0, 0, 1))
    assert stream.names == again.names != other.names
    assert (len(stream.tasks), stream.heads, stream.classes) == (20, 20, 5)
    drawn = [list(map(int, re.findall(r"\d+", name))) for name in stream.names]
    assert sorted(label for classes in drawn for label in classes) == list(range(100))
    assert drawn != [list(range(k, k + 5)) for k in range(0, 100, 5)]
    for task, classes in zip(stream.tasks, drawn, strict=True):
        batch = task.split.train.batch(torch.arange(10), 1)
        assert sorted((255 * batch.x.chunk(0, 1)[0, :, 0, 0, 0]).round().int().tolist()) == sorted(classes * 2)
        assert batch.y.bincount().tolist() == [2] * 5
        assert len(task.split.test) == 5
