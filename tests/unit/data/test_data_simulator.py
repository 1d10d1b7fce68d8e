"""The saccade simulator: what it must do whatever its parameters, and how like real recordings it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onward.data import Binary, ByDuration, Loader, datasets, event_dataset, load, nmnist, read_recordings
from onward.data.mnist import mnist_arrays
from onward.data.nmnist import fit_rows, unseen_rows
from onward.data.recordings import Recordings
from onward.data.saccades import N_MNIST
from onward.data.simulator import _MARGIN, Camera, _response, simulate

QUIET = Camera(noise_hz=0, mismatch=0)
REAL = Path(__file__).parents[4] / "shared" / "data" / "nmnist-small.npz"
needs_real = pytest.mark.skipif(
    not REAL.is_file(), reason="../shared/data/nmnist-small.npz, real recordings, is not here"
)


def digits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(mnist_arrays()[0][0][:count, 0]), torch.arange(count)


def same(a: Recordings, b: Recordings) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("address", "t", "offsets"))


def test_a_recording_does_not_depend_on_its_batch() -> None:
    images, ids = digits(40)
    whole = simulate(images, ids, Camera(), seed=3)
    rows = torch.tensor([37, 2, 20])
    assert same(simulate(images[rows], ids[rows], Camera(), seed=3), whole.take(rows.numpy()))


def test_seed_and_id_matter() -> None:
    images, ids = digits(2)
    first = simulate(images, ids, Camera(), seed=0)
    assert same(first, simulate(images, ids, Camera(), seed=0))
    assert not same(first, simulate(images, ids, Camera(), seed=1))
    assert not same(first, simulate(images, ids + 7, Camera(), seed=0))


def test_time_ascends_and_no_pixel_sends_twice_in_a_refractory_step() -> None:
    images, ids = digits(5)
    made = simulate(images, ids, QUIET, seed=0)
    for start, stop in zip(made.offsets, made.offsets[1:], strict=False):
        t, pixel = made.t[start:stop].astype(np.int64), made.address[start:stop] % 1156
        assert (np.diff(t) >= 0).all()
        assert t.max() < 1000 * QUIET.duration_ms
        step = (t / (1000 * QUIET.refractory_ms)).astype(np.int64)
        assert len(np.unique(step * 1156 + pixel)) == len(t)


def test_nothing_moves_or_nothing_is_shown() -> None:
    images, ids = digits(3)
    assert len(simulate(images, ids, QUIET.model_copy(update={"amplitude": 0.0}), 0).t) == 0
    assert len(simulate(torch.zeros_like(images), ids, QUIET, 0).t) == 0


def test_events_equal_a_slow_loop_over_one_pixel() -> None:
    images, ids = digits(1)
    made = simulate(images, ids, QUIET, seed=0)
    total = np.bincount(made.address % 1156, minlength=1156)
    pixel = int(total.argmax())
    levels = seen_by(images, pixel)
    reference, on, off = levels[0], 0, 0
    for level in levels[1:]:
        if level - reference > QUIET.threshold_on:
            on, reference = on + 1, level
        elif level - reference < -QUIET.threshold_off:
            off, reference = off + 1, level
    assert (on, off) == ((made.address == 1156 + pixel).sum(), (made.address == pixel).sum())
    assert on + off == total.max() > 10


def seen_by(images: torch.Tensor, pixel: int) -> list[float]:
    """L of one pixel at every step, by interpolating the response at the pixel's place."""
    response = _response(images, QUIET)[0]
    y, x = divmod(pixel, 34)
    levels = []
    for step in range(QUIET.steps + 1):
        ms = torch.tensor([step * QUIET.refractory_ms], dtype=torch.float64)
        column, row = (_MARGIN + p - float(c.at(ms)) for p, c in ((x, N_MNIST.x), (y, N_MNIST.y)))
        left, top = int(column), int(row)
        patch = response[top : top + 2, left : left + 2]
        weights = torch.tensor([[1 - (row - top)], [row - top]]) * torch.tensor([1 - (column - left), column - left])
        levels.append(float((patch * weights).sum()))
    return levels


