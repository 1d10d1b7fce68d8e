"""Mini-batches in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from onward.core.draws import Key, KeyedDraws, Uniform
from onward.core.errors import DataError
from onward.core.group import ALONE, Group
from onward.data.dataset import Batch, Dataset

Augment = Callable[[Batch, int], Batch]


def order(seed: int, epoch: int, count: int, owner: str = "loader") -> Tensor:
    """A permutation of ``range(count)`` that is a pure function of (seed, owner, epoch, count): ``[count]`` int64."""
    one, like = torch.zeros(1, dtype=torch.int64), torch.zeros((), dtype=torch.float64)
    scores = KeyedDraws(seed).draw(Uniform(), Key("order", owner, epoch), one, torch.arange(count), (), like)
    return scores[0].argsort(stable=True)


class Loader:
    """Yields a data set in mini-batches.

    The order of epoch k depends on (seed, k) alone, so a resumed run sees what an uninterrupted one would.
    ``augment(batch, epoch)`` changes the inputs of a batch; None leaves them. ``workers`` processes prepare batches
    ahead of time; their number changes no batch. Each process of ``group`` gets its own part of every batch.

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
        workers: int = 0,
        group: Group = ALONE,
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
        self.group = group
        self._drawn: tuple[int, Tensor] | None = None
        self.workers: Workers | None = None
        self._employ(workers)

    def _employ(self, count: int) -> None:
        """Hands the workers a twin: a loader that they lead back to would keep them until memory is swept."""
        self.workers = Workers(copy(self).batch, count) if count else None

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        full = len(self.dataset) / self.batch_size
        return int(full) if self.drop_last else ceil(full)

    def size(self, number: int) -> int:
        """How many samples batch ``number`` of an epoch has, over all processes."""
        return min(self.batch_size, len(self.dataset) - number * self.batch_size)

    def part(self, number: int) -> slice:
        """The places that this process holds in batch ``number``."""
        return self.group.part(self.size(number))

    def epoch(self, index: int, first: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``index`` from number ``first`` on, but those in which this process has no part."""
        parts = ((number, self.part(number)) for number in range(first, len(self)))
        wanted = [(index, number) for number, part in parts if part.start < part.stop]
        return map(self.batch, wanted) if self.workers is None else self.workers.prepare(wanted)

    def batch(self, place: tuple[int, int]) -> Batch:
        """The batch at (epoch, number)."""
        epoch, number = place
        start, part = number * self.batch_size, self.part(number)
        rows = self._order(epoch)[start + part.start : start + part.stop]
        # A copy: sending a batch moves the memory of its tensors, while the next one is being read already.
        batch = self.dataset.batch(rows.clone(), self.steps)
        return batch if self.augment is None else self.augment(batch, epoch)

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, order(self.seed, epoch, len(self.dataset))
        return self._drawn[1]


class Mixed(Loader):
    """Mini-batches of several ``loaders``, spread evenly over an epoch; each is of one of them.

    Every loader shuffles for itself; which one gives mini-batch number n is the same in all epochs.
    """

    def __init__(self, loaders: Sequence[Loader], workers: int = 0):
        first = loaders[0]
        super().__init__(first.dataset, first.batch_size, first.steps, seed=first.seed, group=first.group)
        self.loaders = tuple(loaders)
        places = [((i + 0.5) / len(loader), k, i) for k, loader in enumerate(loaders) for i in range(len(loader))]
        self._places = [(k, i) for _, k, i in sorted(places)]
        self._employ(workers)

    def __len__(self) -> int:
        return len(self._places)

    def size(self, number: int) -> int:
        """See `Loader.size`."""
        loader, own = self._places[number]
        return self.loaders[loader].size(own)

    def batch(self, place: tuple[int, int]) -> Batch:
        """See `Loader.batch`."""
        epoch, number = place
        loader, own = self._places[number]
        return self.loaders[loader].batch((epoch, own))


class Workers:
    """Processes that prepare batches ahead of time; started when first needed, and kept from epoch to epoch.

    They are started afresh, not forked: compiled kernels do not survive a fork. A script that uses them guards its
    own start by ``if __name__ == "__main__":``.
    """

    def __init__(self, batch: Callable[[tuple[int, int]], Batch], count: int):
        self._batch, self._count = batch, count
        self._wanted: list[tuple[int, int]] = []
        self._loader: DataLoader | None = None

    def prepare(self, wanted: list[tuple[int, int]]) -> Iterator[Batch]:
        """The batches at the (epoch, number) ``wanted``, in that order."""
        self._wanted[:] = wanted
        if self._loader is None:
            self._loader = DataLoader(
                _Computed(self._batch),
                batch_size=None,
                sampler=self._wanted,
                num_workers=self._count,
                multiprocessing_context="spawn",
                persistent_workers=True,
            )
        return map(_given, self._loader)

    def __getstate__(self) -> dict[str, Any]:
        """Processes stay where they are."""
        return {**self.__dict__, "_loader": None}


class _Computed(TorchDataset[Batch | DataError]):
    """Batches as torch's loader asks for them; an error comes back as it is, torch would add a traceback to it."""

    def __init__(self, batch: Callable[[tuple[int, int]], Batch]):
        self._batch = batch

    def __getitem__(self, place: tuple[int, int]) -> Batch | DataError:
        try:
            return self._batch(place)
        except DataError as error:
            return error


def _given(found: Batch | DataError) -> Batch:
    if isinstance(found, DataError):
        raise DataError(*found.args)  # `found` itself would hold this frame, and with it the workers
    return found
