"""A run's folder: it describes itself.

``config.toml`` (resolved), ``interface.json`` (input shape and classes), ``env.json``, ``data.json`` (hashes of the
data, and of files that the configuration names), ``metrics.jsonl``, ``checkpoints/step-N/``, ``figures/``,
``confusion.json`` and ``samples.json`` (for the page ``report.html``), and ``DONE``, which holds the summary and is
there only if the run came to its end.
"""

from __future__ import annotations

import json
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from onward._durable import append_synced, write_whole
from onward._tensors import CheckpointError
from onward._version import __version__
from onward.core.errors import ConfigError
from onward.train import checkpoint, toml
from onward.train.config import RunConfig
from onward.train.grammar import load
from onward.train.state import Fitted

CONFIG, INTERFACE, ENV, DATA = "config.toml", "interface.json", "env.json", "data.json"
METRICS, DONE, LOCK = "metrics.jsonl", "DONE", ".lock"
CONFUSION, SAMPLES, PAGE = "confusion.json", "samples.json", "report.html"
META = "meta.toml"
"""In place of `CONFIG` in the folder of a meta-training."""
PACKAGES = ("torch", "numpy", "numba", "safetensors", "pydantic")
VARIABLES = ("ONWARD_KERNELS", "ONWARD_WAYS")
CHECKPOINTS, FIGURES = "checkpoints", "figures"


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives: the shape of one time step of one sample, and the number of classes.

    ``heads`` is the number of tasks that have outputs of their own.
    """

    features: tuple[int, ...]
    classes: int
    heads: int = 1


class RunFolder:
    """The files of one run under ``path``."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, out: Path, label: str) -> RunFolder:
        """A new folder in ``out``, named by date, time, ``label`` and, where that is taken, a number.

        Raises `ConfigError` where none can be made.
        """
        stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        try:
            out.mkdir(parents=True, exist_ok=True)
            return cls(_unused(out, f"{stamp}-{label}"))
        except OSError as error:
            raise ConfigError(
                f"{out}: no run folder can be made there ({error.strerror}); name another place with --train.out FOLDER"
            ) from None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run; raises `ConfigError` when ``path`` is none."""
        if (path / META).is_file():
            raise ConfigError(
                f"{path} is the folder of a meta-training; go on with: onward meta-train --resume {path}, or train "
                "with what it made: onward train --optim lstm --optim.weights FILE"
            )
        if not (path / CONFIG).is_file():
            raise ConfigError(f"{path} is not the folder of a run: it has no {CONFIG}")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS

    @property
    def figures(self) -> Path:
        """Where pictures go; made when first asked for."""
        folder = self.path / FIGURES
        folder.mkdir(exist_ok=True)
        return folder

    def config(self) -> RunConfig:
        """The configuration that the run was made with."""
        return load(self.path / CONFIG)

    def interface(self) -> Interface:
        """What the run's network takes and gives."""
        read = self.record(INTERFACE)
        try:
            return Interface(tuple(map(int, read["features"])), int(read["classes"]), int(read.get("heads", 1)))
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{self.path / INTERFACE} does not say what the network takes and gives") from None

    def record(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON files; empty where it is missing. Raises `CheckpointError` if it is damaged."""
        path = self.path / name
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise CheckpointError(f"{path}: is damaged; expected a JSON object")
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """While entered, no other process may write to the run; raises `ConfigError` where one does."""
        try:
            with FileLock(self.path / LOCK, timeout=0):
                yield
        except Timeout:
            raise ConfigError(
                f"{self.path} is being trained by another process; wait for it to end, or stop it first"
            ) from None

    def begin(self, config: RunConfig, interface: Interface, data: Mapping[str, Any], processes: int = 1) -> None:
        """Writes what is known before training."""
        with self._writing("what the run is"):
            write_json(self.path / INTERFACE, asdict(interface))
            write_json(self.path / ENV, {**environment(), "processes": processes})
            write_json(self.path / DATA, data)
            write_whole(self.path / CONFIG, toml.dumps(config.model_dump()).encode())

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one line to the metrics, and waits until it is on the disk."""
        with self._writing("metrics"):
            append_synced(self.path / METRICS, json_line(record))

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes one of the files that the run's page reads, over what it was."""
        with self._writing(name):
            write_json(self.path / name, value)

    def rewind(self, lines: int) -> int:
        """Forgets metrics beyond the first ``lines`` and half a line of a killed process; says how many stay."""
        path = self.path / METRICS
        whole = [line for line in _lines(path) if line.endswith("\n")]
        if whole[:lines] != _lines(path):
            write_whole(path, "".join(whole[:lines]).encode())
        return len(whole[:lines])

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of the metrics."""
        return map(json.loads, _lines(self.path / METRICS))

    def save(self, trained: checkpoint.Trained, fitted: Fitted, keep: int) -> Path:
        """Writes the checkpoint of this moment; the last ``keep`` stay, and the best one.

        Raises `CheckpointError` in words where it cannot be written; what was saved before stays.
        """
        with self._writing("a checkpoint"):
            path = checkpoint.write(self.checkpoints / f"step-{fitted.progress.updates}", trained, fitted.to_json())
        present = checkpoint.newest_first(self.checkpoints)
        past = present[present.index(path) :]  # what is beyond this moment was damaged, and passed over
        best = fitted.progress.best_updates
        checkpoint.prune(self.checkpoints, {*(other.name for other in past[:keep]), f"step-{best}"})
        return path

    def newest(self, tell: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that is intact; ``tell`` hears of those that are not."""
        return checkpoint.newest_intact(self.checkpoints, tell)

    def trained(self, tell: Callable[[str], None] = warnings.warn) -> Path:
        """The checkpoint to use: the best one where one was chosen on held-out data, else the last.

        A damaged one is passed over, and ``tell`` hears of it. Raises `CheckpointError` where none is intact.
        """
        newest = self.newest(tell)
        if newest is None:
            raise CheckpointError(f"{self.path} holds no complete checkpoint; train it again")
        best = Fitted.from_json(checkpoint.read_state(newest)).progress.best_updates
        chosen = newest if best is None else self.checkpoints / f"step-{best}"
        if checkpoint.intact(chosen):
            return chosen
        tell(f"{chosen}, the best checkpoint, is missing or damaged; {newest.name} is used")
        return newest

    def done(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished."""
        with self._writing("the summary"):
            write_json(self.path / DONE, summary)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Tells in words why ``what`` cannot be written, and how to go on."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: {what} cannot be written ({error.strerror or error}); make room or mend the folder, "
                f"then go on with: onward resume {self.path}"
            ) from None


def _lines(path: Path) -> list[str]:
    """The lines of a file, each with its end; none where there is no file."""
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []


def _unused(out: Path, name: str) -> Path:
    """A new folder called ``name``, or the first of ``name-2``, ``name-3`` ... that is free."""
    for number in count(1):
        path = out / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("unreachable: numbers do not run out")


def environment() -> dict[str, Any]:
    """Versions, hardware and settings that a result may depend on; names no host, user or path."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": {"onward": __version__, **{name: _version(name) for name in PACKAGES}},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": device,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def json_line(value: Any) -> str:
    """``value`` as JSON on one line; NaN and infinity, which JSON lacks, as null."""
    return json.dumps(_finite(value), allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as JSON, whole or not at all."""
    write_whole(path, (json_line(value) + "\n").encode())


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value
