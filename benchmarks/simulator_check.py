"""How like real recordings the simulated ones are, and the fit behind the simulator's defaults.

    python benchmarks/simulator_check.py REAL                       the comparison table
    python benchmarks/simulator_check.py REAL --register            where the real digits are, every 10 ms
    python benchmarks/simulator_check.py REAL --refit SECONDS       fits all parameters anew to the fit half
    python benchmarks/simulator_check.py REAL --write-unseen FILE   the real recordings that nothing was fitted to

REAL is an .npz file of recordings with `split` and `mnist_index`, or a folder with nmnist-small.npz. The table sets
recordings of the same digits side by side, on the half of the training recordings that the defaults were fitted to and
on the other half. With --json the last line of standard output is the table as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from onward.data.binning import Binary, ByDuration, pack
from onward.data.mnist import mnist_arrays
from onward.data.nmnist import fit_rows, unseen_rows
from onward.data.recordings import Recordings, read_recordings, write_recordings
from onward.data.saccades import N_MNIST, Course, Move
from onward.data.saccades import Path as SaccadePath
from onward.data.simulator import SENSOR, Camera, simulate

CELLS = SENSOR * SENSOR
FRAMES = 30
SLOT_US = 10_000
SACCADES_US = (0, 105_000, 210_000, 2**32)
PIXEL_BINS = (0, 1, 2, 3, 5, 8, 12, 16, 20, 10_000)


class Statistics(NamedTuple):
    """What is compared; N recordings."""

    events: float  # a recording
    on: float  # fraction of the events
    saccades: list[float]  # events a recording in each third
    profile: np.ndarray  # events a recording in each 10 ms
    pixels: np.ndarray  # histogram of the events of a pixel, fractions of the pixels
    image: np.ndarray  # events of each pixel of each recording, [N, CELLS]
    frames: np.ndarray  # active inputs, [N, FRAMES * 2 * CELLS] bool


def statistics(recordings: Recordings) -> Statistics:
    """All statistics of some recordings."""
    count, t = len(recordings), recordings.t
    owner = np.repeat(np.arange(count), np.diff(recordings.offsets))
    image = np.bincount(owner * CELLS + recordings.address % CELLS, minlength=count * CELLS).reshape(count, CELLS)
    packed = pack(recordings, ByDuration(), Binary(), FRAMES)
    frames = np.zeros(count * FRAMES * 2 * CELLS, bool)
    row = np.repeat(np.arange(count * FRAMES), np.diff(packed.rows))
    frames[row * 2 * CELLS + packed.indices] = True
    return Statistics(
        len(t) / count,
        float((recordings.address >= CELLS).mean()),
        (np.histogram(t, SACCADES_US)[0] / count).tolist(),
        np.histogram(t, np.arange(0, 340_000, SLOT_US))[0] / count,
        np.histogram(image, PIXEL_BINS)[0] / image.size,
        image,
        frames.reshape(count, -1),
    )


class Comparison(NamedTuple):
    """Simulated against real recordings of the same digits."""

    events_real: float
    events_simulated: float
    on_real: float
    on_simulated: float
    saccades_real: list[float]
    saccades_simulated: list[float]
    density_real: float
    density_simulated: float
    profile_difference: float  # sum of |difference| over 10 ms slots, relative to the real events
    pixel_histogram_difference: float  # sum of |difference| over bins
    spatial_correlation: float  # of the event counts of pixels, mean over recordings
    shuffled_correlation: float  # the same with another digit's recording: what any two digits share
    frame_mismatch: float  # inputs that differ, relative to the real active inputs


def compare(real: Statistics, made: Statistics) -> Comparison:
    """The table for one half."""
    return Comparison(
        real.events,
        made.events,
        real.on,
        made.on,
        real.saccades,
        made.saccades,
        float(real.frames.mean()),
        float(made.frames.mean()),
        float(np.abs(real.profile - made.profile).sum() / real.profile.sum()),
        float(np.abs(real.pixels - made.pixels).sum()),
        row_correlation(real.image, made.image),
        row_correlation(real.image, np.roll(made.image, 1, axis=0)),
        float((real.frames ^ made.frames).sum() / real.frames.sum()),
    )


def row_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows of the correlation of ``a``'s row with ``b``'s."""
    a, b = (rows - rows.mean(1, keepdims=True) for rows in (a.astype(float), b.astype(float)))
    return float(((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))).mean())


