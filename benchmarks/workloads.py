"""The tasks that are timed: networks, and mini-batches made once and written to files that every contender reads.

=========  =====================================  ===  ===  ========================================================
name       network                                T    B    input
=========  =====================================  ===  ===  ========================================================
event      2312-800-800-10                        30   64   N-MNIST recordings, real where given, simulated elsewhere
conv       3x32x32, four 3x3 convolutions, 10     6    32   random images, the same at every step
conv-bn    the same with batch normalisation      6    32   the same
static     784-800-800-10                         6    128  MNIST, the same at every step
=========  =====================================  ===  ===  ========================================================

Loss: cross-entropy at every step, averaged over steps. LIF with tau 2, soft reset, threshold 1, surrogate sigmoid(4).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import onward
from benchmarks.ours import build_network
from benchmarks.peers.protocol import Task, parameters, plan
from onward.core.errors import DataError, UnknownName
from onward.data import Binary, ByDuration, event_dataset, read_recordings
from onward.data.folders import VARIABLE
from onward.data.mnist import mnist_arrays
from onward.data.recordings import Recordings
from onward.data.simulator import Camera, simulate

BATCHES = 4
RECORDINGS = "nmnist-small.npz"


class Input(ABC):
    """Where mini-batches come from."""

    @abstractmethod
    def arrays(self, batches: int, batch: int, steps: int, features: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The arrays of a data file: ``y`` ``[N, B]``, and ``x`` ``[N, B, *features]`` or sparse rows."""


class Images(Input):
    """Random images and labels."""

    def arrays(self, batches: int, batch: int, steps: int, features: tuple[int, ...]) -> dict[str, np.ndarray]:
        """See `Input.arrays`."""
        rng = np.random.default_rng(0)
        x = rng.random((batches, batch, *features), dtype=np.float32)
        return {"x": x, "y": rng.integers(0, 10, (batches, batch))}


class Digits(Input):
    """MNIST's first training digits as vectors."""

    def arrays(self, batches: int, batch: int, steps: int, features: tuple[int, ...]) -> dict[str, np.ndarray]:
        """See `Input.arrays`."""
        (x, y), _ = mnist_arrays()
        count = batches * batch
        still = x[:count].reshape(batches, batch, *features).astype(np.float32) / 255
        return {"x": still, "y": y[:count].reshape(batches, batch).astype(np.int64)}


@dataclass(frozen=True)
class EventCamera(Input):
    """Recordings of ``file``, or of the simulated camera where there is none."""

    file: Path | None = None

    def arrays(self, batches: int, batch: int, steps: int, features: tuple[int, ...]) -> dict[str, np.ndarray]:
        """See `Input.arrays`."""
        recordings = self._recordings(batches * batch)
        if len(recordings) < batches * batch:
            raise DataError(f"{self.file}: holds {len(recordings)} recordings; {batches * batch} are needed")
        data = event_dataset(recordings, ByDuration(), Binary())
        ids = torch.arange(batches * batch).view(batches, batch)
        return _sparse([data.batch(row, steps).x for row in ids]) | {"y": data.y[ids].numpy()}

    def _recordings(self, count: int) -> Recordings:
        if self.file is not None:
            return read_recordings(self.file)
        (x, y), _ = mnist_arrays()
        made = simulate(torch.from_numpy(x[:count, 0]), torch.arange(count), Camera(), seed=0)
        return replace(made, label=y[:count].astype(np.int64))


class RandomEvents(Input):
    """Every cell is active with probability 0.04: input for any number of steps."""

    def arrays(self, batches: int, batch: int, steps: int, features: tuple[int, ...]) -> dict[str, np.ndarray]:
        """See `Input.arrays`."""
        rng, size = np.random.default_rng(0), prod(features)
        counts = rng.binomial(size, 0.04, (batches, steps * batch))
        indices = [np.sort(rng.choice(size, count, replace=False)) for count in counts.ravel()]
        offsets = np.concatenate([np.zeros((batches, 1), np.int64), counts.cumsum(1)], 1)
        starts = np.concatenate([[0], counts.sum(1).cumsum()])
        y = rng.integers(0, 10, (batches, batch))
        return {"indices": np.concatenate(indices).astype(np.int32), "offsets": offsets, "starts": starts, "y": y}


