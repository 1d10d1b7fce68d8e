"""Which data a trained network is tested on."""

from __future__ import annotations

from collections.abc import Sequence

from onward.core.errors import ConfigError
from onward.data import Dataset, load, open_file
from onward.data.folders import expanded
from onward.train.config import RunConfig
from onward.train.files import is_file
from onward.train.grammar import with_flags

PARTS = ("train", "test")


def evaluation_data(config: RunConfig, data: str | None, split: str | None, tokens: Sequence[str]) -> Dataset:
    """The samples that ``onward eval RUN --data DATA --data.split SPLIT`` means.

    ``data`` is a file (all its rows, or those of ``split``), a data set's name, or None for the run's own; of
    the latter two ``split`` is "train" or "test". ``tokens`` are further flags, such as ``--data.root DIR``.
    """
    if data is not None and is_file(data):
        like = with_flags(tokens, config).data
        return open_file(expanded(data), like, split=split)
    named = [] if data is None else ["--data", data]
    if split not in (None, *PARTS):
        raise ConfigError(f"--data.split: {split} was given; a data set by name has the splits train and test")
    both = load(with_flags([*named, *tokens], config).data)
    return both.train if split == "train" else both.test
