"""Picture files of any size in class folders of ``train`` and ``val``, as ImageNet has them, decoded batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import exp, log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onward.core.errors import DataError
from onward.core.sequence import Static
from onward.data.arrays import Scale, fixed_scale, unit_scale
from onward.data.augment import Change
from onward.data.choices import FolderChoice
from onward.data.dataset import Batch, Dataset, Split, digest, spread_rows
from onward.data.folders import VARIABLE, candidates
from onward.data.mini_imagenet import MEAN, STD
from onward.data.pictures import Decoder, picture_files, readable
from onward.data.raw import Raw

if TYPE_CHECKING:
    from PIL.Image import Image

PARTS = ("train", "val")
SHOWN = 5
"""Class folders that a message names."""

_TALLEST = log(4 / 3)
Box = tuple[float, float, float, float]


class Window(NamedTuple):
    """Where in a picture a part lies: ``area`` is its share; ``aspect``, ``across`` and ``down`` are in (0, 1)."""

    area: float
    aspect: float
    across: float
    down: float

    def __call__(self, width: int, height: int) -> Box:
        """Left, upper, right and lower edge; width over height is between 3/4 and 4/3, if the picture has room."""
        size, ratio = self.area * width * height, exp((2 * self.aspect - 1) * _TALLEST)
        wide, high = min(sqrt(size * ratio), width), min(sqrt(size / ratio), height)
        left, upper = self.across * (width - wide), self.down * (height - high)
        return left, upper, left + wide, upper + high


class Middle(NamedTuple):
    """The square in the middle whose side has the ``share`` of the picture's shorter one."""

    share: float

    def __call__(self, width: int, height: int) -> Box:
        """Left, upper, right and lower edge."""
        side = min(self.share * min(width, height), width, height)
        left, upper = (width - side) / 2, (height - side) / 2
        return left, upper, left + side, upper + side


@dataclass(frozen=True)
class Pictures:
    """Files, and which part of each is shown."""

    files: tuple[str, ...]
    windows: tuple[Callable[[int, int], Box], ...]


class RandomWindow(Change[Pictures]):
    """A part of the picture of a random place and shape, whose share of the area is uniform on (``smallest``, 1)."""

    name = "random-window"
    numbers = 4

    def __init__(self, smallest: float = 0.08):
        if not 0 < smallest <= 1:
            raise DataError(f"a smallest share of {smallest} was given; expected above 0, and 1 at most")
        self.smallest = smallest

    def apply(self, x: Pictures, u: Tensor) -> Pictures:
        """See `Change.apply`."""
        windows = (Window(1 - (1 - self.smallest) * area, *rest) for area, *rest in u.tolist())
        return replace(x, windows=tuple(windows))


def _part(picture: Image, window: Callable[[int, int], Box], side: int) -> Image:
    from PIL.Image import Resampling

    return picture.convert("RGB").resize((side, side), Resampling.BILINEAR, window(*picture.size))


def _decoder(side: int, window: Callable[[int, int], Box]) -> Decoder:
    return Decoder(("JPEG", "PNG"), 3, side, partial(_part, window=window, side=side), Path(__file__))


def _decoded(x: Pictures, side: int, scale: Scale, steps: int) -> Static:
    """Raises `DataError` for the first file that cannot be decoded."""
    pixels = np.empty((len(x.files), 3, side, side), np.uint8)
    for row, (file, window) in enumerate(zip(x.files, x.windows, strict=True)):
        found = _decoder(side, window)(Path(file))
        if isinstance(found, str):
            raise DataError(
                f"{file}: cannot be decoded ({found}). Leave such files out with --data.skip-unreadable, or replace it"
            )
        pixels[row] = found
    return Static(scale(torch.from_numpy(pixels)), steps)


class FolderDataset(Dataset):
    """Pictures ``[3, size, size]`` of ``files``, decoded for each mini-batch.

    With ``varied`` the part of a picture that is shown may be changed before, see `Raw`.
    """

    steps = None

    def __init__(self, choice: FolderChoice, files: Sequence[Path], labels: np.ndarray, classes: int, varied: bool):
        self.name, self.classes, self.features = choice.name, classes, (3, choice.size, choice.size)
        self.scale = fixed_scale(MEAN, STD) if choice.normalise else unit_scale(torch.empty(0, dtype=torch.uint8))
        self._files, self._labels, self._varied = [str(file) for file in files], torch.from_numpy(labels), varied
        self._middle = Middle(choice.size / choice.resize)

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`; raises `DataError`, naming the file, where one cannot be decoded."""
        pictures = Pictures(tuple(self._files[row] for row in ids.tolist()), (self._middle,) * len(ids))
        make = partial(_decoded, side=self.features[-1], scale=self.scale, steps=steps)
        x = Raw(pictures, make, steps, len(ids), self.features) if self._varied else make(pictures)
        return Batch(x, self._labels[ids], ids)

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self._labels

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`: the names of all files, and 256 pictures."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        names = "\n".join("/".join(Path(file).parts[-2:]) for file in self._files)
        return digest(super().fingerprint(1), names, self._labels)


def find_folders(root: str | None) -> tuple[Path, Path]:
    """The folders of the training and the test part; raises `DataError` where there are none."""
    places = candidates("image-folder", root)
    for place in places:
        if all((place / part).is_dir() for part in PARTS):
            return place / PARTS[0], place / PARTS[1]
    raise DataError(
        f"image-folder: looked for {' and '.join(PARTS)}, each with a folder of pictures for each class, in "
        f"{' or '.join(map(str, places))}; name the folder that holds both with --data.root or {VARIABLE}"
    )


def locate_folders(choice: FolderChoice) -> str:
    """The folder that holds both parts; raises `DataError` where there is none."""
    return str(find_folders(choice.root)[0].parent)


def load_folders(choice: FolderChoice) -> Split:
    """The pictures of ``train`` and of ``val``; classes are the folders, in the order of their names."""
    train, test = find_folders(choice.root)
    classes = _classes(train, test)
    return Split(
        _dataset(choice, train, classes, choice.limit, choice.random_crop),
        _dataset(choice, test, classes, choice.limit_test, False),
    )


def _classes(train: Path, test: Path) -> list[str]:
    first, second = ({folder.name for folder in part.iterdir() if folder.is_dir()} for part in (train, test))
    if first != second:
        lacking = [(part, sorted(names)) for part, names in ((test, first - second), (train, second - first)) if names]
        told = " and ".join(f"{part} lacks {_some(names)}" for part, names in lacking)
        raise DataError(f"image-folder: {told}; expected the same class folders in both")
    if len(first) < 2:
        raise DataError(f"{train}: has {len(first)} class folders; expected two or more")
    return sorted(first)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _dataset(choice: FolderChoice, part: Path, classes: Sequence[str], limit: int | None, varied: bool) -> Dataset:
    groups = [picture_files(part / name) for name in classes]
    files = [file for group in groups for file in group]
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in groups])
    if not files:
        raise DataError(f"{part}: holds no .jpg or .png file in any of its {len(classes)} class folders")
    rows = spread_rows(len(files), limit).numpy()
    if choice.skip_unreadable:
        decoder = _decoder(choice.size, Middle(choice.size / choice.resize))
        rows = rows[readable(f"image-folder {part.name}", [files[row] for row in rows], decoder)]
    return FolderDataset(choice, [files[row] for row in rows], labels[rows], len(classes), varied)
