"""Tasks that follow one another: a data set seen through other eyes each time, or learned a few classes at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.errors import ConfigError
from onward.core.registry import Choice, Registry
from onward.data.catalogue import datasets, load
from onward.data.dataset import Batch, Dataset, Split, Subset, digest
from onward.data.five import MEMBERS
from onward.data.loader import order

Data = Choice | Mapping[str, Any] | str


class OfTask(Dataset):
    """The samples of ``dataset`` as task number ``task``."""

    def __init__(self, dataset: Dataset, task: int):
        self.dataset, self.task = dataset, task
        self.name, self.classes = dataset.name, dataset.classes
        self.features, self.steps = dataset.features, dataset.steps

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`."""
        return self.dataset.batch(ids, steps)._replace(task=self.task)

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self.dataset.labels()

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`."""
        return self.dataset.fingerprint(steps)


class Permuted(OfTask):
    """A task whose features stand in another ``order`` ``[prod(features)]``."""

    def __init__(self, dataset: Dataset, task: int, order: Tensor):
        super().__init__(dataset, task)
        self.order = order

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`."""
        batch = super().batch(ids, steps)
        return batch._replace(x=batch.x.permuted(self.order))

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`."""
        return digest(super().fingerprint(steps), self.order)


class SomeClasses(OfTask):
    """A task of the samples whose labels are among ``classes``; label k of the task is ``classes[k]``."""

    def __init__(self, dataset: Dataset, task: int, classes: Tensor):
        super().__init__(Subset(dataset, torch.isin(dataset.labels(), classes).nonzero()[:, 0]), task)
        self.classes = len(classes)
        self._place = torch.full((dataset.classes,), -1).index_copy(0, classes, torch.arange(len(classes)))

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`."""
        batch = super().batch(ids, steps)
        return batch._replace(y=self._place[batch.y])

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self._place[super().labels()]

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`."""
        return digest(super().fingerprint(steps), self._place)


@dataclass(frozen=True)
class Task:
    """What is learned from and tested on at a time."""

    name: str
    split: Split


@dataclass(frozen=True)
class Stream:
    """Tasks of ``classes`` classes each, and the ``lessons`` in which they are learned: numbers of tasks.

    With ``own_heads`` a task has outputs of its own, and must be known at a test; else all share the same.

    >>> alone = Stream.of(load({"name": "mnist", "limit": 100}))
    >>> len(alone.tasks), alone.lessons, alone.heads
    (1, ((0,),), 1)
    """

    tasks: tuple[Task, ...]
    classes: int
    own_heads: bool
    lessons: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, split: Split) -> Stream:
        """A data set as the only task."""
        return cls((Task(split.train.name, split),), split.train.classes, False, ((0,),))

    @property
    def names(self) -> list[str]:
        """Those of the tasks."""
        return [task.name for task in self.tasks]

    @property
    def heads(self) -> int:
        """How many tasks have outputs of their own; 1 where all share them."""
        return len(self.tasks) if self.own_heads else 1


class StreamChoice(Choice):
    """Options of every stream."""

    tasks: int = Field(10, ge=2, description="how many tasks follow one another")
    head: Literal["shared", "own"] = Field(
        "shared", description="outputs: the same for all tasks, or each task's own, so that it must be known at a test"
    )
    joint: bool = Field(False, description="learn all tasks at once, in mixed mini-batches: what can be reached")
    freeze: bool = Field(
        True, description="after the first task: biases, normalisation and thresholds stay as they are"
    )
    replay: int = Field(
        0, ge=0, description="samples of each class that are kept, and learned again after every task; 0: none"
    )
    replay_epochs: int = Field(20, ge=1, description="passes over the kept samples after a task")
    replay_batch: int = Field(50, ge=1, description="kept samples of each task in a mini-batch")
    replay_lr: float = Field(1e-3, gt=0, description="learning rate with kept samples")


class OneTask(Choice):
    """No options."""


def permutation(seed: int, task: int, features: tuple[int, ...]) -> Tensor:
    """In which order task number ``task`` sees the features."""
    return order(seed, task, torch.Size(features).numel(), "permutation")


def _permuted(choice: StreamChoice, data: Data, seed: int) -> Stream:
    split = load(data)
    orders = [permutation(seed, task, split.train.features) for task in range(choice.tasks)]
    tasks = [
        Task(f"permutation {task + 1}", Split(*(Permuted(part, task, moved) for part in split)))
        for task, moved in enumerate(orders)
    ]
    return _stream(choice, tasks, split.train.classes)


def _parted(choice: StreamChoice, data: Data, seed: int) -> Stream:  # noqa: ARG001
    split = load(data)
    groups = _shared_out(choice, split, torch.arange(split.train.classes))
    return _of_classes(choice, split, {f"classes {int(g[0])} to {int(g[-1])}": g for g in groups})


def _drawn(choice: StreamChoice, data: Data, seed: int) -> Stream:
    """As `_parted`, with classes that ``seed`` draws."""
    split = load(data)
    groups = _shared_out(choice, split, order(seed, 0, split.train.classes, "classes"))
    return _of_classes(choice, split, {f"classes {' '.join(map(str, sorted(g.tolist())))}": g for g in groups})


def _set_by_set(choice: StreamChoice, data: Data, seed: int) -> Stream:  # noqa: ARG001
    if choice.tasks != len(MEMBERS):
        raise ConfigError(
            f"{choice.tasks} tasks were asked for, and {choice.name} has one for each of its {len(MEMBERS)} sets; "
            f"leave out stream.tasks, or share out the classes of all with --stream split --data {choice.name}"
        )
    split = load(data)
    groups = _shared_out(choice, split, torch.arange(split.train.classes))
    return _of_classes(choice, split, dict(zip((member.name for member in MEMBERS), groups, strict=True)))


def _shared_out(choice: StreamChoice, split: Split, classes: Tensor) -> Sequence[Tensor]:
    """As many classes for each task, in the order given."""
    total, count = len(classes), choice.tasks
    if total % count:
        fitting = ", ".join(str(n) for n in range(2, total + 1) if total % n == 0)
        raise ConfigError(
            f"{count} tasks were asked for, and the {total} classes of {split.train.name} cannot be shared out "
            f"evenly; choose stream.tasks among {fitting}"
        )
    return classes.chunk(count)


def _of_classes(choice: StreamChoice, split: Split, groups: Mapping[str, Tensor]) -> Stream:
    """A task for each of the ``groups`` of classes, which all are as large."""
    tasks = [
        Task(name, Split(*(SomeClasses(part, task, group) for part in split)))
        for task, (name, group) in enumerate(groups.items())
    ]
    return _stream(choice, tasks, tasks[0].split.train.classes)


def _stream(choice: StreamChoice, tasks: list[Task], classes: int) -> Stream:
    numbers = range(len(tasks))
    lessons = (tuple(numbers),) if choice.joint else tuple((k,) for k in numbers)
    return Stream(tuple(tasks), classes, choice.head == "own", lessons)


PERMUTED = {"paper": "Goodfellow et al. 2014", "published": "idea, settings of HLOP", "inferred": "the permutations"}
SPLIT = {"paper": "Zenke et al. 2017", "published": "idea, settings of HLOP", "inferred": "none"}
ALONE = {"paper": "none needed", "published": "the usual", "inferred": "none"}
Build = Callable[[Any, Data, int], Stream]
streams: Registry[Stream] = Registry("stream")


def _preset(data: str, build: Build, general: str = "split") -> Build:
    """A stream of one data set; ``general`` is that of any."""

    def checked(choice: Any, given: Data, seed: int) -> Stream:
        name = datasets.parse(given).name
        if name != data:
            raise ConfigError(
                f"stream {choice.name} is made of {data}, and the data are {name}; leave out --data, or choose "
                f"--stream {general}, which takes any"
            )
        return build(choice, given, seed)

    return checked


streams.register(
    "none", OneTask, lambda choice, data, seed: Stream.of(load(data)), "the data set, as the only task", facts=ALONE
)
streams.register(
    "permuted",
    StreamChoice,
    _permuted,
    "the data set, with the features in another order for each task",
    facts=PERMUTED,
)
streams.register(
    "split",
    StreamChoice,
    _parted,
    "the data set, a few classes at a time, in their natural order",
    defaults={"tasks": 5, "head": "own"},
    facts=SPLIT,
)
streams.register(
    "permuted-mnist",
    StreamChoice,
    _preset("mnist", _permuted, "permuted"),
    "digits with permuted pixels, one head for all tasks",
    defaults={"replay_epochs": 1, "replay_lr": 0.01},
    facts=PERMUTED,
    brings={"data": {"name": "mnist", "normalise": True}},
)
for _data, _tasks in {"mnist": 5, "fashion-mnist": 5, "cifar10": 5, "cifar100": 10}.items():
    streams.register(
        f"split-{_data}",
        StreamChoice,
        _preset(_data, _parted),
        f"{_data} in {_tasks} tasks, each with a head of its own",
        defaults={"tasks": _tasks, "head": "own"},
        facts=SPLIT,
        brings={"data": {"name": _data, "normalise": True}},
    )
streams.register(
    "five-datasets",
    StreamChoice,
    _preset("five-datasets", _set_by_set),
    "cifar10, mnist, svhn, fashion-mnist and notmnist, each with a head of its own",
    defaults={"tasks": 5, "head": "own"},
    facts={"paper": "Ebrahimi et al. 2020", "published": "idea, settings of HLOP", "inferred": "the split of notmnist"},
    brings={"data": {"name": "five-datasets", "normalise": True}},
)
streams.register(
    "mini-imagenet",
    StreamChoice,
    _preset("mini-imagenet", _drawn),
    "mini-imagenet in 20 tasks of 5 classes that the seed draws, each with a head of its own",
    defaults={"tasks": 20, "head": "own", "replay_batch": 5},
    facts={
        "paper": "Vinyals et al. 2016",
        "published": "idea, settings of HLOP",
        "inferred": "which classes make a task, the split of each class",
    },
    brings={"data": {"name": "mini-imagenet", "normalise": True}},
)
