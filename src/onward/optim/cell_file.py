"""Learned optimisers on disk: a safetensors file whose header says, in JSON, what the tensors are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from onward._durable import write_whole
from onward._tensors import CheckpointError, about, packed, read_tensors
from onward.core.errors import ConfigError, OnwardError
from onward.core.registry import describe
from onward.optim.cell import Architecture, Cell

KEY, FORMAT = "onward.learned_optimizer", 1
MOST_CHARACTERS = 2**20
HOW_TO_MAKE_ONE = "expected a file that `onward meta-train` wrote"


def write_cell(path: Path, cell: Cell, record: Mapping[str, Any]) -> None:
    """Writes ``cell`` whole or not at all; ``record`` says how it was trained. Raises `OSError`."""
    told = {**record, "format": FORMAT, "architecture": cell.architecture.model_dump()}
    tensors = {name: tensor.to(torch.float32) for name, tensor in cell.state_dict().items()}
    write_whole(path, packed(tensors, {KEY: json.dumps(told, allow_nan=False)}))


def read_cell(path: Path) -> Cell:
    """The learned optimiser in ``path``, in float32; raises `ConfigError` or `CheckpointError`.

    Memory: a header of at most 16 MiB, then what the architecture takes (at most 2 million numbers).
    """
    told = read_record(path)
    try:
        architecture = Architecture.model_validate(told.get("architecture"))
    except ValidationError as error:
        raise CheckpointError(f"{path}: {describe(error, 'architecture')}; {HOW_TO_MAKE_ONE}") from None
    except OnwardError as error:
        raise CheckpointError(f"{path}: {error}; {HOW_TO_MAKE_ONE}") from None
    cell = Cell(architecture)
    cell.load_state_dict(read_tensors(path, cell.state_dict()))
    if not all(bool(parameter.isfinite().all()) for parameter in cell.parameters()):
        raise CheckpointError(f"{path}: holds NaN or infinity; {HOW_TO_MAKE_ONE}")
    return cell


def read_record(path: Path) -> dict[str, Any]:
    """How the learned optimiser in ``path`` was trained; raises `ConfigError` or `CheckpointError`."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; {HOW_TO_MAKE_ONE}")
    text = about(path).get(KEY)
    if text is None:
        raise CheckpointError(f"{path}: is a safetensors file, but no learned optimiser; {HOW_TO_MAKE_ONE}")
    try:
        told = json.loads(text) if len(text) <= MOST_CHARACTERS else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise CheckpointError(f"{path}: what its header says is no JSON object; {HOW_TO_MAKE_ONE}")
    if told.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is a learned optimiser of format {told.get('format')!r}; expected {FORMAT}, so use the version "
            "of Onward that wrote it, or train it again"
        )
    return told
