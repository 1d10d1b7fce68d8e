"""Learned optimisers and query networks that nobody trained, for tests that go through every optimiser and rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from onward.optim import Architecture, QueryRNN, initial_cell, optimizers, write_cell, write_query

LEARNED = [name for name in optimizers.names() if "weights" in optimizers.entry(name).config.model_fields]
"""Names of the optimisers that need weights."""


def weights(folder: Path, **options: Any) -> str:
    """A file of weights in ``folder``."""
    path = folder / "cell.safetensors"
    write_cell(path, initial_cell(Architecture.model_validate(options), seed=0), {})
    return str(path)


def query(seed: int = 0) -> QueryRNN:
    """A query network whose deviations are worth looking at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = QueryRNN()
    with torch.no_grad():
        made.core.readout.weight.mul_(30)
    return made


def query_weights(folder: Path, seed: int = 0) -> str:
    """A file of a query network in ``folder``."""
    path = folder / "query.safetensors"
    write_query(path, query(seed), {})
    return str(path)


def choice(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Options of any optimiser; those that are learned get weights."""
    return {"name": name, **options, **({"weights": weights(folder)} if name in LEARNED else {})}
