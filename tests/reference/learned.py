"""Learned optimisers that nobody trained, for tests that go through every optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onward.optim import Architecture, initial_cell, optimizers, write_cell

LEARNED = [name for name in optimizers.names() if "weights" in optimizers.entry(name).config.model_fields]
"""Names of the optimisers that need weights."""


def weights(folder: Path, **options: Any) -> str:
    """A file of weights in ``folder``."""
    path = folder / "cell.safetensors"
    write_cell(path, initial_cell(Architecture.model_validate(options), seed=0), {})
    return str(path)


def choice(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Options of any optimiser; those that are learned get weights."""
    return {"name": name, **options, **({"weights": weights(folder)} if name in LEARNED else {})}
