"""Learning again from samples of earlier tasks that were kept."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from onward.core import run_sequence
from onward.core.glue import turn
from onward.data import Dataset, Loader, Subset
from onward.data.streams import StreamChoice
from onward.optim import optimizers, parameter_groups, schedules
from onward.optim.optimizers import OptimOptions
from onward.train.config import RunConfig
from onward.train.parts import Parts
from onward.train.update import Updater

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

    A fresh optimiser of learning rate ``stream.replay_lr``; nothing is projected, and no subspace learns. Cost: as
    many mini-batches as there are tasks, for each update.
    """
    choice, steps = cast(StreamChoice, config.stream), parts.loader.steps
    updater = _updater(parts, config)
    loaders = [
        Loader(kept(task.split.train, choice.replay), choice.replay_batch, steps, seed=config.seed, group=parts.group)
        for task in parts.stream.tasks[: parts.task + 1]
    ]
    for epoch in range(choice.replay_epochs):
        for number in range(min(map(len, loaders))):
            update = epoch * min(map(len, loaders)) + number
            updater.begin(update)
            for task, loader in enumerate(loaders):
                _learn(parts, loader, (epoch, number), APART + (parts.lesson << 30) + update * len(loaders) + task)
            updater()


def _learn(parts: Parts, loader: Loader, place: tuple[int, int], sequence: int) -> None:
    """Deposits of one mini-batch."""
    batch = loader.batch(place)
    turn(parts.net, batch.task)
    run_sequence(
        parts.net,
        parts.rule,
        parts.objective,
        batch.x.to(parts.device),
        batch.y.to(parts.device),
        parts.grads,
        draws=parts.draws,
        ids=batch.ids,
        sequence=sequence,
        chunk=parts.chunk,
        share=parts.share_of(loader, place[1]),
    )


def _updater(parts: Parts, config: RunConfig) -> Updater:
    lr = cast(StreamChoice, config.stream).replay_lr
    options = cast(OptimOptions, config.optim).model_copy(update={"lr": lr})
    groups = parameter_groups(parts.net, parts.rule, options.weight_decay, options.decay_all)
    optimizer, schedule = optimizers.build(options, groups), schedules.build(options.schedule)
    return Updater(parts.grads, optimizer, schedule, 1, options.clip, parts.net, parts.rule)
