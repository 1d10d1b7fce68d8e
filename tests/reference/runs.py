"""Runs that are cut short and continued, or meet NaN, and what must be the same as in a run in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from onward.core import Frames
from onward.data import Batch, Loader
from onward.train import Parts, RunFolder, Summary, parse_tokens, train
from onward.train.checkpoint import FILES, read_state
from onward.train.fit import fit
from onward.train.parts import assemble
from onward.train.state import Fitted

TIMES = {"samples_per_second", "seconds"}


def straight(tokens: Sequence[str]) -> Summary:
    """A run in one piece."""
    return train(parse_tokens(tokens))


def cut(tokens: Sequence[str], after: int) -> Path:
    """The folder of a run that was interrupted after so many mini-batches."""
    parts, resolved = assemble(parse_tokens(tokens))
    folder = RunFolder.create(Path(resolved.train.out), "cut")
    folder.begin(resolved, parts.interface, parts.data_record())
    fit(parts, resolved.train, folder=folder, stop=after_calls(after))
    return folder.path


def after_calls(number: int) -> Callable[[], bool]:
    """False so many times, counting the look before the first mini-batch, then True."""
    calls = count()
    return lambda: next(calls) >= number


def learned(run: Path) -> dict[str, dict[str, Tensor]]:
    """Every tensor of the newest checkpoint, by file and name."""
    newest = RunFolder(run).newest(print)
    assert newest is not None
    return {name: load_file(newest / name) for name in FILES if name.endswith(".safetensors")}


def counters(run: Path) -> Fitted:
    """The counters of the newest checkpoint."""
    newest = RunFolder(run).newest(print)
    assert newest is not None
    return Fitted.from_json(read_state(newest))


def timeless(value: Any) -> Any:
    """A value without what a clock says."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return value


def assert_same_run(a: Path, b: Path) -> None:
    """The same tensors bit for bit, the same metrics, the same best epoch."""
    first, second = learned(a), learned(b)
    assert {f: set(t) for f, t in first.items()} == {f: set(t) for f, t in second.items()}
    for file, tensors in first.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second[file][name]), f"{file}: {name}"
    assert list(map(timeless, RunFolder(a).metrics())) == list(map(timeless, RunFolder(b).metrics()))
    here, there = counters(a), counters(b)
    assert timeless(here.progress.__dict__) == timeless(there.progress.__dict__)
    assert timeless(here.to_json()["score"]) == timeless(there.to_json()["score"])


class Poisoned(Loader):
    """A loader some of whose batches, by (epoch, number), hold a NaN in the third step."""

    bad: frozenset[tuple[int, int]]

    def batch(self, place: tuple[int, int]) -> Batch:
        batch = super().batch(place)
        x = batch.x.chunk(0, batch.x.steps).clone()
        if place in self.bad:
            x[2, 0, 5] = torch.nan
        return batch._replace(x=Frames(x))


def poisoned(parts: Parts, *bad: tuple[int, int]) -> Parts:
    """The same parts with NaN in the batches ``bad``; all batches are frames."""
    loader = Poisoned(parts.loader.dataset, parts.loader.batch_size, parts.loader.steps)
    loader.bad = frozenset(bad)
    return replace(parts, loader=loader)
