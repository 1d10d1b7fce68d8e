"""A run's folder: it describes itself.

``config.toml`` (resolved), ``interface.json`` (input shape and classes), ``env.json``, ``metrics.jsonl``,
``checkpoints/step-N/``, ``figures/``, and ``DONE``, which holds the summary and is there only if the run came
to its end.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from os import cpu_count
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from onward._version import __version__
from onward.core.errors import ConfigError
from onward.train import checkpoint, toml
from onward.train.config import RunConfig
from onward.train.grammar import load

CONFIG, INTERFACE, ENV, METRICS, DONE = "config.toml", "interface.json", "env.json", "metrics.jsonl", "DONE"
PACKAGES = ("torch", "numpy", "numba", "safetensors", "pydantic")
CHECKPOINTS, FIGURES, BEST = "checkpoints", "figures", "best.json"


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives: the shape of one time step of one sample, and the number of classes."""

    features: tuple[int, ...]
    classes: int


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
        read = json.loads((self.path / INTERFACE).read_text(encoding="utf-8"))
        return Interface(tuple(read["features"]), read["classes"])

    def begin(self, config: RunConfig, interface: Interface) -> None:
        """Writes what is known before training."""
        (self.path / CONFIG).write_text(toml.dumps(config.model_dump()), encoding="utf-8")
        write_json(self.path / INTERFACE, asdict(interface))
        write_json(self.path / ENV, environment())

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one line to the metrics."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json_line(record) + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of the metrics."""
        path = self.path / METRICS
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            yield json.loads(line)

    def save(self, trained: checkpoint.Trained, counters: Mapping[str, Any], *, best: bool) -> Path:
        """Writes the checkpoint of this moment; keeps it, the ``best`` one, and no other."""
        path = checkpoint.write(self.checkpoints / f"step-{counters['updates']}", trained, counters)
        if best:
            write_json(self.checkpoints / BEST, {"best": path.name})
        keep = {path.name, self._best()}
        for other in self.checkpoints.glob("step-*"):
            if other.name not in keep:
                rmtree(other)
        return path

    def trained(self) -> Path:
        """The checkpoint to use: the best one where one was chosen on held-out data, else the last."""
        best = self._best()
        path = self.checkpoints / best if best else checkpoint.latest(self.checkpoints)
        if path is None:
            raise checkpoint.CheckpointError(f"{self.path} holds no complete checkpoint; train it again")
        return path

    def done(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished."""
        write_json(self.path / DONE, summary)

    def _best(self) -> str | None:
        index = self.checkpoints / BEST
        return json.loads(index.read_text())["best"] if index.is_file() else None


def _unused(out: Path, name: str) -> Path:
    """A new folder called ``name``, or the first of ``name-2``, ``name-3`` ... that is free."""
    for number in count(1):
        path = out / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("unreachable: numbers do not run out")


def environment() -> dict[str, Any]:
    """Versions and hardware; names no host, user or path."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": {"onward": __version__, **{name: _version(name) for name in PACKAGES}},
        "cpus": cpu_count(),
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
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json_line(value) + "\n", encoding="utf-8")
    draft.replace(path)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value
