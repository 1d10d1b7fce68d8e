"""An event camera that looks at a digit while it makes three saccades, as N-MNIST was recorded.

For each pixel, with I the luminance (grey value to the power gamma, blurred by the optics) at its place at time t,

    L = -log(1 + c I) / log(1 + c),      ON event: L - L_ref > theta_on,      OFF event: L - L_ref < -theta_off,

tested once in each refractory time, so a pixel sends at most one event in it; a pixel that sent one takes its L as
the new L_ref. Thresholds differ from pixel to pixel (log-normal) and noise events are added (Poisson). The minus sign
is the recordings' coding: ON is darker.
Model, fit and comparison with real recordings: docs/explanation/saccade-simulator.md.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil, floor, log1p
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import conv2d, pad

from onward.core.draws import Gaussian, Key, KeyedDraws, Law, Uniform
from onward.data.recordings import Recordings
from onward.data.saccades import N_MNIST, Path

SENSOR = 34
_CELLS = SENSOR * SENSOR
_MARGIN = 8  # pixels around the sensor that a digit may come from
_GOLDEN = 0.6180339887498949
_CHUNK = 16  # small enough that torch runs each operation on the calling thread


class Camera(BaseModel):
    """The simulated camera; the defaults are the fit to real recordings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blur: float = Field(default=0.485, gt=0, description="standard deviation of the optical blur, pixels")
    gamma: float = Field(default=2.97, gt=0, description="luminance of the screen is grey value to this power")
    contrast: float = Field(default=0.661, gt=0, description="luminance of white over that of the surroundings")
    threshold_on: float = Field(default=0.12, gt=0, description="rise of L that sends an ON event; black to white is 1")
    threshold_off: float = Field(
        default=0.122, gt=0, description="fall of L that sends an OFF event; black to white is 1"
    )
    mismatch: float = Field(default=0.125, ge=0, description="standard deviation of log threshold from pixel to pixel")
    refractory_ms: float = Field(
        default=2.23, ge=0.1, description="least time between two events of a pixel, milliseconds"
    )
    noise_hz: float = Field(default=0.379, ge=0, description="noise events a second and pixel")
    duration_ms: float = Field(default=308, gt=0, le=10_000, description="length of a recording, milliseconds")
    amplitude: float = Field(
        default=1.0, ge=0, le=1.5, description="size of the saccades; 1: that of the real recordings"
    )

    @property
    def steps(self) -> int:
        """Refractory times in a recording."""
        return max(1, int(self.duration_ms / self.refractory_ms))


def simulate(images: Tensor, ids: Tensor, camera: Camera, seed: int, path: Path = N_MNIST) -> Recordings:
    """Recordings of digits ``images`` ``[N, 28, 28]`` uint8, unlabelled (label 0); ``mnist_index`` is ``ids`` ``[N]``.

    Recording i is a pure function of (``images[i]``, ``ids[i]``, camera, seed, path), whatever the batch. Time
    about 1.6 ms a recording on one core; memory O(events) and 40 MB of scratch.

    >>> recordings = simulate(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.arange(2), Camera(), seed=0)
    >>> len(recordings), recordings.features
    (2, (2, 34, 34))
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        work = partial(_simulate_chunk, camera=camera, seed=seed, path=path)
        parts = list(pool.map(work, images.split(_CHUNK), ids.split(_CHUNK)))
    sizes = np.concatenate([part.sizes for part in parts])
    return Recordings(
        np.concatenate([part.address for part in parts]),
        np.concatenate([part.t for part in parts]),
        np.concatenate([[0], np.cumsum(sizes)]),
        np.zeros(len(ids), np.int64),
        SENSOR,
        SENSOR,
        mnist_index=ids.numpy(),
    )


class _Part(NamedTuple):
    """Events of some recordings in order: ``address`` uint16, ``t`` uint32, and the number of each recording's."""

    address: np.ndarray
    t: np.ndarray
    sizes: np.ndarray


def _simulate_chunk(images: Tensor, ids: Tensor, camera: Camera, seed: int, path: Path) -> _Part:
    draws = _SampleDraws(seed, ids)
    factor = draws(Gaussian(), "threshold", (2, SENSOR, SENSOR)).mul_(camera.mismatch).exp_()
    rise, fall = camera.threshold_on * factor[:, 0], -camera.threshold_off * factor[:, 1]
    on, off = _film(_response(images, camera), rise, fall, camera, path)
    phase = draws(Uniform(), "phase", (_CELLS,)).flatten().numpy()
    films = [_film_keys(film, polarity, phase, camera) for polarity, film in enumerate((off, on))]
    keys = np.concatenate([*films, _noise_keys(draws, camera)])
    keys.sort()
    sizes = np.bincount(keys >> 44, minlength=len(ids))
    return _Part((keys & 0xFFF).astype(np.uint16), (keys >> 12 & 0xFFFFFFFF).astype(np.uint32), sizes)