def test_noise_is_poisson() -> None:
    camera = Camera(noise_hz=0.5, amplitude=0.0)
    made = simulate(torch.zeros(200, 28, 28, dtype=torch.uint8), torch.arange(200), camera, 0)
    counts, mean = np.diff(made.offsets), 0.5 * 1156 * camera.duration_ms / 1000
    assert abs(counts.mean() - mean) < 5 * (mean / 200) ** 0.5
    assert 0.6 < counts.var() / mean < 1.5
    assert abs((made.address >= 1156).mean() - 0.5) < 5 * (0.25 / len(made.t)) ** 0.5
    assert np.ptp(np.histogram(made.t, 10, (0, 1000 * camera.duration_ms))[0]) < 0.15 * len(made.t) / 10


@pytest.mark.parametrize(
    ("field", "value", "more"),
    [
        ("threshold_on", 0.5, False),
        ("threshold_off", 0.05, True),
        ("refractory_ms", 20.0, False),
        ("noise_hz", 2.0, True),
    ],
)
def test_parameters_act_as_they_say(field: str, value: float, more: bool) -> None:
    images, ids = digits(8)
    plain, changed = (
        len(simulate(images, ids, camera, 0).t) for camera in (Camera(), Camera().model_copy(update={field: value}))
    )
    assert (changed > plain) == more


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


OPTIONS = {"name": "nmnist-sim", "limit": 20, "limit_test": 10}


def first_batch(**options: object) -> tuple[torch.Tensor, torch.Tensor]:
    split = load({**OPTIONS, **options})
    batch = next(Loader(split.train, 20, 12, shuffle=False).epoch(0))
    return batch.x.chunk(0, 12), batch.y


def test_simulated_once_then_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, labels = first_batch()
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(nmnist, "simulate", lambda *_: pytest.fail("simulated again"))
    again, _ = first_batch()
    assert torch.equal(frames, again)
    assert labels.tolist() == mnist_arrays()[0][1][::3000].tolist()


@pytest.mark.parametrize(
    "options", [{"limit": 19}, {"sim_seed": 1}, {"counts": True}, {"bin_us": 9000}, {"camera": {"noise_hz": 0.1}}]
)
def test_every_option_has_a_cache_of_its_own(cache: Path, options: dict[str, object]) -> None:
    first_batch()
    first_batch(**options)
    assert len(list(cache.iterdir())) == 2


def test_training_and_test_digits_are_told_apart(cache: Path) -> None:
    split = load(OPTIONS)
    assert (len(split.train), len(split.test)) == (20, 10)
    for part in split:
        part.batch(torch.arange(2), 5)
    assert len(list(cache.iterdir())) == 2


@needs_real
def test_rows_of_the_fit_are_known() -> None:
    real = read_recordings(REAL)
    fitted, unseen = fit_rows(real), unseen_rows(real)
    assert (len(fitted), len(unseen)) == (350, 450)
    assert not set(fitted) & set(unseen)
    assert real.split is not None
    assert set(real.split[fitted]) == {"train"}


@needs_real
def test_simulated_recordings_are_like_the_real_ones_of_the_same_digits() -> None:
    real = read_recordings(REAL)
    rows = np.setdiff1d(real.rows_of("train"), fit_rows(real))[:100]
    real = real.take(rows)
    assert real.mnist_index is not None
    ids = torch.from_numpy(real.mnist_index.astype(np.int64))
    made = simulate(torch.from_numpy(mnist_arrays()[0][0])[ids, 0], ids, Camera(), 0)
    assert len(made.t) / len(real.t) == pytest.approx(1, abs=0.06)
    assert (made.address >= 1156).mean() == pytest.approx((real.address >= 1156).mean(), abs=0.02)
    images = [np.bincount(r.address % 1156, minlength=1156) for pair in zip_recordings(made, real) for r in pair]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(images[::2], images[1::2], strict=True)]
    assert np.mean(correlations) > 0.95
    density = [density_of(recordings) for recordings in (made, real)]
    assert density[0] == pytest.approx(density[1], rel=0.05)


def zip_recordings(a: Recordings, b: Recordings) -> list[tuple[Recordings, Recordings]]:
    return [(a.take(np.array([row])), b.take(np.array([row]))) for row in range(len(a))]


def density_of(recordings: Recordings) -> float:
    batch = event_dataset(recordings, ByDuration(), Binary()).batch(torch.arange(len(recordings)), 30)
    return float(batch.x.chunk(0, 30).mean())


def test_options_reach_the_camera() -> None:
    choice = datasets.parse({"name": "nmnist-sim", "camera": {"blur": 0.9}})
    assert isinstance(choice, nmnist.SimulatorChoice)
    assert choice.camera.blur == 0.9
    assert choice.camera.gamma == Camera().gamma