def loss(c: Comparison) -> float:
    """What the refit makes small."""
    return (
        1.5 * c.frame_mismatch
        + 0.5 * c.profile_difference
        + abs(np.log(c.events_simulated / c.events_real))
        + 1.5 * abs(np.log(c.density_simulated / c.density_real))
        + c.pixel_histogram_difference
        + 2 * abs(c.on_simulated - c.on_real)
        + 2 * (1 - c.spatial_correlation)
    )


class Half:
    """Real recordings of training digits, and what the simulator makes of the same digits."""

    def __init__(self, real: Recordings):
        if real.mnist_index is None:
            raise SystemExit("the recordings have no mnist_index, so the digits behind them are unknown")
        self.ids = torch.from_numpy(real.mnist_index.astype(np.int64))
        self.images = torch.from_numpy(mnist_arrays()[0][0])[self.ids, 0]
        self.real = statistics(real)

    def compare(self, camera: Camera, path: SaccadePath) -> Comparison:
        """The simulator with these parameters against the real recordings."""
        return compare(self.real, statistics(simulate(self.images, self.ids, camera, 0, path)))


# ------------------------------------------------------------------------------------------------------- fit

CAMERA_SPREAD = {  # of the logarithm
    "blur": 0.1,
    "gamma": 0.15,
    "contrast": 0.3,
    "threshold_on": 0.1,
    "threshold_off": 0.1,
    "mismatch": 0.3,
    "refractory_ms": 0.1,
    "noise_hz": 0.15,
}


ROUGH_CAMERA = Camera(
    blur=0.7,
    gamma=2.2,
    contrast=0.5,
    threshold_on=0.15,
    threshold_off=0.15,
    mismatch=0.1,
    refractory_ms=2.0,
    noise_hz=0.3,
)
ROUGH_PATH = SaccadePath(  # read off the registration of the fit half
    Course(-2.6, (Move(1.6, 60, 10), Move(2.3, 130, 12), Move(1.5, 165, 12), Move(-4.9, 255, 15))),
    Course(-1.8, (Move(5.2, 45, 15), Move(-5.2, 152, 15), Move(0.0, 275, 15))),
)
Parameters = tuple[Camera, SaccadePath]


def refit(real: Recordings, seconds: float, seed: int) -> Parameters:
    """From the rough start, half of the time on a quarter of the recordings, then on all of them."""
    rng, found = np.random.default_rng(seed), (ROUGH_CAMERA, ROUGH_PATH)
    for rows in (np.arange(0, len(real), 4), np.arange(len(real))):
        found = search(Half(real.take(rows)), found, rng, seconds / 2)
    return found


def search(half: Half, start: Parameters, rng: np.random.Generator, seconds: float) -> Parameters:
    """Random search: steps grow on success and shrink on failure."""
    best, (camera, path) = loss(half.compare(*start)), start
    size, end = 1.0, time.monotonic() + seconds
    print(f"start {best:.4f}", flush=True)
    while time.monotonic() < end:
        turn = rng.random() < 0.6
        trial = (jiggle_camera(camera, rng, size), path) if turn else (camera, jiggle_path(path, rng, size))
        found = loss(half.compare(*trial))
        size = min(1.0, size * 1.2) if found < best else max(0.12, size * 0.985)
        if found < best:
            best, (camera, path) = found, trial
            print(f"{best:.4f} {camera!r} {path!r}", flush=True)
    return camera, path


def jiggle_camera(camera: Camera, rng: np.random.Generator, size: float) -> Camera:
    """One to four parameters changed by a log-normal factor."""
    names = rng.choice(list(CAMERA_SPREAD), size=rng.integers(1, 5), replace=False)
    values = camera.model_dump()
    return Camera(**values | {n: float(values[n] * np.exp(size * CAMERA_SPREAD[n] * rng.normal())) for n in names})


def jiggle_path(path: SaccadePath, rng: np.random.Generator, size: float) -> SaccadePath:
    """About a fifth of the path's numbers changed by a normal amount."""

    def moved(value: float, spread: float) -> float:
        return float(value + (rng.random() < 0.2) * spread * size * rng.normal())

    def course(old: Course) -> Course:
        moves = tuple(Move(moved(m.pixels, 0.15), moved(m.centre_ms, 1.5), moved(m.width_ms, 1.5)) for m in old.moves)
        return Course(moved(old.start, 0.1), moves)

    return SaccadePath(course(path.x), course(path.y))


# ---------------------------------------------------------------------------------------------- registration


