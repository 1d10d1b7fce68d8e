"""Folders of pictures of any size: decoded for each mini-batch, cut at random for training, in the middle for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onward.core.errors import DataError
from onward.core.sequence import Static
from onward.data import Dataset, Loader, RandomWindow, Raw, Split, augmentation, datasets, load, pictures
from onward.data.image_folder import Middle, Pictures, Window
from onward.data.mini_imagenet import MEAN, STD

Image = pytest.importorskip("PIL.Image", reason="writes and decodes pictures with Pillow")
SIZES = [(40, 30), (25, 50), (33, 33)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))


def folder(root: Path, each: int = 3, classes: str = "ab") -> Path:
    """Noise of several sizes, as PNG in ``train`` and JPEG in ``val``."""
    rng = np.random.default_rng(0)
    for part, suffix in (("train", "png"), ("val", "JPEG")):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = rng.integers(0, 256, (*SIZES[number % 3], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.{suffix}")
    return root


def options(root: Path, **more: Any) -> dict[str, Any]:
    return {"name": "image-folder", "root": str(root), "size": 14, "resize": 16, **more}


def opened(root: Path, **more: Any) -> Split:
    return load(options(root, **more))


def frame(data: Dataset, *rows: int) -> torch.Tensor:
    return data.batch(torch.tensor(rows), 1).x.chunk(0, 1)[0]


def expected(path: Path, box: tuple[float, ...]) -> torch.Tensor:
    with Image.open(path) as picture:
        shown = picture.convert("RGB").resize((14, 14), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.asarray(shown).transpose(2, 0, 1) / 255).float()


def test_the_middle_is_shown_without_augmentation(tmp_path: Path) -> None:
    split = opened(folder(tmp_path), normalise=True)
    assert (len(split.train), len(split.test), split.train.classes, split.train.features) == (6, 6, 2, (3, 14, 14))
    assert split.test.labels().tolist() == [0, 0, 0, 1, 1, 1]
    side = 30 * 14 / 16
    for data, file in ((split.train, "train/a/0.png"), (split.test, "val/a/0.JPEG")):
        box = (15 - side / 2, 20 - side / 2, 15 + side / 2, 20 + side / 2)
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        assert torch.allclose(frame(data, 0)[0], (expected(tmp_path / file, box) - mean) / std, atol=1e-5)
    assert isinstance(split.test.batch(torch.arange(2), 3).x, Static)


def test_random_windows_are_keyed_by_seed_epoch_and_id(tmp_path: Path) -> None:
    choice = datasets.parse(options(folder(tmp_path)))
    data, augment = load(choice).train, augmentation(choice, 1)
    assert augment is not None
    raw = data.batch(torch.arange(6), 2)
    assert isinstance(raw.x, Raw)
    together = augment(raw, 0).x.chunk(0, 2)
    some = torch.tensor([4, 1])
    assert torch.equal(augment(data.batch(some, 2), 0).x.chunk(0, 2), together[:, some])
    assert not torch.equal(augment(raw, 1).x.chunk(0, 2), together)
    other = augmentation(choice, 2)
    assert other is not None
    assert not torch.equal(other(raw, 0).x.chunk(0, 2), together)


def test_a_window_is_what_is_cut_out_and_resized(tmp_path: Path) -> None:
    data = opened(folder(tmp_path)).train
    raw, change = data.batch(torch.arange(6), 1), RandomWindow(0.2)
    assert isinstance(raw.x, Raw)
    u = torch.rand(6, 4, dtype=torch.float64)
    found = raw.x.make(change.apply(raw.x.samples, u)).chunk(0, 1)[0]
    for row, (area, aspect, across, down) in enumerate(u.tolist()):
        path = Path(raw.x.samples.files[row])
        height, width = SIZES[row % 3]
        box = Window(1 - 0.8 * area, aspect, across, down)(width, height)
        assert torch.allclose(found[row], expected(path, box), atol=1e-6)


def test_windows_lie_inside_and_have_the_shapes_that_were_asked_for() -> None:
    change = RandomWindow(0.1)
    u = torch.rand(500, 4, dtype=torch.float64)
    windows = change.apply(Pictures(("x",) * 500, (Middle(1),) * 500), u).windows
    areas = []
    for window in windows:
        left, upper, right, lower = window(300, 300)
        assert 0 <= left < right <= 300.001
        assert 0 <= upper < lower <= 300.001
        areas.append((right - left) * (lower - upper) / 300**2)
        if areas[-1] < 0.5:
            assert 0.749 < (right - left) / (lower - upper) < 1.334
    assert 0.1 <= min(areas) < 0.15
    assert 0.85 < max(areas) <= 1
    left, upper, right, lower = Window(1, 0.5, 0.3, 0.3)(100, 10)
    assert (upper, lower) == (0, 10), "no more of a narrow picture than there is"
    assert Middle(2)(30, 50) == (0, 10, 30, 40)
    with pytest.raises(DataError, match="a smallest share of 0 was given"):
        RandomWindow(0)


def test_augmentation_can_be_left_out(tmp_path: Path) -> None:
    choice = datasets.parse(options(folder(tmp_path), random_crop=False, flip=False))
    assert augmentation(choice, 0) is None
    assert isinstance(load(choice).train.batch(torch.arange(2), 1).x, Static), "decoded where the batch is prepared"


def test_workers_decode_and_change_nothing(tmp_path: Path) -> None:
    choice = datasets.parse(options(folder(tmp_path, each=4), cutout=4))
    plain, busy = (
        Loader(load(choice).train, 3, 2, seed=1, augment=augmentation(choice, 1), workers=count) for count in (0, 2)
    )
    for one, other in zip(plain.epoch(0), busy.epoch(0), strict=True):
        assert isinstance(other.x, Static)
        assert torch.equal(one.x.chunk(0, 2), other.x.chunk(0, 2))
    (tmp_path / "train" / "b" / "2.png").write_bytes(b"\x89PNG")
    # A worker's error is the line that it would be here: no traceback comes before it.
    with pytest.raises(DataError, match=rf"^{tmp_path}/train/b/2.png: cannot be decoded \(.*\)\. Leave such files out"):
        list(busy.epoch(0))


def test_a_file_that_cannot_be_decoded_is_an_error_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path)
    (root / "train" / "a" / "1.png").write_bytes(b"GIF89a")
    cut = (root / "val" / "b" / "0.JPEG").read_bytes()[:300]
    (root / "val" / "b" / "0.JPEG").write_bytes(cut)
    with pytest.raises(DataError, match=r"train/a/1.png: cannot be decoded \(it is no JPEG or PNG file\)"):
        frame(opened(root).train, 1)
    words = r"image-folder train: 1 of 6 files cannot be decoded: a/1.png \(it is no .*\)\. They are left out"
    with (
        pytest.warns(UserWarning, match=words),
        pytest.warns(UserWarning, match=r"image-folder val: 1 of 6 .* b/0.JPE"),
    ):
        split = opened(root, skip_unreadable=True)
    assert split.train.labels().tolist() == [0, 0, 1, 1, 1]
    assert split.test.labels().tolist() == [0, 0, 0, 1, 1]
    assert frame(split.train, *range(5)).shape == (5, 3, 14, 14)
    monkeypatch.setattr(pictures, "_attempts", None)
    with pytest.warns(UserWarning, match="They are left out"):
        assert len(opened(root, skip_unreadable=True).train) == 5, "tried once, then from the cache"


def test_no_file_that_can_be_decoded(tmp_path: Path) -> None:
    root = folder(tmp_path, each=1)
    for name in "ab":
        (root / "train" / name / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="image-folder train: none of its 2 files can be decoded"):
        opened(root, skip_unreadable=True)


def test_class_folders_must_agree(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "train" / "c").mkdir()
    (root / "val" / "d").mkdir()
    with pytest.raises(DataError, match=r"val lacks c and .*train lacks d; expected the same class folders in both"):
        opened(root)
    for number in range(8):
        (root / "train" / f"x{number}").mkdir()
    with pytest.raises(DataError, match=r"val lacks c, x0, x1, x2, x3 and 4 more and"):
        opened(root)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"looked for train and val, .* in {tmp_path}/image-folder or {tmp_path}; name"
    ):
        opened(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="train: has 1 class folders; expected two or more"):
        opened(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part / "b").mkdir()
    with pytest.raises(DataError, match=r"train: holds no .jpg or .png file in any of its 2 class folders"):
        opened(tmp_path)


def test_limits_and_fingerprints(tmp_path: Path) -> None:
    root = folder(tmp_path)
    split, again = opened(root, limit=2, limit_test=4), opened(root, limit=2, limit_test=4)
    assert (len(split.train), split.train.labels().tolist(), len(split.test)) == (2, [0, 1], 4)
    assert split.train.fingerprint(3) == again.train.fingerprint(3)
    assert split.train.fingerprint(3) != opened(root, limit=3).train.fingerprint(3)
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "00.png")
    assert opened(root, limit=2).train.fingerprint(3) != split.train.fingerprint(3)
