"""Five data sets of ten classes as one of fifty, in colour, 32 x 32, each normalised by constants of its own.

Ebrahimi et al., Adversarial Continual Learning, 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from onward.core.errors import DataError
from onward.core.sequence import Static
from onward.data.arrays import ArrayDataset, fixed_scale
from onward.data.choices import PicturesChoice
from onward.data.dataset import Batch, Dataset, Split, digest, spread
from onward.data.folders import VARIABLE, data_folder, expanded
from onward.data.images import SOURCES, Part
from onward.data.mnist import mnist_arrays
from onward.data.notmnist import find_notmnist, read_notmnist

CLASSES = 10
SIDE = 32


class Member(NamedTuple):
    """One of the five: ``files`` says what ``find`` looks for; ``mean`` and ``std`` are of values in [0, 1]."""

    name: str
    files: str
    find: Callable[[str | None], list[Path]]
    read: Callable[[PicturesChoice], tuple[Part, Part]]
    mean: Sequence[float]
    std: Sequence[float]


def _from_folder(name: str, files: str, mean: Sequence[float], std: Sequence[float]) -> Member:
    source = next(source for source in SOURCES if source.name == name)
    return Member(name, files, source.find, lambda choice: source.read(source.find(choice.root)), mean, std)


MEMBERS = (
    _from_folder(
        "cifar10",
        "cifar-10-batches-bin (data_batch_1.bin to data_batch_5.bin, test_batch.bin)",
        (125.3 / 255, 123.0 / 255, 113.9 / 255),
        (63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    Member("mnist", "", lambda _root: [], lambda _choice: mnist_arrays(), (0.1,), (0.2752,)),
    _from_folder("svhn", "svhn (train_32x32.mat, test_32x32.mat)", (0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
    _from_folder(
        "fashion-mnist",
        "fashion-mnist (train- and t10k-images-idx3-ubyte, train- and t10k-labels-idx1-ubyte)",
        (0.2190,),
        (0.3318,),
    ),
    Member(
        "notmnist",
        "notmnist (notMNIST_small, notMNIST_large or both, each with folders A to J)",
        find_notmnist,
        read_notmnist,
        (0.4254,),
        (0.4501,),
    ),
)
"""In the order in which they are learned. MNIST is the one inside the package."""


class Joined(Dataset):
    """Still images of several sets as one set; the classes of each are numbered on from those before.

    Grey images show the same in all channels of ``features`` ``[C, H, W]``.
    """

    steps = None

    def __init__(self, name: str, parts: Sequence[Dataset], features: tuple[int, ...]):
        self.name, self.parts, self.features = name, tuple(parts), features
        self.classes = sum(part.classes for part in parts)
        self._rows = torch.tensor([0, *accumulate(map(len, parts))])
        self._labels = list(accumulate((part.classes for part in parts), initial=0))

    def __len__(self) -> int:
        return int(self._rows[-1])

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`."""
        owners = torch.bucketize(ids, self._rows[1:], right=True)
        x, y = torch.empty(len(ids), *self.features), torch.empty_like(ids)
        for owner in owners.unique().tolist():
            here = owners == owner
            part = self.parts[owner].batch(ids[here] - self._rows[owner], 1)
            x[here], y[here] = part.x.chunk(0, 1)[0], part.y + self._labels[owner]
        return Batch(Static(x, steps), y, ids)

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return torch.cat([part.labels() + first for part, first in zip(self.parts, self._labels, strict=False)])

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`."""
        return digest(*(part.fingerprint(steps) for part in self.parts), str(self.features))


def locate_five(choice: PicturesChoice) -> str:
    """The folder that holds those of all sets; raises `DataError`, which names all that is missing."""
    folder = expanded(choice.root) if choice.root else data_folder()
    missing = [member.files for member in MEMBERS if not _is_there(member, choice.root)]
    if missing:
        raise DataError(
            f"five-datasets: {folder} lacks {'; '.join(missing)}. Put these folders into it, or name another with "
            f"--data.root or {VARIABLE}. `onward data get` fetches cifar10 and fashion-mnist; for the others, "
            "`onward data list` says where they are offered"
        )
    return str(folder)


def _is_there(member: Member, root: str | None) -> bool:
    try:
        member.find(root)
    except DataError:
        return False
    return True


def load_five(choice: PicturesChoice) -> Split:
    """The five sets, ten classes each, normalised by their constants if the options ask for it.

    A limit is shared out evenly, so that none of them is lost.
    """
    locate_five(choice)
    both = [[_images(member, part, choice) for part in member.read(choice)] for member in MEMBERS]
    train, test = zip(*both, strict=True)
    return Split(_joined(choice, train, choice.limit), _joined(choice, test, choice.limit_test))


def _joined(choice: PicturesChoice, parts: Sequence[Dataset], limit: int | None) -> Joined:
    share = None if limit is None else max(1, limit // len(parts))
    return Joined(choice.name, [spread(part, share) for part in parts], (3, SIDE, SIDE))


def _images(member: Member, part: Part, choice: PicturesChoice) -> ArrayDataset:
    scale = fixed_scale(member.mean, member.std) if choice.normalise else None
    return ArrayDataset(_framed(part[0], member.name), part[1], classes=CLASSES, name=member.name, scale=scale)


def _framed(x: np.ndarray, name: str) -> np.ndarray:
    """Images ``[N, C, H, W]`` with black around them, up to 32 x 32."""
    height, width = x.shape[2:]
    if height != width or height > SIDE or (SIDE - height) % 2:
        raise DataError(f"{name}: has images of {height} x {width}; expected 28 x 28, or {SIDE} x {SIDE}")
    edge = (SIDE - height) // 2
    return np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge))) if edge else x
