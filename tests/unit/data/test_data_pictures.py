"""Folders of picture files: decoded once, split by class, and what cannot be decoded is named."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from onward.core.errors import DataError
from onward.data import Dataset, limits, load, mini_imagenet, notmnist, pictures
from onward.data.files import holdout_by_class
from onward.data.notmnist import LETTERS
from onward.data.pictures import picture_files

Image = pytest.importorskip("PIL.Image", reason="writes and decodes pictures with Pillow")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def letters(folder: Path, each: int, seed: int = 0) -> np.ndarray:
    """``each`` pictures of every letter; all of them in the order of their names."""
    x = np.random.default_rng(seed).integers(0, 256, (10 * each, 28, 28), dtype=np.uint8)
    for row, pixels in enumerate(x):
        save(folder / LETTERS[row // each] / f"{row % each:03}.png", pixels)
    return x


def shown(data: Dataset) -> np.ndarray:
    """All samples of a data set that is not normalised, as bytes."""
    return (255 * data.batch(torch.arange(len(data)), 1).x.chunk(0, 1)[0]).round().byte().numpy()


def notmnist_of(tmp_path: Path, **options: object) -> dict[str, object]:
    return {"name": "notmnist", "root": str(tmp_path), **options}


def test_the_large_folder_is_trained_on_and_the_small_one_tested_on(tmp_path: Path) -> None:
    large = letters(tmp_path / "notmnist" / "notMNIST_large", 3)
    small = letters(tmp_path / "notmnist" / "notMNIST_small", 2, seed=1)
    split = load(notmnist_of(tmp_path))
    for part, x, each in ((split.train, large, 3), (split.test, small, 2)):
        assert np.array_equal(shown(part)[:, 0], x)
        assert part.labels().tolist() == [k for k in range(10) for _ in range(each)]
    assert (split.train.classes, split.train.features) == (10, (1, 28, 28))


def test_one_folder_alone_is_split_by_class(tmp_path: Path) -> None:
    x = letters(tmp_path / "notMNIST_small", 10)
    split, again = load(notmnist_of(tmp_path)), load(notmnist_of(tmp_path))
    other = load(notmnist_of(tmp_path, holdout_seed=1))
    assert split.test.labels().tolist() == list(range(10))
    assert {image.tobytes() for part in split for image in shown(part)} == {image.tobytes() for image in x}
    assert split.test.fingerprint(1) == again.test.fingerprint(1) != other.test.fingerprint(1)


def test_every_class_gives_its_share() -> None:
    labels = np.repeat(np.arange(3), [600, 30, 12])
    train, test = holdout_by_class(labels, 1 / 6, 0)
    assert np.bincount(labels[test]).tolist() == [100, 5, 2]
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(642))


def test_files_that_cannot_be_decoded_are_counted_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "notMNIST_small"
    letters(folder, 3)
    (folder / "A" / "000.png").write_bytes(b"")
    (folder / "C" / "001.png").write_bytes((folder / "C" / "001.png").read_bytes()[:100])
    save(folder / "J" / "002.png", np.zeros((28, 30), np.uint8))
    options = notmnist_of(tmp_path, holdout=0.5)
    words = (
        r"notMNIST_small: 3 of 30 files cannot be decoded: A/000.png \(it is no PNG file\), C/001.png \(.*trunc.*\), "
        r"J/002.png \(it is 30 x 28; expected 28 x 28\)\. "
    )
    with pytest.raises(DataError, match=words + "Leave them out with --data.skip-unreadable, or replace them"):
        load(options)
    with pytest.warns(UserWarning, match=words + "They are left out"):
        split = load({**options, "skip_unreadable": True})
    assert len(split.train) + len(split.test) == 27
    labels = torch.cat([part.labels() for part in split])
    assert labels.bincount().tolist() == [2, 3, 2, 3, 3, 3, 3, 3, 3, 2]


def test_a_message_names_some_of_many(tmp_path: Path) -> None:
    for letter in LETTERS:
        (tmp_path / "notMNIST_small" / letter).mkdir(parents=True)
        (tmp_path / "notMNIST_small" / letter / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"10 of 10 files .* E/a.png \(it is no PNG file\) and 5 more\."):
        load(notmnist_of(tmp_path))


def test_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters(tmp_path / "notMNIST_small", 2)
    options = notmnist_of(tmp_path, holdout=0.5)
    first = load(options).train.fingerprint(1)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_decoded", refuse)
        assert load(options).train.fingerprint(1) == first
    save(tmp_path / "notMNIST_small" / "A" / "000.png", np.zeros((28, 28), np.uint8))
    save(tmp_path / "notMNIST_small" / "A" / "001.png", np.zeros((28, 28), np.uint8))
    assert load(options).train.fingerprint(1) != first


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters(tmp_path / "notMNIST_small", 2)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="Pillow, which decodes them, is not installed; install it with `pip install"):
        load(notmnist_of(tmp_path))


def test_missing_letters_say_what_where_and_how(tmp_path: Path) -> None:
    (tmp_path / "notMNIST_small" / "A").mkdir(parents=True)
    with pytest.raises(
        DataError, match=rf"notMNIST_large or notMNIST_small with folders A to J in {tmp_path}/notmnist"
    ):
        load(notmnist_of(tmp_path))


def test_a_small_file_cannot_ask_for_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALWAYS", 50_000)
    save(tmp_path / "a.png", np.zeros((1000, 1000), np.uint8))
    assert "made to fill memory" in str(mini_imagenet.DECODER(tmp_path / "a.png"))
    assert "made to fill memory" in str(notmnist.DECODER(tmp_path / "a.png"))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1", "CMYK"])
def test_pictures_of_any_colours_and_size_become_square_and_coloured(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (50, 120)).save(path)
    found = mini_imagenet.DECODER(path)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == ((3, 84, 84), np.uint8)


def test_pictures_of_the_right_size_stay_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    save(tmp_path / "a.png", pixels)
    assert np.array_equal(mini_imagenet.DECODER(tmp_path / "a.png"), pixels.transpose(2, 0, 1))


def test_what_is_a_picture_file(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.jpeg", ".d.png", "e.txt", "f.mat"):
        (tmp_path / name).touch()
    assert [path.name for path in picture_files(tmp_path)] == ["a.png", "b.JPG", "c.jpeg"]
    assert picture_files(tmp_path / "nowhere") == []


def hundred(folder: Path, each: int = 6, first: int = 0, last: int = 100) -> None:
    """Class folders; every picture shows the number of its class in all places, its own number on top."""
    for label in range(first, last):
        for number in range(each):
            pixels = np.full((84, 84, 3), label, np.uint8)
            pixels[0] = number
            save(folder / f"n{label:08}" / f"{number}.png", pixels)


def test_mini_imagenet_in_one_folder(tmp_path: Path) -> None:
    hundred(tmp_path / "mini-imagenet")
    split = load({"name": "mini-imagenet", "root": str(tmp_path), "normalise": True})
    assert (len(split.train), len(split.test), split.test.features) == (500, 100, (3, 84, 84))
    assert split.test.labels().tolist() == list(range(100))
    x = split.test.batch(torch.tensor([40]), 1).x.chunk(0, 1)[0, 0, :, -1, -1]
    assert torch.allclose(x, (40 / 255 - torch.tensor(mini_imagenet.MEAN)) / torch.tensor(mini_imagenet.STD))


def test_mini_imagenet_in_the_usual_parts(tmp_path: Path) -> None:
    home = tmp_path / "mini-imagenet"
    for part, first, last in (("train", 0, 64), ("val", 64, 80), ("test", 80, 99)):
        hundred(home / part, 2, first, last)
    options = {"name": "mini-imagenet", "root": str(tmp_path)}
    with pytest.raises(DataError, match=rf"looked for 100 folders .* found 99 in {home} and 0 in {tmp_path}\. Put all"):
        load(options)
    hundred(home / "test", 2, 99, 100)
    whole = load(options)
    assert whole.train.labels().tolist() == whole.test.labels().tolist() == list(range(100))
    assert shown(whole.train)[:, 0, -1, -1].tolist() == list(range(100))