class _SampleDraws:
    """Numbers keyed by (seed, purpose, sample)."""

    def __init__(self, seed: int, ids: Tensor):
        self.draws, self.ids = KeyedDraws(seed), ids

    def __call__(self, law: Law, purpose: str, size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """``[B, *size]``."""
        start, like = torch.zeros(1, dtype=torch.int64), torch.zeros((), dtype=dtype)
        return self.draws.draw(law, Key(purpose, "simulator", 0), start, self.ids, size, like)[0]


def _response(images: Tensor, camera: Camera) -> Tensor:
    """L of the digit in the middle of the sensor, with a margin around it: ``[B, W, W]``, W = SENSOR + 2 margin."""
    radius = ceil(3 * camera.blur)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * camera.blur**2))
    kernel /= kernel.sum()
    border = (SENSOR - images.shape[-1]) // 2 + _MARGIN
    light = pad((images.float() / 255) ** camera.gamma, [border + radius] * 4)[:, None]
    blurred = conv2d(conv2d(light, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return torch.log1p(camera.contrast * blurred[:, 0]).div_(-log1p(camera.contrast))


class _Window:
    """What the sensor sees of a response that is moved by (x, y) pixels, interpolated bilinearly."""

    def __init__(self, response: Tensor):
        self.response = response
        self.rows = response.new_empty(len(response), SENSOR, response.shape[2])
        self.seen = response.new_empty(len(response), SENSOR, SENSOR)

    def at(self, x: float, y: float) -> Tensor:
        """``[B, SENSOR, SENSOR]``, overwritten by the next call."""
        left, top = floor(_MARGIN - x), floor(_MARGIN - y)
        upper, lower = (self.response[:, top + i : top + i + SENSOR] for i in (0, 1))
        torch.lerp(upper, lower, _MARGIN - y - top, out=self.rows)
        first, second = (self.rows[:, :, left + i : left + i + SENSOR] for i in (0, 1))
        return torch.lerp(first, second, _MARGIN - x - left, out=self.seen)


def _film(response: Tensor, rise: Tensor, fall: Tensor, camera: Camera, path: Path) -> tuple[Tensor, Tensor]:
    """Which pixels send ON and OFF events in which step: two ``[steps, B, SENSOR, SENSOR]`` bool."""
    ms = torch.arange(camera.steps + 1, dtype=torch.float64) * camera.refractory_ms
    places = torch.stack([path.x.at(ms), path.y.at(ms)], 1).mul_(camera.amplitude).tolist()
    window = _Window(response)
    reference = window.at(*places[0]).clone()
    on = torch.empty(camera.steps, *reference.shape, dtype=torch.bool)
    off, change, sent = torch.empty_like(on), torch.empty_like(reference), torch.empty_like(on[0])
    for step, place in enumerate(places[1:]):
        level = window.at(*place)
        torch.sub(level, reference, out=change)
        torch.gt(change, rise, out=on[step])
        torch.lt(change, fall, out=off[step])
        torch.logical_or(on[step], off[step], out=sent)
        torch.where(sent, level, reference, out=reference)
    return on, off


def _keys(sample: np.ndarray, t: np.ndarray, address: np.ndarray) -> np.ndarray:
    """One int64 an event, ordered as (sample, time, address)."""
    return sample << 44 | t << 12 | address


def _film_keys(film: Tensor, polarity: int, phase: np.ndarray, camera: Camera) -> np.ndarray:
    """Keys of the events of one polarity, spread over their step by the pixel's phase, which moves on every step."""
    step, place = np.divmod(np.flatnonzero(film.numpy()), film[0].numel())
    sample, cell = np.divmod(place, _CELLS)
    t = (step + (phase[place] + step * _GOLDEN) % 1) * (1000 * camera.refractory_ms)
    return _keys(sample, t.astype(np.int64), cell + polarity * _CELLS)


def _noise_keys(draws: _SampleDraws, camera: Camera) -> np.ndarray:
    """Keys of the noise events: a Poisson process over all cells and polarities, laid out one after the other."""
    mean = camera.noise_hz * _CELLS * camera.duration_ms / 1000
    most = ceil(mean + 8 * mean**0.5 + 8)
    arrivals = draws(Uniform(), "noise", (most,), torch.float64).log().neg().cumsum(1).numpy()
    sample, event = np.nonzero(arrivals < mean)
    place = arrivals[sample, event] * (2 * _CELLS / mean if mean else 0)
    address = np.floor(place).astype(np.int64).clip(max=2 * _CELLS - 1)
    t = ((place - address) * camera.duration_ms * 1000).astype(np.int64)
    return _keys(sample, t, address)
