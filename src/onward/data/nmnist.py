"""The data set ``nmnist-sim``: MNIST seen by the simulated camera, binned, kept in the cache."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from onward.data import binning, recordings, saccades, simulator
from onward.data.binning import EventDataset, Packed, concatenate, pack
from onward.data.cache import Arrays, cache_folder, cache_key, cached
from onward.data.choices import BinningFields
from onward.data.dataset import Split, spread_rows
from onward.data.loader import order
from onward.data.mnist import mnist_arrays
from onward.data.recordings import Recordings
from onward.data.simulator import SENSOR, Camera, simulate
from onward.data.unbinned import binning_of, reading_of

FIT_SEED, FIT_SIZE = 0, 350
_CHUNK = 2048
_TEST_IDS = 60_000  # test digits are numbered after the training digits
_SOURCES = [Path(str(module.__file__)) for module in (binning, recordings, saccades, simulator)]
_log = logging.getLogger(__name__)


class SimulatorChoice(BinningFields):
    """MNIST as an event camera would record it during three saccades."""

    sim_seed: int = Field(default=0, description="seed of the simulated cameras and their noise")
    camera: Camera = Field(
        default_factory=Camera, description="the simulated camera; the defaults are fitted to real recordings"
    )


def fit_rows(real: Recordings, seed: int = FIT_SEED, size: int = FIT_SIZE) -> np.ndarray:
    """The recordings that the simulator's defaults were fitted to: ``size`` of split "train", drawn by ``seed``."""
    rows = real.rows_of("train")
    return np.sort(rows[order(seed, 0, len(rows)).numpy()[:size]])


def unseen_rows(real: Recordings, seed: int = FIT_SEED, size: int = FIT_SIZE) -> np.ndarray:
    """All other recordings, of any split: those that nothing was fitted to."""
    return np.setdiff1d(np.arange(len(real)), fit_rows(real, seed, size))


def locate_simulation(_choice: SimulatorChoice) -> str:
    """Where simulated recordings are kept; they are made when first needed."""
    return f"simulated from the embedded MNIST when first used, then kept in {cache_folder()}"


def load_simulation(choice: SimulatorChoice) -> Split:
    """Recordings of MNIST's training and test digits, simulated on the first batch unless the cache has them.

    Takes about 1.6 ms a recording on one core, and 6 kB a recording on disk and in memory at 30 steps.
    """
    (train_x, train_y), (test_x, test_y) = mnist_arrays()
    return Split(
        _dataset(choice, train_x, train_y, spread_rows(len(train_y), choice.limit), 0),
        _dataset(choice, test_x, test_y, spread_rows(len(test_y), choice.limit_test), _TEST_IDS),
    )


def _dataset(choice: SimulatorChoice, x: np.ndarray, y: np.ndarray, rows: torch.Tensor, first_id: int) -> EventDataset:
    images = torch.from_numpy(x)[rows, 0]
    labels = torch.from_numpy(y)[rows].long()
    packed = partial(_packed, choice, images, rows + first_id)
    natural = binning_of(choice).natural_steps(round(1000 * choice.camera.duration_ms))
    return EventDataset(choice.name, labels, 10, (2, SENSOR, SENSOR), packed, natural)


def _packed(choice: SimulatorChoice, images: torch.Tensor, ids: torch.Tensor, steps: int) -> Packed:
    """The recordings binned into ``steps``, from the cache or made and put there."""
    options = choice.model_dump(exclude={"name", "limit", "limit_test", "rows"})
    key = cache_key({**options, "steps": steps, "ids": [int(ids[0]), int(ids[-1]), len(ids)]}, _SOURCES)
    arrays = cached(f"nmnist-sim-{key}", lambda: _simulated(choice, images, ids, steps))
    return Packed.of(arrays, steps)


def _simulated(choice: SimulatorChoice, images: torch.Tensor, ids: torch.Tensor, steps: int) -> Arrays:
    parts = []
    for chunk, numbers in zip(images.split(_CHUNK), ids.split(_CHUNK), strict=True):
        _log.info("simulating recordings: %d of %d done", len(parts) * _CHUNK, len(ids))
        made = simulate(chunk, numbers, choice.camera, choice.sim_seed)
        parts.append(pack(made, binning_of(choice), reading_of(choice), steps))
    return concatenate(parts).arrays()
