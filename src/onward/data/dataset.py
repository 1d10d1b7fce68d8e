"""What a data set is: samples by position, a mini-batch of which is a `Sequence` with labels."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from onward.core.errors import DataError
from onward.core.sequence import Sequence


class Batch(NamedTuple):
    """A mini-batch: inputs over time, labels ``[B]`` int64, and positions in the data set ``[B]`` int64.

    The positions key everything random about a sample, so they do not depend on the batch it comes in. ``task`` is the
    task of a stream that all samples belong to.
    """

    x: Sequence
    y: Tensor
    ids: Tensor
    task: int = 0


class Dataset(ABC):
    """Labelled samples of one shape.

    ``features`` is the shape of one time step of one sample; ``steps`` the natural number of time steps, or
    None where any number will do (a still image, a recording that is binned on demand).
    """

    name: str
    classes: int
    features: tuple[int, ...]
    steps: int | None

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def batch(self, ids: Tensor, steps: int) -> Batch:
        """The samples at positions ``ids`` ``[B]`` int64, over ``steps`` time steps."""

    def labels(self) -> Tensor:
        """The class number of every sample, ``[N]`` int64; here by reading them all."""
        rows = torch.arange(len(self)).split(READ)
        return torch.cat([self.batch(ids, self.steps or 1).y for ids in rows])

    def fingerprint(self, steps: int) -> str:
        """SHA-256 that tells whether data are the same: here of 256 samples spread over them, and of their number.

        Data sets that are held in memory hash every sample.
        """
        ids = torch.arange(min(len(self), PROBED)) * len(self) // min(len(self), PROBED)
        seen = self.batch(ids, steps)
        return digest(len(self), *(seen.x.chunk(t, t + 1) for t in range(steps)), seen.y)


PROBED = 256
READ = 1024
"""Samples read at once for their labels."""


def digest(*parts: Tensor | np.ndarray | str | int | None) -> str:
    """SHA-256 of arrays, their dtypes and shapes, and of plain values, in order."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str | int) or part is None:
            found.update(repr(part).encode())
            continue
        array = np.ascontiguousarray(part.numpy() if isinstance(part, Tensor) else part)
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(array.data)
    return found.hexdigest()


class Subset(Dataset):
    """The samples of ``dataset`` at ``rows``, renumbered from 0; copies nothing."""

    def __init__(self, dataset: Dataset, rows: Tensor):
        if not len(rows):
            raise DataError(f"no sample of {dataset.name} was selected; choose at least one")
        self.dataset, self.rows = dataset, rows
        self.name, self.classes = dataset.name, dataset.classes
        self.features, self.steps = dataset.features, dataset.steps

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`."""
        return self.dataset.batch(self.rows[ids], steps)._replace(ids=ids)

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self.dataset.labels()[self.rows]

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`."""
        return digest(self.dataset.fingerprint(steps), self.rows)


class Split(NamedTuple):
    """Samples to train on and samples to test on."""

    train: Dataset
    test: Dataset


def spread(dataset: Dataset, limit: int | None) -> Dataset:
    """At most ``limit`` samples, evenly spaced over the data set, so that files sorted by class work too.

    ``None`` or a limit beyond the size gives the data set itself.
    """
    if limit is None or limit >= len(dataset):
        return dataset
    return Subset(dataset, spread_rows(len(dataset), limit))


def spread_rows(count: int, limit: int | None) -> Tensor:
    """At most ``limit`` of ``range(count)``, evenly spaced, ascending.

    >>> spread_rows(10, 4)
    tensor([0, 2, 5, 7])
    """
    kept = count if limit is None else min(limit, count)
    return torch.arange(kept) * count // kept
