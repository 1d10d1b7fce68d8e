"""Event data sets of other libraries, told by what they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import onward
from onward.core.errors import DataError
from onward.data import Binning, ByDuration, Counts, FixedWidth

FIELDS = np.dtype([("x", "i8"), ("y", "i8"), ("t", "i8"), ("p", "i8")])


class Recorded:
    """As a data set of Tonic's: recordings of a sensor of 5 x 4 pixels."""

    sensor_size = (5, 4, 2)

    def __init__(self, count: int = 6):
        generator = np.random.default_rng(0)
        self.targets = [row % 3 for row in range(count)]
        self.events = [self.drawn(generator, 20 + row) for row in range(count)]

    @staticmethod
    def drawn(generator: np.random.Generator, count: int) -> np.ndarray:
        events = np.zeros(count, FIELDS)
        for key, high in (("x", 5), ("y", 4), ("p", 2), ("t", 1000)):
            events[key] = generator.integers(0, high, count)
        return events

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.events[index], self.targets[index]


def plain(events: np.ndarray, steps: int, place: Callable[[int], int], *, counts: bool) -> torch.Tensor:
    """The frames ``[T, 2, 4, 5]`` by a loop over events."""
    frames = torch.zeros(steps, 2, 4, 5)
    for event in events:
        t = place(int(event["t"]))
        if t < steps:
            frames[t, event["p"], event["y"], event["x"]] += 1
    return frames if counts else frames.clamp(max=1)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("binning", [ByDuration(), FixedWidth(200)])
def test_frames_are_those_of_a_loop_over_events(binning: Binning, counts: bool) -> None:
    samples = Recorded()
    data = onward.from_events(samples, binning=binning, reading=Counts() if counts else None)
    assert (len(data), data.classes, data.features, data.name) == (6, 3, (2, 4, 5), "Recorded")
    batch = data.batch(torch.tensor([4, 1]), 4)
    assert batch.y.tolist() == [1, 1]
    for place, row in enumerate((4, 1)):
        events = samples.events[row]
        last = int(events["t"].max()) + 1
        found = (lambda t: t // 200) if isinstance(binning, FixedWidth) else (lambda t, last=last: t * 4 // last)
        assert torch.equal(batch.x.chunk(0, 4)[:, place], plain(events, 4, found, counts=counts))


def test_transforms_change_events_in_order() -> None:
    def shifted(events: np.ndarray) -> np.ndarray:
        moved = events.copy()
        moved["x"] = np.minimum(events["x"] + 1, 4)
        return moved

    def early(events: np.ndarray) -> np.ndarray:
        return events[events["x"] == 4]

    data = onward.from_events(Recorded(), [shifted, early])
    frames = data.batch(torch.arange(6), 3).x.chunk(0, 3)
    assert not frames[..., :4].any()
    assert frames[..., 4].any()


def test_a_loader_and_a_rule_take_them() -> None:
    data = onward.from_events(Recorded())
    batch = next(onward.Loader(data, batch_size=3, steps=4).epoch(0))
    body = (torch.nn.Flatten(), torch.nn.Linear(40, 8), onward.LIF(), torch.nn.Linear(8, 3))
    net = onward.Network(torch.nn.Sequential(*body))
    rule, objective = onward.rules.build("ottt"), onward.PerStep(onward.CrossEntropy())
    draws, sink = onward.KeyedDraws(0), onward.GradSink(net)
    rule.bind(net, objective, batch.x, draws)
    outcome = onward.run_sequence(net, rule, objective, batch.x, batch.y, sink, draws=draws, ids=batch.ids)
    assert bool(outcome.loss.isfinite())


def test_a_cochlea_needs_no_rows_and_no_polarities() -> None:
    class Cochlea:
        sensor_size = (700, 1, 1)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.array([(3, 10, 1), (699, 5, 1)], [("x", "i2"), ("t", "f8"), ("p", "i1")]), 2

    data = onward.from_events(Cochlea(), steps=2)
    assert (data.features, data.classes, data.steps) == ((1, 1, 700), 3, 2)
    assert data.batch(torch.tensor([0]), 2).x.chunk(0, 2).flatten(1).nonzero().tolist() == [[0, 699], [1, 3]]


class Frames(Recorded):
    def __getitem__(self, index: int) -> Any:
        return np.zeros((10, 2, 4, 5)), 0


class Named(Recorded):
    def __init__(self) -> None:
        super().__init__()
        self.targets = ["cat"] * 6


class Outside(Recorded):
    sensor_size = (3, 3, 2)


class Unsized(Recorded):
    sensor_size = None


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (Frames(), r"sample 0 of Frames has a ndarray of shape \[10, 2, 4, 5\]; expected events with the fields"),
        (Named(), "labels such as .*cat.*; expected class numbers"),
        (Outside(), "sample 0 of Outside: .*x"),
        (Unsized(), r"Unsized has sensor_size None; expected \(width, height, polarities\)"),
        (Recorded(0), "has no samples"),
    ],
)
def test_what_is_no_event_data_is_told_in_words(samples: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        onward.from_events(samples).batch(torch.tensor([0]), 4)


def test_tonics_own_transforms_and_dtype() -> None:
    tonic = pytest.importorskip("tonic", reason="needs tonic, which is under the GPL-3 and not installed with Onward")
    samples = Recorded()
    data = onward.from_events(samples, [tonic.transforms.TimeJitter(std=1, clip_negative=True)], sensor_size=(5, 4, 2))
    assert bool(data.batch(torch.arange(6), 4).x.chunk(0, 4).any())
    frames = tonic.transforms.ToFrame(sensor_size=(5, 4, 2), n_time_bins=4)
    with pytest.raises(DataError, match="leave out transforms that make frames"):
        onward.from_events(samples, [frames]).batch(torch.tensor([0]), 4)
