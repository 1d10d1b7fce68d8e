"""Mini-batches in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

import torch
from torch import Tensor

from onward.core.draws import Key, KeyedDraws, Uniform
from onward.core.errors import DataError
from onward.data.dataset import Batch, Dataset

Augment = Callable[[Batch, int], Batch]


def order(seed: int, epoch: int, count: int) -> Tensor:
    """A permutation of ``range(count)`` that is a pure function of (seed, epoch, count): ``[count]`` int64."""
    one, like = torch.zeros(1, dtype=torch.int64), torch.zeros((), dtype=torch.float64)
    scores = KeyedDraws(seed).draw(Uniform(), Key("order", "loader", epoch), one, torch.arange(count), (), like)
    return scores[0].argsort(stable=True)


class Loader:
    """Yields a data set in mini-batches.

    The order of epoch k depends on (seed, k) alone, so a resumed run sees what an uninterrupted one would.
    ``augment(batch, epoch)`` changes the inputs of a batch; None leaves them.

    >>> from onward.data import ArrayDataset
    >>> data = ArrayDataset(torch.rand(10, 4), torch.arange(10) % 2)
    >>> [len(batch.y) for batch in Loader(data, batch_size=4, steps=6).epoch(0)]
    [4, 4, 2]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        augment: Augment | None = None,
        drop_last: bool = False,
    ):
        if batch_size < 1:
            raise DataError(f"a batch size of {batch_size} was given; at least 1 is needed")
        if drop_last and batch_size > len(dataset):
            raise DataError(
                f"a batch size of {batch_size} leaves no full batch of the {len(dataset)} samples of "
                f"{dataset.name}; use {len(dataset)} or less, or keep the last batch"
            )
        self.dataset, self.batch_size, self.steps = dataset, batch_size, steps
        self.seed, self.shuffle, self.augment, self.drop_last = seed, shuffle, augment, drop_last

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        full = len(self.dataset) / self.batch_size
        return int(full) if self.drop_last else ceil(full)

    def epoch(self, index: int, first: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``index`` from number ``first`` on."""
        count = len(self.dataset)
        ids = order(self.seed, index, count) if self.shuffle else torch.arange(count)
        for start in range(first * self.batch_size, len(self) * self.batch_size, self.batch_size):
            batch = self.dataset.batch(ids[start : start + self.batch_size], self.steps)
            yield batch if self.augment is None else self.augment(batch, index)
