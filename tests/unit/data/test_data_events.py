"""Event recordings: strict reading, and binning against a slow, obvious loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onward.core.errors import ConfigError, DataError
from onward.core.sequence import Events
from onward.data import (
    Binary,
    Binning,
    ByDuration,
    Counts,
    FixedWidth,
    Recordings,
    datasets,
    event_dataset,
    load,
    open_file,
    read_recordings,
    write_recordings,
)

Arrays = dict[str, Any]


def make(sizes: list[int], height: int = 5, width: int = 4, seed: int = 0, longest: int = 1000) -> Arrays:
    rng, total = np.random.default_rng(seed), sum(sizes)
    t = [np.sort(rng.integers(0, longest, size)) for size in sizes]
    return {
        "x": rng.integers(0, width, total).astype(np.uint8),
        "y": rng.integers(0, height, total).astype(np.uint8),
        "p": rng.integers(0, 2, total).astype(np.uint8),
        "t": np.concatenate([*t, []]).astype(np.uint32),
        "offsets": np.cumsum([0, *sizes]).astype(np.int64),
        "label": (np.arange(len(sizes)) % 3).astype(np.uint8),
        "split": np.array(["train", "test"] * len(sizes), dtype="U5")[: len(sizes)],
        "mnist_index": np.arange(len(sizes), dtype=np.int32),
    }


def save(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def read(path: Path, arrays: Arrays) -> Recordings:
    return read_recordings(save(path / "events.npz", arrays), height=5, width=4)


def slow_bins(arrays: Arrays, row: int, steps: int, step_of: Callable[[int, int], int]) -> np.ndarray:
    """Counts ``[steps, 2, 5, 4]`` of one recording, event by event."""
    frames = np.zeros((steps, 2, 5, 4))
    events = range(arrays["offsets"][row], arrays["offsets"][row + 1])
    for e in events:
        step = step_of(int(arrays["t"][e]), int(arrays["t"][events[-1]]) + 1)
        if step < steps:
            frames[step, arrays["p"][e], arrays["y"][e], arrays["x"][e]] += 1
    return frames


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    steps=st.integers(1, 7),
    width=st.none() | st.integers(1, 400),
    seed=st.integers(0, 1000),
)
def test_binning_equals_the_obvious_loop(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], steps: int, width: int | None, seed: int
) -> None:
    arrays = make(sizes, seed=seed)
    recordings = read(tmp_path_factory.mktemp("events"), arrays)
    binning: Binning = ByDuration() if width is None else FixedWidth(width)
    step_of = (lambda t, duration: t * steps // duration) if width is None else (lambda t, _: t // width)
    expected = np.stack([slow_bins(arrays, row, steps, step_of) for row in range(len(sizes))], axis=1)
    ids = torch.arange(len(sizes))
    counts = event_dataset(recordings, binning, Counts()).batch(ids, steps)
    binary = event_dataset(recordings, binning, Binary()).batch(ids, steps)
    assert np.array_equal(counts.x.chunk(0, steps), expected)
    assert np.array_equal(binary.x.chunk(0, steps), expected > 0)
    assert counts.y.tolist() == arrays["label"].tolist()


def test_batches_are_sorted_sparse_rows_in_any_order(tmp_path: Path) -> None:
    recordings = read(tmp_path, make([40, 0, 25, 60]))
    data = event_dataset(recordings, ByDuration(), Counts())
    whole = data.batch(torch.arange(4), 6).x
    ids = torch.tensor([3, 1, 3])
    some = data.batch(ids, 6).x
    assert isinstance(some, Events)
    assert torch.equal(some.chunk(1, 5), whole.chunk(1, 5)[:, ids])
    for start, stop in zip(some.offsets, some.offsets[1:], strict=False):
        row = some.indices[start:stop]
        assert (row.diff() > 0).all(), "distinct, ascending features in every row"


def test_natural_steps(tmp_path: Path) -> None:
    arrays = make([3, 2])
    arrays["t"][:] = [0, 5, 999, 10, 2000]
    recordings = read(tmp_path, arrays)
    assert recordings.durations().tolist() == [1000, 2001]
    assert event_dataset(recordings, ByDuration(), Binary()).steps is None
    assert event_dataset(recordings, FixedWidth(500), Binary()).steps == 5
    with pytest.raises(ConfigError, match="0 microseconds"):
        FixedWidth(0)


def test_changing_the_number_of_steps_bins_again(tmp_path: Path) -> None:
    data = event_dataset(read(tmp_path, make([30, 30])), ByDuration(), Counts())
    sums = [float(data.batch(torch.arange(2), steps).x.chunk(0, steps).sum()) for steps in (3, 8, 3)]
    assert sums == [60, 60, 60]


def test_round_trip(tmp_path: Path) -> None:
    recordings = read(tmp_path, make([7, 0, 12]))
    write_recordings(tmp_path / "again.npz", recordings)
    again = read_recordings(tmp_path / "again.npz", height=5, width=4)
    for name in ("address", "t", "offsets", "label", "split", "mnist_index"):
        assert np.array_equal(getattr(recordings, name), getattr(again, name)), name


def test_take(tmp_path: Path) -> None:
    recordings = read(tmp_path, make([7, 0, 12, 4]))
    taken = recordings.take(np.array([2, 1, 2]))
    assert np.diff(taken.offsets).tolist() == [12, 0, 12]
    assert np.array_equal(taken.t[12:], recordings.t[7:19])
    assert taken.label.tolist() == [2, 1, 2]
    assert taken.split is not None
    assert taken.split.tolist() == ["train", "test", "train"]


def change(name: str, index: int, value: int) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        arrays[name] = arrays[name].astype(np.int64)
        arrays[name][index] = value

    return apply


def replace(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: value(arrays[name])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda arrays: arrays.pop("p"), "has no array p; it holds label"),
        (replace("t", lambda t: t.astype(float)), "t has dtype float64; expected integers"),
        (replace("x", lambda x: x.astype(object)), "array x cannot be read .*never loaded"),
        (replace("split", lambda s: np.arange(len(s))), "split has dtype int64; expected strings"),
        (replace("y", lambda y: y[:-1]), r"y has shape \[18\]; expected \[19\], as t has 19 events"),
        (replace("x", lambda x: x[None]), r"x has shape \[1, 19\]"),
        (replace("mnist_index", lambda m: m[:1]), r"mnist_index has shape \[1\]; expected \[3\]"),
        (replace("offsets", lambda o: o[:-1]), r"offsets has shape \[3\]; expected \[4\]"),
        (change("offsets", 0, 1), "offsets run from 1 to 19; expected 0 to 19"),
        (change("offsets", -1, 18), "offsets run from 0 to 18; expected 0 to 19"),
        (change("offsets", 1, 15), "offsets fall from 15 to 9 at recording 1"),
        (change("x", 3, 4), r"x\[3\] is 4; expected 0 to 3"),
        (change("y", 5, -1), r"y\[5\] is -1; expected 0 to 4"),
        (change("p", 0, 2), r"p\[0\] is 2; expected 0 to 1"),
        (change("t", 1, 2**32), r"t\[1\] is 4294967296; expected 0 to 4294967295"),
        (change("label", 2, -3), r"label\[2\] is -3"),
        (change("t", 8, 0), "time runs backward in recording 1, from .* to 0 microseconds at event 8; sort"),
    ],
)
def test_every_inconsistency_is_named(tmp_path: Path, damage: Callable[[Arrays], Any], message: str) -> None:
    arrays = make([7, 2, 10])
    arrays["t"][7:9] = [600, 700]
    damage(arrays)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, arrays)
    assert str(tmp_path / "events.npz") in str(caught.value)


def test_time_may_start_again_with_each_recording(tmp_path: Path) -> None:
    arrays = make([3, 0, 2, 0])
    arrays["t"][:] = [1, 1, 9, 0, 0]
    assert len(read(tmp_path, arrays)) == 4


def test_truncated_file(tmp_path: Path) -> None:
    path = save(tmp_path / "events.npz", make([50, 50]))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="truncated"):
        read_recordings(path, 5, 4)


def test_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no recording"):
        read(tmp_path, make([]))


def choice(path: Path, **options: Any) -> dict[str, Any]:
    return {"name": "events", "file": str(path), "height": 5, "width": 4, **options}


def test_load_uses_the_splits_of_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "events.npz", make([9] * 7))
    split = load(choice(path))
    assert (len(split.train), len(split.test), split.train.features) == (4, 3, (2, 5, 4))
    only = load(choice(path, split="train", holdout=0.25))
    assert (len(only.train), len(only.test)) == (3, 1)
    with pytest.raises(DataError, match="no recording has split 'tset'; there are test, train"):
        load(choice(path, split="tset"))
    with pytest.raises(DataError, match="holds the label 2, but 2 classes were given"):
        load(choice(path, classes=2))


def test_load_without_splits_holds_out(tmp_path: Path) -> None:
    arrays = make([9] * 10)
    del arrays["split"]
    path = save(tmp_path / "events.npz", arrays)
    split = load(choice(path, holdout=0.3, bin_us=100, counts=True))
    assert (len(split.train), len(split.test), split.train.steps) == (7, 3, 10)
    with pytest.raises(DataError, match="no split array"):
        load(choice(path, split="test"))


def test_open_file_uses_all_rows_unless_a_split_is_given(tmp_path: Path) -> None:
    path = save(tmp_path / "events.npz", make([9] * 7))
    like = datasets.parse(choice(path, bin_us=250, counts=True))
    whole = open_file(path, like)
    assert (len(whole), whole.steps) == (7, 4)
    assert len(open_file(path, like, split="test")) == 3
    assert open_file(path, datasets.parse("mnist")).features == (2, 34, 34)
    assert open_file(path, datasets.parse({"name": "nmnist-sim", "bin_us": 250})).steps == 4


REAL = Path(__file__).parents[4] / "shared" / "data" / "nmnist-small.npz"


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data/nmnist-small.npz, real recordings, is not here")
def test_real_recordings() -> None:
    recordings = read_recordings(REAL)
    data = event_dataset(recordings, ByDuration(), Binary())
    active = sum(float(data.batch(ids, 30).x.chunk(0, 30).sum()) for ids in torch.arange(len(recordings)).split(100))
    assert len(recordings) == 800
    assert active / (800 * 30 * 2 * 34 * 34) == pytest.approx(0.038, abs=5e-4)
    assert len(load({"name": "events", "file": str(REAL)}).test) == 100
