"""Pictures as small integers, and lessons epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy import ndarray

from onward.core.errors import DataError
from onward.core.sequence import Static
from onward.data import Dataset
from onward.integer.network import IntegerNetwork

READ = 1000


def inputs(data: Dataset, bits: int) -> tuple[ndarray, ndarray]:
    """The still samples of ``data`` ``[N, n]`` as integers of ``bits`` bits, uint8, and their labels.

    A number x in [0, 1] becomes floor(2^bits x), at most 2^bits - 1, as a converter at a sensor would. Raises
    `DataError` for recordings and for numbers outside.
    """
    images, labels = [], []
    for ids in torch.arange(len(data)).split(READ):
        batch = data.batch(ids, data.steps or 1)
        if not isinstance(batch.x, Static):
            raise DataError(f"{data.name} moves in time; integer OPZO learns still samples, such as mnist")
        x = batch.x.chunk(0, 1)[0].flatten(1)
        least, most = float(x.min()), float(x.max())
        if least < 0 or most > 1:
            raise DataError(
                f"{data.name} holds numbers from {least:g} to {most:g}; integer OPZO expects 0 to 1: "
                "leave out normalisation"
            )
        images.append((x * 2**bits).clamp(max=2**bits - 1).to(torch.uint8))
        labels.append(batch.y)
    return torch.cat(images).numpy(), torch.cat(labels).numpy()


def epochs(net: IntegerNetwork, images: ndarray, labels: ndarray, count: int, seed: int) -> Iterator[int]:
    """Learns all samples ``count`` times, shuffled; after each epoch yields its number, then halves the rates.

    Rates are halved between epochs, not after the last.
    """
    rng = np.random.default_rng(seed)
    for epoch in range(1, count + 1):
        order = rng.permutation(len(images))
        net.learn(images[order], labels[order])
        yield epoch
        if epoch < count:
            net.slower()


def accuracy(net: IntegerNetwork, images: ndarray, labels: ndarray) -> float:
    """The share of ``images`` that ``net`` names rightly."""
    return float((net.answers(images) == labels).mean())
