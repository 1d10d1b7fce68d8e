"""Which data a trained network is tested on."""

from __future__ import annotations

from collections.abc import Sequence

from onward.core.errors import ConfigError
from onward.data import Dataset, load, open_file
from onward.data.folders import expanded
from onward.data.streams import OfTask, StreamChoice, streams
from onward.train.config import RunConfig
from onward.train.files import is_file
from onward.train.grammar import with_flags

PARTS = ("train", "test")


def evaluation_data(
    config: RunConfig, data: str | None, split: str | None, tokens: Sequence[str], task: int | None = None
) -> Dataset:
    """The samples that ``onward eval RUN --data DATA --data.split SPLIT --task TASK`` means.

    ``data`` is a file (all its rows, or those of ``split``), a data set's name, or None for the run's own; of
    the latter two ``split`` is "train" or "test". ``tokens`` are further flags, such as ``--data.root DIR``. ``task``
    is counted from 1; of a run that learned a stream it must be known.
    """
    number = _number(config, task)
    found = _samples(config, data, split, tokens, number)
    return found if number is None else OfTask(found, number)


def _number(config: RunConfig, task: int | None) -> int | None:
    """The task, counted from 0; None where there is no stream."""
    choice = config.stream
    if not isinstance(choice, StreamChoice):
        if task is not None:
            raise ConfigError(f"--task {task} was given, and this run learned a single task; leave it out")
        return None
    if task is None or not 1 <= task <= choice.tasks:
        given = "no task was given" if task is None else f"--task {task} was given"
        raise ConfigError(
            f"{given}, and this run learned {choice.tasks} of them; say which one is meant, --task 1 to {choice.tasks} "
            "(the accuracies of all, after each lesson, are in the run's file DONE)"
        )
    return task - 1


def _samples(
    config: RunConfig, data: str | None, split: str | None, tokens: Sequence[str], number: int | None
) -> Dataset:
    if data is not None and is_file(data):
        like = with_flags(tokens, config).data
        return open_file(expanded(data), like, split=split)
    named = [] if data is None else ["--data", data]
    if split not in (None, *PARTS):
        raise ConfigError(f"--data.split: {split} was given; a data set by name has the splits train and test")
    asked = with_flags([*named, *tokens], config)
    if number is not None and data is None:
        both = streams.build(asked.stream, asked.data, asked.seed).tasks[number].split
    else:
        both = load(asked.data)
    return both.train if split == "train" else both.test
