"""Checkpoints: safetensors and JSON in one folder, hashed, complete or absent.

``step-N/`` holds one ``.safetensors`` file for each part (network, rule, optimizer), ``state.json`` (counters
and the optimiser's plain numbers), ``hashes.json`` (SHA-256 of these files) and, written last, ``COMMIT``
(SHA-256 of ``hashes.json``). A folder without a valid ``COMMIT`` is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from onward.core.errors import OnwardError

STATE, HASHES, COMMIT = "state.json", "hashes.json", "COMMIT"


class CheckpointError(OnwardError):
    """A checkpoint that is missing, incomplete, damaged, or of another network."""


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds: all that a run has learned."""

    net: nn.Module
    rule: nn.Module
    optimizer: Optimizer

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each part, by part and name."""
        state = self.optimizer.state_dict()["state"]
        moments = {f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}
        return {"network": self.net.state_dict(), "rule": self.rule.state_dict(), "optimizer": moments}

    def finite(self) -> bool:
        """Whether there is no NaN or infinity in it."""
        parts = self.tensors().values()
        return all(bool(t.isfinite().all()) for part in parts for t in part.values() if t.is_floating_point())


def write(folder: Path, trained: Trained, counters: Mapping[str, Any]) -> Path:
    """Writes a checkpoint at ``folder``, whole or not at all; one that is there already is kept."""
    if committed(folder):
        return folder
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    for leftover in (draft, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    contents = {f"{part}.safetensors": _packed(tensors) for part, tensors in trained.tensors().items()}
    contents[STATE] = _json({"counters": counters, "groups": trained.optimizer.state_dict()["param_groups"]})
    contents[HASHES] = _json({name: _digest(content) for name, content in contents.items()})
    for name, content in contents.items():
        _write_synced(draft / name, content)
    draft.rename(folder)
    _write_synced(folder / COMMIT, _digest(contents[HASHES]).encode())
    _sync(folder)
    _sync(folder.parent)
    return folder


def committed(folder: Path) -> bool:
    """Whether the checkpoint was written to the end."""
    return (folder / COMMIT).is_file()


def read_counters(folder: Path) -> dict[str, Any]:
    """The counters of a checkpoint, verified."""
    return json.loads(_verified(folder)[STATE])["counters"]


def read_modules(folder: Path, net: nn.Module, rule: nn.Module | None = None) -> None:
    """Loads what was learned into ``net`` and, where given, ``rule``; raises `CheckpointError`."""
    _verified(folder)
    for part, module in (("network", net), ("rule", rule)):
        if module is not None:
            _load(module, _unpacked(folder / f"{part}.safetensors"), folder)


def read_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Loads the optimiser's moments and plain numbers; raises `CheckpointError`."""
    groups = json.loads(_verified(folder)[STATE])["groups"]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _unpacked(folder / "optimizer.safetensors").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise CheckpointError(f"{folder}: belongs to another optimiser ({error})") from None


def latest(parent: Path) -> Path | None:
    """The committed checkpoint of the most steps under ``parent``."""
    found = [path for path in parent.glob("step-*") if committed(path)]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def _load(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: does not fit this configuration: {reason}") from None


def _verified(folder: Path) -> dict[str, bytes]:
    """The JSON files of the checkpoint, once every file has shown its hash."""
    if not committed(folder):
        raise CheckpointError(f"{folder}: is no complete checkpoint (it has no {COMMIT} file)")
    index = _bytes(folder / HASHES)
    if _digest(index) != (folder / COMMIT).read_text():
        raise CheckpointError(f"{folder}: {HASHES} is damaged; use an earlier checkpoint")
    for name, expected in json.loads(index).items():
        if _digest(_bytes(folder / name)) != expected:
            raise CheckpointError(f"{folder}: {name} is damaged; use an earlier checkpoint")
    return {STATE: _bytes(folder / STATE)}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    """As safetensors; every tensor gets memory of its own, which the format asks for."""
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def _unpacked(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, default=_plain) + "\n").encode()


def _plain(value: Any) -> Any:
    """What JSON lacks, as a plain number."""
    if isinstance(value, torch.Tensor):
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no place in a checkpoint's counters")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Makes the folder's own entries durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
