"""Learning again from samples of earlier tasks that were kept."""

from __future__ import annotations

from itertools import product
from typing import cast

import torch
from torch import Tensor

from onward.data import Dataset, Loader, Subset
from onward.data.streams import StreamChoice
from onward.optim import OptimOptions
from onward.train.bounds import bounded
from onward.train.config import RunConfig
from onward.train.parts import Parts, learner
from onward.transforms import Trusted

APART = 2**40
"""Added to the numbers of sequences that key draws: no mini-batch of a lesson has one as large."""


def first_of_each(labels: Tensor, count: int) -> Tensor:
    """The positions of the first ``count`` samples of every class.

    >>> first_of_each(torch.tensor([1, 0, 1, 1, 0]), 2)
    tensor([0, 1, 2, 4])
    """
    rows = [(labels == label).nonzero()[:count, 0] for label in labels.unique()]
    return torch.cat(rows).sort().values


def kept(data: Dataset, count: int) -> Dataset:
    """The first ``count`` samples of every class of ``data``."""
    return Subset(data, first_of_each(data.labels(), count))


def rehearse(parts: Parts, config: RunConfig) -> None:
    """Passes over kept samples of all tasks up to the lesson at hand: one update for a mini-batch of each together.

    A fresh optimiser of learning rate ``stream.replay_lr``, whose schedule spans these passes; nothing is projected,
    and no subspace learns. Cost: as many mini-batches as there are tasks, for each update.
    """
    choice, steps = cast(StreamChoice, config.stream), parts.loader.steps
    loaders = [
        Loader(kept(task.split.train, choice.replay), choice.replay_batch, steps, seed=config.seed, group=parts.group)
        for task in parts.stream.tasks[: parts.task + 1]
    ]
    places = list(product(range(choice.replay_epochs), range(min(map(len, loaders)))))
    options = cast(OptimOptions, config.optim).model_copy(update={"lr": choice.replay_lr})
    updates = bounded(config, parts.net, Trusted())
    updater = learner(options, parts.net, parts.rule, parts.grads, len(places), lambda optimizer: updates)
    for update, place in enumerate(places):
        updater.begin(update)
        for task, loader in enumerate(loaders):
            number = APART + (parts.lesson << 30) + update * len(loaders) + task
            batch, share = parts.on_device(loader.batch(place)), parts.share_of(loader, place[1])
            parts.run(batch, number, share, sink=parts.grads)
        updater()
