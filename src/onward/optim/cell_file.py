"""Learned optimisers and query networks on disk: safetensors files whose header says, in JSON, what the tensors are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from onward._durable import write_whole
from onward._tensors import CheckpointError, about, packed, read_tensors
from onward.core.errors import ConfigError, OnwardError
from onward.core.registry import describe
from onward.optim.cell import Architecture, Cell
from onward.optim.query import PENALTY, QueryRNN

FORMAT = 1
Model = TypeVar("Model", bound=BaseModel)
MOST_CHARACTERS = 2**20


@dataclass(frozen=True)
class Kind:
    """What a file holds: ``noun`` in words, under ``key`` in its header; where it is used, and how one is made."""

    key: str
    noun: str
    option: str
    how: str


CELL = Kind(
    "onward.learned_optimizer", "learned optimiser", "--optim.weights", "expected a file that `onward meta-train` wrote"
)
QUERY = Kind(
    "onward.query_network",
    "query network",
    "--rule.weights",
    "expected a file that `onward meta-train --meta.subject query` wrote",
)
KINDS = (CELL, QUERY)


class QueryShape(BaseModel):
    """What a query network is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hidden: int = Field(default=10, ge=1, le=256)
    penalty: float = Field(default=PENALTY, ge=0)


def write_cell(path: Path, cell: Cell, record: Mapping[str, Any]) -> None:
    """Writes ``cell`` whole or not at all; ``record`` says how it was trained. Raises `OSError`."""
    _write(path, cell, CELL, {**record, "architecture": cell.architecture.model_dump()})


def write_query(path: Path, query: QueryRNN, record: Mapping[str, Any]) -> None:
    """Writes ``query`` whole or not at all; ``record`` says how it was trained. Raises `OSError`."""
    shape = QueryShape(hidden=query.core.hidden, penalty=query.penalty)
    _write(path, query, QUERY, {**record, "architecture": shape.model_dump()})


def _write(path: Path, module: nn.Module, kind: Kind, record: Mapping[str, Any]) -> None:
    told = {**record, "format": FORMAT}
    tensors = {name: tensor.to(torch.float32) for name, tensor in module.state_dict().items()}
    write_whole(path, packed(tensors, {kind.key: json.dumps(told, allow_nan=False)}))


def read_cell(path: Path) -> Cell:
    """The learned optimiser in ``path``, in float32; raises `ConfigError` or `CheckpointError`.

    Memory: a header of at most 16 MiB, then what the architecture takes (at most 2 million numbers).
    """
    cell = Cell(_architecture(path, CELL, Architecture))
    _load(path, cell, CELL)
    return cell


def read_query(path: Path) -> QueryRNN:
    """The query network in ``path``, in float32; raises `ConfigError` or `CheckpointError`. Memory as `read_cell`."""
    shape = _architecture(path, QUERY, QueryShape)
    query = QueryRNN(shape.hidden, shape.penalty)
    _load(path, query, QUERY)
    return query


def _architecture(path: Path, kind: Kind, model: type[Model]) -> Model:
    told = read_record(path, kind)
    try:
        return model.model_validate(told.get("architecture"))
    except ValidationError as error:
        raise CheckpointError(f"{path}: {describe(error, 'architecture')}; {kind.how}") from None
    except OnwardError as error:
        raise CheckpointError(f"{path}: {error}; {kind.how}") from None


def _load(path: Path, module: nn.Module, kind: Kind) -> None:
    module.load_state_dict(read_tensors(path, module.state_dict()))
    if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
        raise CheckpointError(f"{path}: holds NaN or infinity; {kind.how}")


def read_record(path: Path, kind: Kind = CELL) -> dict[str, Any]:
    """How what is in ``path`` was trained; raises `ConfigError` or `CheckpointError`."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; {kind.how}")
    texts = about(path)
    text = texts.get(kind.key)
    if text is None:
        raise CheckpointError(f"{path}: is {_foreign(texts, kind)}; {kind.how}")
    try:
        told = json.loads(text) if len(text) <= MOST_CHARACTERS else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise CheckpointError(f"{path}: what its header says is no JSON object; {kind.how}")
    if told.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is a {kind.noun} of format {told.get('format')!r}; expected {FORMAT}, so use the version "
            "of Onward that wrote it, or train it again"
        )
    return told


def _foreign(texts: Mapping[str, str], kind: Kind) -> str:
    """What a file is that is no ``kind``."""
    for other in KINDS:
        if other.key in texts:
            return f"a {other.noun}, which {other.option} takes, and no {kind.noun}"
    return f"a safetensors file, but no {kind.noun}"