def _sparse(batches: list[onward.Events]) -> dict[str, np.ndarray]:
    return {
        "indices": torch.cat([batch.indices for batch in batches]).numpy().astype(np.int32),
        "offsets": torch.stack([batch.offsets for batch in batches]).numpy(),
        "starts": np.cumsum([0, *(len(batch.indices) for batch in batches)]),
    }


@dataclass(frozen=True)
class Workload:
    """``gains`` multiply the initial weights of the layers, so that every layer fires from the start."""

    name: str
    layers: str
    features: tuple[int, ...]
    steps: int
    batch: int
    input: Input
    gains: tuple[float, ...]
    norm: bool = False

    def small(self) -> Workload:
        """The same network on little data, for comparing numbers."""
        return replace(self, batch=4)

    def task(self, folder: Path, rule: str = "bptt", batches: int = BATCHES) -> Task:
        """Writes data and weights into ``folder``; the task for a contender."""
        data, weights = folder / f"{self.name}-{self.steps}-{self.batch}.npz", folder / f"{self.name}-weights.npz"
        if not data.exists():
            np.savez(data, **self.input.arrays(batches, self.batch, self.steps, self.features))
        task = Task(self.layers, list(self.features), 10, self.steps, self.norm, str(data), str(weights), rule)
        if not weights.exists():
            np.savez(weights, **self._initial(task))
        return task

    def _initial(self, task: Task) -> dict[str, np.ndarray]:
        torch.manual_seed(0)
        net: nn.Module = build_network(task)
        return {name: self._scaled(name, p.detach()).numpy() for name, p in parameters(net).items()}

    def _scaled(self, name: str, weight: Tensor) -> Tensor:
        layer, kind = name.split(".")
        return weight * self.gains[int(layer)] if kind == "weight" and layer.isdigit() else weight

    def density(self, folder: Path) -> float:
        """The fraction of inputs that are not zero, where they are events; 1 elsewhere."""
        with np.load(self.task(folder).data) as arrays:
            if "x" in arrays:
                return 1.0
            return float(len(arrays["indices"]) / ((arrays["offsets"].size - len(arrays["y"])) * prod(self.features)))

    @property
    def still(self) -> bool:
        """Whether every step has the same input."""
        return isinstance(self.input, Images | Digits)

    def plan(self) -> list[tuple]:
        """The layers one by one; see `benchmarks.peers.protocol.plan`."""
        return plan(Task(self.layers, list(self.features), 10, self.steps, self.norm, "", "", "bptt"))


CONV = "64C3-AP2-128C3-AP2-256C3-AP2-256C3-AP2-FC"
MLP = "800-800-FC"


def recordings_file(given: Path | None) -> Path | None:
    """The file of real recordings: what was given, or `RECORDINGS` in the folder ONWARD_DATA, if it is there."""
    if given is not None:
        return given
    found = Path(os.environ.get(VARIABLE) or ".") / RECORDINGS
    return found if VARIABLE in os.environ and found.is_file() else None


def workloads(recordings: Path | None = None) -> dict[str, Workload]:
    """All workloads by name."""
    listed = [
        Workload("event", MLP, (2312,), 30, 64, EventCamera(recordings), (3.0, 1.5, 1.0)),
        Workload("conv", CONV, (3, 32, 32), 6, 32, Images(), (5.0, 5.0, 5.0, 4.0, 1.0)),
        Workload("conv-bn", CONV, (3, 32, 32), 6, 32, Images(), (5.0, 5.0, 5.0, 4.0, 1.0), norm=True),
        Workload("static", MLP, (784,), 6, 128, Digits(), (1.0, 1.5, 1.0)),
    ]
    return {workload.name: workload for workload in listed}


def named(name: str, known: dict[str, Workload]) -> Workload:
    """The workload called ``name``; raises `UnknownName` with the nearest ones."""
    if name not in known:
        raise UnknownName("workload", name, known)
    return known[name]


def memory_workload(steps: int) -> Workload:
    """The event network at any number of steps, on random events."""
    return Workload("memory", MLP, (2312,), steps, 64, RandomEvents(), (3.0, 1.5, 1.0))
