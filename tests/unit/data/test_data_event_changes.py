"""Events lost and recordings shifted before they are binned, against slow loops over single events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.packing import nmnist_events

from onward.core.errors import DataError
from onward.core.sequence import Events, Static
from onward.data import (
    Augmentation,
    Batch,
    Binary,
    ByDuration,
    Change,
    Counts,
    DropAny,
    DropArea,
    DropEvents,
    DropTime,
    EventShift,
    Loader,
    PadCrop,
    Raw,
    Recordings,
    augmentation,
    datasets,
    event_dataset,
    load,
    write_recordings,
)

HEIGHT, WIDTH = 7, 9
DROPS = (DropEvents(0.6), DropTime(0.6), DropArea(0.6))


def made(sizes: list[int], seed: int = 0, height: int = HEIGHT, polarities: int = 2) -> Recordings:
    rng, total = np.random.default_rng(seed), sum(sizes)
    address = rng.integers(0, polarities * height * WIDTH, total).astype(np.uint16)
    t = np.concatenate([*(np.sort(rng.integers(0, 4000, size)) for size in sizes), []]).astype(np.uint32)
    offsets, label = np.cumsum([0, *sizes]), np.arange(len(sizes)) % 3
    split = np.array(["train", "test"] * len(sizes))[: len(sizes)]
    return Recordings(address, t, offsets, label, height, WIDTH, split, polarities=polarities)


def listed(x: Recordings, row: int) -> list[tuple[int, int, int, int]]:
    """Polarity, row, column and time of each event."""
    part = slice(x.offsets[row], x.offsets[row + 1])
    places = np.unravel_index(x.address[part], x.features)
    return list(zip(*(values.tolist() for values in (*places, x.t[part])), strict=True))


def numbers(count: int, change: Change[Any], seed: int = 1) -> torch.Tensor:
    return torch.rand(count, change.numbers, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_an_interval_is_lost(sizes: list[int], seed: int) -> None:
    x, change = made(sizes, seed), DropTime(0.7)
    u = numbers(len(sizes), change, seed)
    found = change.apply(x, u)
    for row, (share, along) in enumerate(u.tolist()):
        length = 0.7 * share * x.durations()[row]
        start = along * (x.durations()[row] - length)
        assert listed(found, row) == [e for e in listed(x, row) if not start <= e[3] < start + length]


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_an_area_is_lost(sizes: list[int], seed: int) -> None:
    x, change = made(sizes, seed), DropArea(0.7)
    u = numbers(len(sizes), change, seed)
    found = change.apply(x, u)
    for row, (share, down, across) in enumerate(u.tolist()):
        high, wide = np.ceil(0.7 * share * HEIGHT), np.ceil(0.7 * share * WIDTH)
        top, left = int(down * (HEIGHT - high + 1)), int(across * (WIDTH - wide + 1))
        lost = [(p, y, c, t) for p, y, c, t in listed(x, row) if top <= y < top + high and left <= c < left + wide]
        assert listed(found, row) == [e for e in listed(x, row) if e not in lost]


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_recordings_are_shifted(sizes: list[int], seed: int) -> None:
    x, change = made(sizes, seed), EventShift(3)
    u = numbers(len(sizes), change, seed)
    found = change.apply(x, u)
    for row, (down, across) in enumerate(u.tolist()):
        moved = [(p, y + int(7 * down) - 3, c + int(7 * across) - 3, t) for p, y, c, t in listed(x, row)]
        assert listed(found, row) == [e for e in moved if 0 <= e[1] < HEIGHT and 0 <= e[2] < WIDTH]


def test_as_many_events_are_lost_as_was_asked_for() -> None:
    x, change = made([20_000] * 3), DropEvents(0.5)
    u = torch.tensor([[0.2, 0.3], [0.9, 0.3], [0.9, 0.7]], dtype=torch.float64)
    kept = change.kept(x, u.numpy()).reshape(3, -1)
    assert np.allclose(1 - kept.mean(1), [0.1, 0.45, 0.45], atol=5 * 0.5 / 20_000**0.5)
    assert (kept[0] >= kept[1]).all(), "the same numbers, another share"
    agree = (kept[1] == kept[2]).mean()
    assert abs(agree - (0.55**2 + 0.45**2)) < 5 * 0.5 / 20_000**0.5, "other numbers are independent"


def test_any_is_one_of_them_or_nothing() -> None:
    x, change = made([30] * 400), DropAny(DROPS)
    u = numbers(400, change)
    found = change.apply(x, u)
    alone = [drop.apply(x, u[:, 1:]) for drop in DROPS] + [x]
    chosen = (4 * u[:, 0]).long().tolist()
    assert all(listed(found, row) == listed(alone[kind], row) for row, kind in enumerate(chosen))
    assert np.abs(np.bincount(chosen) - 100).max() < 50


@pytest.mark.parametrize("change", [*DROPS, DropAny(DROPS), EventShift(4)])
def test_time_steps_stay_where_they_were(change: Change[Recordings]) -> None:
    x = made([50, 0, 30])
    once = change.apply(x, numbers(3, change))
    found = change.apply(once, numbers(3, change, 2))
    assert found.durations().tolist() == x.durations().tolist()
    assert found.take(np.array([2, 0])).durations().tolist() == x.durations()[[2, 0]].tolist()
    assert np.diff(found.offsets).sum() == len(found.t) == len(found.address) < 80
    data = event_dataset(found, ByDuration(), Counts())
    frames = data.batch(torch.arange(3), 5).x.chunk(0, 5).sum((2, 3, 4))
    for row, duration in enumerate(x.durations()):
        steps = [t * 5 // duration for *_, t in listed(found, row)]
        assert frames[:, row].tolist() == np.bincount(np.array(steps, int), minlength=5).tolist()


def test_channels_in_one_row_are_shifted_along_it() -> None:
    x, change = made([40], height=1, polarities=1), EventShift(2)
    found = change.apply(x, torch.tensor([[0.99, 0.99]], dtype=torch.float64))
    assert listed(found, 0) == [(0, 0, c + 2, t) for _, _, c, t in listed(x, 0) if c + 2 < WIDTH]


def test_wrong_sizes() -> None:
    with pytest.raises(DataError, match="a shift of 0 pixels"):
        EventShift(0)
    for drop in (DropEvents, DropTime, DropArea):
        with pytest.raises(DataError, match=r"a largest share of 1.5 to drop was given; expected above 0"):
            drop(1.5)


def options(path: Path, **more: Any) -> dict[str, Any]:
    return {"name": "events", "file": str(path), "height": HEIGHT, "width": WIDTH, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_recordings(tmp_path / "mine.npz", made([60] * 24))
    return tmp_path / "mine.npz"


@pytest.mark.parametrize("kind", ["events", "time", "area", "any"])
def test_a_sample_is_keyed_by_seed_epoch_and_id(path: Path, kind: str) -> None:
    choice = datasets.parse(options(path, event_drop=kind, event_drop_most=0.8, event_shift=2, counts=True))
    data, augment = load(choice).train, augmentation(choice, 5)
    assert augment is not None
    together = augment(data.batch(torch.arange(12), 6), 3).x.chunk(0, 6)
    some = torch.tensor([7, 0, 9])
    assert torch.equal(augment(data.batch(some, 6), 3).x.chunk(0, 6), together[:, some])
    other = augmentation(choice, 6)
    assert other is not None
    assert not torch.equal(augment(data.batch(some, 6), 4).x.chunk(0, 6), together[:, some])
    assert not torch.equal(other(data.batch(some, 6), 3).x.chunk(0, 6), together[:, some])


def test_what_is_not_changed_is_binned_as_ever(path: Path) -> None:
    plain, changed = load(options(path)), load(options(path, event_shift=1))
    ids = torch.tensor([3, 0])
    x = changed.train.batch(ids, 4).x
    assert isinstance(x, Raw)
    for sequence in (x, x.to("cpu")):
        assert torch.equal(sequence.chunk(1, 3), plain.train.batch(ids, 4).x.chunk(1, 3))
    order = torch.randperm(2 * HEIGHT * WIDTH)
    assert torch.equal(x.permuted(order).chunk(0, 4), plain.train.batch(ids, 4).x.permuted(order).chunk(0, 4))
    assert torch.equal(x.mean(), plain.train.batch(ids, 4).x.mean())
    assert changed.train.labels().tolist() == plain.train.labels().tolist()
    assert isinstance(changed.test.batch(ids, 4).x, Events), "test samples are never changed"
    assert changed.train.fingerprint(4) == load(options(path, event_shift=2)).train.fingerprint(4)


def test_workers_change_nothing(path: Path) -> None:
    choice = datasets.parse(options(path, event_drop="any", event_shift=2))
    plain, busy = (
        Loader(load(choice).train, 5, 4, seed=3, augment=augmentation(choice, 3), workers=count) for count in (0, 2)
    )
    for one, other in zip(plain.epoch(1), busy.epoch(1), strict=True):
        assert isinstance(other.x, Events), "binned where it was changed"
        assert torch.equal(one.x.chunk(0, 4), other.x.chunk(0, 4))


def test_files_are_read_for_every_mini_batch(tmp_path: Path) -> None:
    for part in ("Train", "Test"):
        for digit in range(10):
            (tmp_path / part / str(digit)).mkdir(parents=True)
            k = np.arange(40)
            content = nmnist_events(k % 34, (k + digit) % 34, k % 2, 10 * k)
            (tmp_path / part / str(digit) / "1.bin").write_bytes(content)
    plain = {"name": "nmnist", "root": str(tmp_path), "bin_us": 100}
    choice = datasets.parse({**plain, "event_drop": "time"})
    data, augment = load(choice).train, augmentation(choice, 0)
    assert augment is not None
    assert data.steps == 4
    before, after = data.batch(torch.arange(10), 4), augment(data.batch(torch.arange(10), 4), 0)
    assert torch.equal(before.x.chunk(0, 4), load(plain).train.batch(torch.arange(10), 4).x.chunk(0, 4))
    assert after.x.chunk(0, 4).sum() < before.x.chunk(0, 4).sum()


def test_what_is_binned_already_cannot_be_changed_before() -> None:
    binned = event_dataset(made([9]), ByDuration(), Binary()).batch(torch.arange(1), 3)
    with pytest.raises(DataError, match="event-shift change samples as they are stored, and these are Events already"):
        Augmentation([], 0, [EventShift(1)])(binned, 0)
    image = Batch(Static(torch.rand(1, 1, 5, 5), 2), torch.zeros(1, dtype=torch.int64), torch.arange(1))
    assert Augmentation([PadCrop(1)], 0)(image, 0).x.features == (1, 5, 5)
