"""Streams of tasks: which samples, which labels, which features, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onward.core import Events, Frames, Sequence, Static
from onward.core.errors import ConfigError
from onward.data import ArrayDataset, Loader
from onward.data.loader import Mixed
from onward.data.streams import OfTask, Permuted, SomeClasses, permutation, streams

FILE = {"name": "file"}


@pytest.fixture
def six_classes(tmp_path: Path) -> dict[str, str]:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((60, 3, 4), np.float32), "y": np.arange(60) % 6}
    np.savez(tmp_path / "six.npz", **arrays, x_test=arrays["x"][:12], y_test=arrays["y"][:12])
    return {"name": "file", "file": str(tmp_path / "six.npz")}


def sequences() -> list[Sequence]:
    dense = (torch.rand(3, 2, 6) < 0.5).float()
    rows = dense.flatten(0, 1)
    offsets = torch.cat([torch.zeros(1), rows.sum(1).cumsum(0)]).long()
    return [Frames(dense), Static(dense[0], 3), Events(rows.nonzero()[:, 1], offsets, 3, 2, (6,))]


@pytest.mark.parametrize("x", sequences(), ids=lambda x: type(x).__name__)
def test_features_change_places_in_every_kind_of_sequence(x: Sequence) -> None:
    order = torch.randperm(6)
    moved = x.permuted(order)
    assert torch.equal(moved.chunk(0, 3), x.chunk(0, 3)[..., order])
    assert torch.equal(moved.permuted(order.argsort()).chunk(0, 3), x.chunk(0, 3))


def test_maps_keep_their_shape() -> None:
    x, order = Static(torch.rand(2, 3, 4), 1), torch.randperm(12)
    assert torch.equal(x.permuted(order).x.flatten(1), x.x.flatten(1)[:, order])
    assert x.permuted(order).features == (3, 4)


def test_permuted_tasks_have_an_order_each_that_the_seed_fixes(six_classes: dict[str, str]) -> None:
    stream, again, other = (streams.build({"name": "permuted", "tasks": 3}, six_classes, seed) for seed in (0, 0, 1))
    ids = torch.arange(5)
    seen = [task.split.train.batch(ids, 1).x.chunk(0, 1) for task in stream.tasks]
    assert torch.equal(seen[0].flatten().sort().values, seen[1].flatten().sort().values)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], again.tasks[2].split.train.batch(ids, 1).x.chunk(0, 1))
    assert not torch.equal(seen[2], other.tasks[2].split.train.batch(ids, 1).x.chunk(0, 1))
    assert [task.split.test.batch(ids, 1).task for task in stream.tasks] == [0, 1, 2]
    assert (stream.heads, stream.classes, stream.lessons) == (1, 6, ((0,), (1,), (2,)))
    prints = {task.split.train.fingerprint(1) for task in stream.tasks}
    assert len(prints) == 3


def test_an_order_has_every_place_once() -> None:
    assert permutation(3, 1, (2, 5)).sort().values.tolist() == list(range(10))


def test_split_tasks_share_out_classes_and_number_them_from_0(six_classes: dict[str, str]) -> None:
    stream = streams.build({"name": "split", "tasks": 3}, six_classes, 0)
    assert [task.name for task in stream.tasks] == ["classes 0 to 1", "classes 2 to 3", "classes 4 to 5"]
    assert (stream.heads, stream.classes) == (3, 2)
    for number, task in enumerate(stream.tasks):
        batch = task.split.train.batch(torch.arange(len(task.split.train)), 1)
        assert len(batch.y) == 20
        assert batch.y.tolist() == task.split.train.labels().tolist() == [0, 1] * 10
        assert batch.task == number
    assert sum(len(task.split.test) for task in stream.tasks) == 12


def test_samples_keep_their_labels() -> None:
    data = ArrayDataset(torch.arange(8.0)[:, None], torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))
    part = SomeClasses(data, 1, torch.tensor([3, 1]))
    batch = part.batch(torch.arange(4), 1)
    assert batch.x.chunk(0, 1).flatten().tolist() == [1, 3, 5, 7]
    assert batch.y.tolist() == [1, 0, 1, 0]
    assert (part.classes, part.name, batch.ids.tolist()) == (2, data.name, [0, 1, 2, 3])


def test_tasks_that_do_not_divide_the_classes_are_refused(six_classes: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"4 tasks.*6 classes.*choose stream.tasks among 2, 3, 6"):
        streams.build({"name": "split", "tasks": 4}, six_classes, 0)


def test_a_stream_of_one_data_set_takes_no_other() -> None:
    with pytest.raises(
        ConfigError, match=r"permuted-mnist is made of mnist, and the data are cifar10.*--stream permuted"
    ):
        streams.build("permuted-mnist", "cifar10", 0)


def test_joint_learning_is_one_lesson(six_classes: dict[str, str]) -> None:
    stream = streams.build({"name": "split", "tasks": 2, "joint": True}, six_classes, 0)
    assert stream.lessons == ((0, 1),)
    assert len(stream.tasks) == 2


@pytest.mark.parametrize("lengths", [(6, 6), (9, 3), (4, 8, 2)])
def test_mixed_mini_batches_show_every_sample_once(lengths: tuple[int, ...]) -> None:
    data = [
        OfTask(ArrayDataset(torch.full((n, 1), float(k)), torch.zeros(n, dtype=torch.int64)), k)
        for k, n in enumerate(lengths)
    ]
    mixed = Mixed([Loader(part, 2, 1, seed=k) for k, part in enumerate(data)])
    batches = list(mixed.epoch(0))
    assert len(mixed) == len(batches)
    assert [mixed.size(n) for n in range(len(mixed))] == [len(batch.y) for batch in batches]
    for k, n in enumerate(lengths):
        own = [batch for batch in batches if batch.task == k]
        assert sorted(torch.cat([batch.ids for batch in own]).tolist()) == list(range(n))
        assert all((batch.x.chunk(0, 1) == k).all() for batch in own)
        seen = [sum(batch.task == k for batch in batches[:n]) for n in range(len(batches) + 1)]
        share = len(own) / len(batches)
        assert all(abs(count - n * share) <= 1 for n, count in enumerate(seen))
    assert [b.ids.tolist() for b in mixed.epoch(1, 1)] == [b.ids.tolist() for b in list(mixed.epoch(1))[1:]]


def test_a_permuted_task_is_another_one_for_the_record() -> None:
    data = ArrayDataset(torch.rand(5, 6), torch.zeros(5, dtype=torch.int64))
    same, moved = Permuted(data, 0, torch.arange(6)), Permuted(data, 0, torch.arange(6).flip(0))
    assert same.fingerprint(1) != moved.fingerprint(1)
