"""Checkpoints: safetensors and JSON in one folder, hashed, complete or absent.

``step-N/`` holds one ``.safetensors`` file for each part (network, rule, transform, optimizer), ``state.json``
(counters), ``hashes.json`` (SHA-256 of these files) and, written last, ``COMMIT`` (SHA-256 of ``hashes.json``). The
files are written to a hidden folder, made durable, and moved into place together; a folder without a valid ``COMMIT``
is no checkpoint. Nothing in it can name or run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from onward._durable import sync_folder, write_synced
from onward._tensors import CheckpointError, packed, read_tensors
from onward.optim import allocate_state

STATE, HASHES, COMMIT = "state.json", "hashes.json", "COMMIT"
PARTS = ("network", "rule", "transform", "optimizer")
NETWORK = "network.safetensors"
FILES = frozenset({STATE, *(f"{part}.safetensors" for part in PARTS)})
MOST_JSON_BYTES = 2**20


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds: all that a run has learned."""

    net: nn.Module
    rule: nn.Module
    optimizer: Optimizer
    transform: nn.Module = field(default_factory=nn.Module)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each part, by part and name."""
        return {
            "network": self.net.state_dict(),
            "rule": self.rule.state_dict(),
            "transform": self.transform.state_dict(),
            "optimizer": _moments(self.optimizer),
        }

    def finite(self) -> bool:
        """Whether there is no NaN or infinity in it."""
        parts = self.tensors().values()
        return all(bool(t.isfinite().all()) for part in parts for t in part.values() if t.is_floating_point())

    def fingerprint(self) -> str:
        """SHA-256 of network and rule: equal for runs that learned the same, bit for bit."""
        tensors = self.tensors()
        return hashlib.sha256(packed(tensors["network"]) + packed(tensors["rule"])).hexdigest()


def write(folder: Path, trained: Trained, state: Mapping[str, Any]) -> Path:
    """Writes a checkpoint at ``folder``, whole or not at all; one of the same state that is there already is kept.

    Raises `OSError` where the disk is full or cannot be written, and leaves no trace then.
    """
    if intact(folder) and _small(folder / STATE) == _json(state):
        return folder
    contents = {f"{part}.safetensors": packed(tensors) for part, tensors in trained.tensors().items()}
    contents[STATE] = _json(state)
    contents[HASHES] = _json({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        for name, content in contents.items():
            write_synced(draft / name, content)
        sync_folder(draft)
        _commit(draft, folder, hashlib.sha256(contents[HASHES]).hexdigest())
    except BaseException:
        for leftover in (draft, *([] if committed(folder) else [folder])):
            shutil.rmtree(leftover, ignore_errors=True)
        raise
    return folder


def _commit(draft: Path, folder: Path, marker: str) -> None:
    """Moves the draft into place and marks it as complete, each step on the disk before the next."""
    if folder.exists():
        (folder / COMMIT).unlink(missing_ok=True)
        shutil.rmtree(folder)
    draft.rename(folder)
    sync_folder(folder.parent)
    write_synced(folder / COMMIT, marker.encode())
    sync_folder(folder)


def committed(folder: Path) -> bool:
    """Whether the checkpoint was written to the end."""
    return (folder / COMMIT).is_file()


def intact(folder: Path) -> bool:
    """Whether the checkpoint is complete and every file has its hash."""
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def verify(folder: Path) -> None:
    """Raises `CheckpointError` unless the checkpoint is complete and every file has its hash."""
    if not committed(folder):
        raise CheckpointError(f"{folder}: is no complete checkpoint (it has no {COMMIT} file)")
    if _digest(folder / HASHES) != _small(folder / COMMIT).decode(errors="replace"):
        raise CheckpointError(f"{folder}: {HASHES} is damaged")
    hashes = _table(folder / HASHES)
    if hashes.keys() != FILES:
        raise CheckpointError(f"{folder}: {HASHES} lists other files than {', '.join(sorted(FILES))}")
    for name, expected in hashes.items():
        if _digest(folder / name) != expected:
            raise CheckpointError(f"{folder}: {name} is damaged")


def read_state(folder: Path) -> dict[str, Any]:
    """The counters of a checkpoint; raises `CheckpointError`."""
    verify(folder)
    return _table(folder / STATE)


def read_modules(
    folder: Path, net: nn.Module, rule: nn.Module | None = None, transform: nn.Module | None = None
) -> None:
    """Loads what was learned into ``net`` and, where given, ``rule`` and ``transform``; raises `CheckpointError`."""
    verify(folder)
    for part, module in (("network", net), ("rule", rule), ("transform", transform)):
        if module is not None:
            module.load_state_dict(read_tensors(folder / f"{part}.safetensors", module.state_dict()))


def read_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """Loads the optimiser's moments; its plain numbers are those of the configuration. Raises `CheckpointError`."""
    verify(folder)
    if not optimizer.state:
        allocate_state(optimizer)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in read_tensors(folder / "optimizer.safetensors", _moments(optimizer)).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def newest_first(parent: Path) -> list[Path]:
    """The committed checkpoints under ``parent``, those of the most steps first."""
    return sorted(filter(committed, _folders(parent)), key=_steps, reverse=True)


def newest_intact(parent: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that shows its hashes; ``tell`` hears of every newer one that does not."""
    for path in newest_first(parent):
        try:
            verify(path)
        except CheckpointError as error:
            tell(f"{error}; the checkpoint before it is used")
            continue
        return path
    return None


def prune(parent: Path, keep: set[str]) -> None:
    """Removes every checkpoint under ``parent`` but those called ``keep``, and what a killed process left half done."""
    for path in [*_folders(parent), *parent.glob(".step-*")]:
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _folders(parent: Path) -> Iterator[Path]:
    return (path for path in parent.glob("step-*") if path.name.removeprefix("step-").isdecimal())


def _steps(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """By parameter and name, in an order that does not depend on whether they were read or made."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": entry[key] for i, entry in sorted(state.items()) for key in sorted(entry)}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(_small(path))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is no readable JSON") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return table


def _small(path: Path) -> bytes:
    """The content of a file that has no reason to be large."""
    with _opened(path) as file:
        content = file.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise CheckpointError(f"{path}: is larger than {MOST_JSON_BYTES:,} bytes; expected a short file")
    return content


def _digest(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
