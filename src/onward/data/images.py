"""The image data sets: where the files of each are found and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from onward.data.arrays import ArrayDataset, channel_scale
from onward.data.choices import ImageChoice
from onward.data.cifar import CIFAR10, CIFAR100, Format, read_cifar_files
from onward.data.dataset import Split
from onward.data.folders import find_files
from onward.data.idx import SUFFIXES, read_pair
from onward.data.mnist import FOLDER, mnist_arrays
from onward.data.published import PUBLISHED
from onward.data.svhn import FILES, read_svhn

Part = tuple[np.ndarray, np.ndarray]
_IDX_NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


class ImageSource(NamedTuple):
    """An image data set: ``find(root)`` gives its files or raises `DataError`; ``read(files)`` train and test parts."""

    name: str
    classes: int
    summary: str
    find: Callable[[str | None], list[Path]]
    read: Callable[[list[Path]], tuple[Part, Part]]

    def locate(self, choice: ImageChoice) -> str:
        """The folder of the files; raises `DataError` when there is none."""
        return str(self.find(choice.root)[0].parent)

    def load(self, choice: ImageChoice) -> Split:
        """The training and test part, normalised by the training part's statistics if the options ask for it."""
        return image_split(choice, self.read(self.find(choice.root)), self.classes)


def image_split(choice: ImageChoice, parts: tuple[Part, Part], classes: int) -> Split:
    """A training and a test part, normalised by the training part's statistics if the options ask for it."""
    scale = channel_scale(torch.from_numpy(parts[0][0])) if choice.normalise else None
    return Split(*(ArrayDataset(*part, classes=classes, name=choice.name, scale=scale) for part in parts))


def _read_idx_files(files: list[Path]) -> tuple[Part, Part]:
    return read_pair(*files[:2]), read_pair(*files[2:])


def _fetching(name: str) -> str:
    """How to get a data set that can be fetched."""
    return f"`onward data get {name}` fetches them from {PUBLISHED[name].origin}"


def _find_mnist(root: str | None) -> list[Path]:
    if root is None:
        return [FOLDER / f"{name}.xz" for name in _IDX_NAMES]
    return find_files("mnist", root, _IDX_NAMES, SUFFIXES, "Leave out --data.root for those in the package")


def _read_mnist(files: list[Path]) -> tuple[Part, Part]:
    return mnist_arrays() if files[0].parent == FOLDER else _read_idx_files(files)


def _find_fashion(root: str | None) -> list[Path]:
    return find_files("fashion-mnist", root, _IDX_NAMES, SUFFIXES, _fetching("fashion-mnist"))


def _find_cifar10(root: str | None) -> list[Path]:
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return find_files("cifar-10-batches-bin", root, names, [""], _fetching("cifar10"))


def _find_cifar100(root: str | None) -> list[Path]:
    return find_files("cifar-100-binary", root, ["train.bin", "test.bin"], [""], _fetching("cifar100"))


def _find_svhn(root: str | None) -> list[Path]:
    origin = "They are offered at http://ufldl.stanford.edu/housenumbers/ (format 2, cropped digits)"
    return find_files("svhn", root, FILES, [""], origin)


def _read_svhn(files: list[Path]) -> tuple[Part, Part]:
    train, test = map(read_svhn, files)
    return train, test


def _cifar_reader(form: Format, records: int) -> Callable[[list[Path]], tuple[Part, Part]]:
    """A reader of training files of ``records`` records each and, last, a test file of 10,000."""

    def read(files: list[Path]) -> tuple[Part, Part]:
        return read_cifar_files(files[:-1], records, form), read_cifar_files(files[-1:], 10_000, form)

    return read


SOURCES = (
    ImageSource(
        "mnist", 10, "60,000 + 10,000 handwritten digits, 28 x 28; inside the package", _find_mnist, _read_mnist
    ),
    ImageSource("fashion-mnist", 10, "60,000 + 10,000 pieces of clothing, 28 x 28", _find_fashion, _read_idx_files),
    ImageSource("cifar10", 10, "50,000 + 10,000 colour images, 32 x 32", _find_cifar10, _cifar_reader(CIFAR10, 10_000)),
    ImageSource(
        "cifar100", 100, "50,000 + 10,000 colour images, 32 x 32", _find_cifar100, _cifar_reader(CIFAR100, 50_000)
    ),
    ImageSource("svhn", 10, "73,257 + 26,032 digits of house numbers in colour, 32 x 32", _find_svhn, _read_svhn),
)