def register(half: Half, real: Recordings) -> list[tuple[float, ...]]:
    """Where the digits are: rows of (ms, x, y, speed x, speed y, explained fraction), one every 10 ms.

    In each slot the map S of ON minus OFF events is explained by a moving digit, S = v . grad I(. - d); all offsets d
    are tried at once by correlating through the Fourier transform, and v is the least-squares solution.
    """
    digits = np.zeros((len(half.ids), SENSOR, SENSOR))
    digits[:, 3:31, 3:31] = (half.images.numpy() / 255) ** Camera().gamma
    waves = 2 * np.pi * np.fft.fftfreq(SENSOR)
    spectrum = np.fft.fft2(digits) * np.exp(-0.25 * (waves[:, None] ** 2 + waves**2))
    gradient = np.stack([spectrum * 1j * waves, spectrum * 1j * waves[:, None]])
    gram = np.einsum("anij,bnij->ab", gradient, gradient.conj()).real / CELLS
    owner = np.repeat(np.arange(len(real)), np.diff(real.offsets))
    return [_register_slot(real, owner, slot, gradient, gram) for slot in range(31)]


def _register_slot(
    real: Recordings, owner: np.ndarray, slot: int, gradient: np.ndarray, gram: np.ndarray
) -> tuple[float, ...]:
    chosen = real.t // SLOT_US == slot
    place, sign = real.address[chosen] % CELLS, np.where(real.address[chosen] >= CELLS, 1.0, -1.0)
    change = np.bincount(owner[chosen] * CELLS + place, sign, len(real) * CELLS).reshape(-1, SENSOR, SENSOR)
    matches = np.fft.ifft2(np.einsum("nij,anij->aij", np.fft.fft2(change), gradient.conj())).real
    explained = np.einsum("aij,ab,bij->ij", matches, np.linalg.inv(gram), matches)
    y, x = np.unravel_index(explained.argmax(), explained.shape)
    speed = np.linalg.solve(gram, matches[:, y, x])
    half = SENSOR // 2
    return (
        10.0 * slot,
        float(_peak(explained[y], x) + half) % SENSOR - half,
        float(_peak(explained[:, x], y) + half) % SENSOR - half,
        *speed.tolist(),
        float(explained[y, x] / (change**2).sum()),
    )


def _peak(values: np.ndarray, top: int) -> float:
    """The maximum of the parabola through the largest value and its neighbours."""
    low, high, middle = values[top - 1], values[(top + 1) % len(values)], values[top]
    return top + 0.5 * (low - high) / (low - 2 * middle + high)


# ---------------------------------------------------------------------------------------------------- command


def table(halves: dict[str, Comparison]) -> str:
    """Markdown, one column a half and source."""
    fit, check = halves["fit"], halves["check"]
    pairs = [
        ("events a recording", "events_{}", "{:,.0f}"),
        ("ON fraction", "on_{}", "{:.4f}"),
        ("frame density (30 frames)", "density_{}", "{:.4f}"),
    ]
    lines = ["| | fit: real | fit: simulated | check: real | check: simulated |", "|---|---|---|---|---|"]
    for title, field, form in pairs:
        cells = [form.format(getattr(c, field.format(s))) for c in (fit, check) for s in ("real", "simulated")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for index in range(3):
        cells = [f"{s[index]:,.0f}" for c in (fit, check) for s in (c.saccades_real, c.saccades_simulated)]
        lines.append(f"| events in saccade {index + 1} | {' | '.join(cells)} |")
    for field in Comparison._fields[8:]:
        title = field.replace("_", " ")
        lines.append(f"| {title} | | {getattr(fit, field):.3f} | | {getattr(check, field):.3f} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("--register", action="store_true")
    parser.add_argument("--refit", type=float, metavar="SECONDS", default=0.0)
    parser.add_argument("--refit-seed", type=int, default=0)
    parser.add_argument("--write-unseen", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Runs what the command line asks for."""
    args = parse()
    real = read_recordings(args.real / "nmnist-small.npz" if args.real.is_dir() else args.real)
    fitted = fit_rows(real)
    if args.write_unseen:
        write_recordings(args.write_unseen, real.take(unseen_rows(real)))
    parts = {"fit": real.take(fitted), "check": real.take(np.setdiff1d(real.rows_of("train"), fitted))}
    halves = {name: Half(part) for name, part in parts.items()}
    if args.register:
        for row in register(halves["fit"], parts["fit"]):
            print("{:4.0f} ms  x {:+.2f}  y {:+.2f}  speed {:+.2f} {:+.2f}  explained {:.2f}".format(*row))
    camera, path = refit(parts["fit"], args.refit, args.refit_seed) if args.refit else (Camera(), N_MNIST)
    compared = {name: half.compare(camera, path) for name, half in halves.items()}
    print(table(compared))
    if args.json:
        print(json.dumps({name: c._asdict() for name, c in compared.items()}))


if __name__ == "__main__":
    main()
