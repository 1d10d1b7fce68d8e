"""Meta-training as a job: tasks in turn, comparisons on held-out ones, checkpoints, the best optimiser in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from onward._durable import write_whole
from onward._tensors import CheckpointError
from onward._version import __version__
from onward.core.errors import ConfigError, NonFiniteError
from onward.kernels.choice import pin, used
from onward.meta.config import MetaRecipe
from onward.meta.subjects import Terms, subjects
from onward.meta.tasks import Tasks
from onward.optim.meta import Demand
from onward.train import checkpoint, toml
from onward.train.events import Ended, Event, OnEvent, Warned, ignore
from onward.train.folder import DATA, ENV, META, RunFolder, environment, write_json
from onward.train.interrupt import Interrupt
from onward.train.resume import environment_changes

WEIGHTS = "meta.safetensors"
KEPT = 2
"""Checkpoints."""
PLACES = (("train", "out"), ("data", "root"), ("meta", "subject", "weights"))
"""Fields of a recipe that name folders and files."""
PARTS = {"train": "training part", "validation": "validation part", "test": "test split"}
"""What a file says that it was trained and chosen on."""


@dataclass(frozen=True)
class Planned(Event):
    """Meta-training begins: numbers to learn, size of a task's network, memory of a window; ``done`` tasks before."""

    learned: int
    parameters: int
    tasks: int
    windows: int
    window: int
    memory: Demand
    folder: Path
    done: int


@dataclass(frozen=True)
class TaskDone(Event):
    """A task ended: mean losses after the updates of its first and of its last window; None where it diverged."""

    task: int
    first: float | None
    last: float | None


@dataclass(frozen=True)
class Judged(Event):
    """A comparison: the mean loss over fresh tasks, None where one diverged; ``best`` says whether it is the best."""

    task: int
    loss: float | None
    best: bool


@dataclass
class MetaProgress:
    """Where a meta-training stands: tasks and meta-updates done, the best comparison, lines of metrics, diverged tasks.

    ``ways`` are the measured choices of kernels, as in `onward.train.state.Own`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    tasks: int = 0
    updates: int = 0
    best: float | None = None
    best_task: int = 0
    logged: int = 0
    diverged: int = 0
    seconds: float = 0.0
    ways: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MetaSummary:
    """What a meta-training came to; ``dc_gain`` and ``spectral_radius`` where the optimiser is linear for small g."""

    run: str
    weights: str
    noun: str
    use: str
    tasks: int
    updates: int
    diverged: int
    best_loss: float | None
    best_task: int
    dc_gain: float | None
    spectral_radius: float | None
    interrupted: bool
    seconds: float


def meta_train(recipe: MetaRecipe, on_event: OnEvent = ignore) -> MetaSummary:
    """Trains a learned optimiser as ``recipe`` says, in a new folder; the best one is in its ``meta.safetensors``.

    Ctrl-C or SIGTERM ends it after the task at hand, with everything saved. Raises `OnwardError` in words.
    """
    tasks = Tasks(recipe)
    folder = RunFolder.create(Path(recipe.run.train.out), f"meta-{recipe.run.data.name}-{recipe.run.model.name}")
    with folder.held():
        job = _Job(recipe, tasks, folder, on_event)
        job.begin()
        return job.carry_out()


def resume_meta(path: Path, *, force: bool = False, on_event: OnEvent = ignore) -> MetaSummary:
    """Continues the meta-training in ``path`` from its last task; on a CPU the result is that of one piece, to the bit.

    Raises `ConfigError` where versions or data have changed, unless ``force``.
    """
    if not (path / META).is_file():
        raise ConfigError(f"{path} is not the folder of a meta-training: it has no {META}")
    recipe, folder = MetaRecipe.parse([str(path / META)]), RunFolder(path)
    with folder.held():
        job = _Job(recipe, Tasks(recipe), folder, on_event)
        job.restore(force)
        return job.carry_out()


class _Job:
    """A meta-training in a folder."""

    def __init__(self, recipe: MetaRecipe, tasks: Tasks, folder: RunFolder, on_event: OnEvent):
        self.recipe, self.meta, self.tasks, self.folder, self.tell = recipe, recipe.meta, tasks, folder, on_event
        self.subject, self.sizes = subjects.build(self.meta.subject), [p.numel() for p in tasks.learn(0).parameters]
        self.trainer, self.memory = self.subject.trainer(
            Terms(
                network=self.meta.network,
                course=self.meta.course(),
                lr=self.meta.lr,
                clamp=self.meta.clamp,
                seed=recipe.run.seed,
                device=tasks.device,
                sizes=self.sizes,
                memory=self.meta.memory * 2**20,
            )
        )
        self.best, self.progress = deepcopy(self.trainer.learned), MetaProgress()
        self.total = self.meta.epochs * self.meta.tasks

    @property
    def trained(self) -> checkpoint.Trained:
        """What a checkpoint holds: what is learned, the best of it, Adam's moments."""
        return checkpoint.Trained(self.trainer.learned, self.best, self.trainer.optimizer)

    def begin(self) -> None:
        """Writes what is known before."""
        write_json(self.folder.path / ENV, environment())
        write_json(self.folder.path / DATA, self.read())
        write_whole(self.folder.path / META, toml.dumps(self.recipe.tables()).encode())
        self.save()

    def restore(self, force: bool) -> None:
        """Takes up the newest intact checkpoint."""
        path = self.folder.newest(lambda text: self.tell(Warned(text)))
        if path is None:
            raise CheckpointError(f"{self.folder.path} holds no complete checkpoint; train it again")
        self.progress = _progress(path, checkpoint.read_state(path))
        checkpoint.read_modules(path, self.trainer.learned, self.best)
        checkpoint.read_optimizer(path, self.trainer.optimizer)
        self.trainer.updates = self.progress.updates
        pin(self.progress.ways)
        obstacles = list(self._obstacles())
        if obstacles and not force:
            raise ConfigError(
                f"{self.folder.path} cannot be continued as if it had not been cut short: {'; '.join(obstacles)}. "
                "Add --force to go on nevertheless"
            )
        for obstacle in obstacles:
            self.tell(Warned(f"not as before: {obstacle}"))
        self.progress.logged = self.folder.rewind(self.progress.logged)

    def _obstacles(self) -> Iterator[str]:
        yield from environment_changes(self.folder.record(ENV))
        before, now = self.folder.record(DATA), self.read()
        for name in self.subject.files():
            if before.pop(name, None) != now.pop(name):
                yield f"the file of {name} has changed"
        if before != now:
            yield "the data have changed"

    def read(self) -> dict[str, dict[str, int | str]]:
        """What tells whether all that is read is the same."""
        return {**self.tasks.data_record(), **self.subject.files()}

    def carry_out(self) -> MetaSummary:
        """All tasks that are left, and the summary."""
        began, earlier, interrupted = perf_counter(), self.progress.seconds, False
        self.tell(self._planned())
        if self.meta.uses_test:
            self.tell(
                Warned(
                    "test data take part in this meta-training: accuracies on the same test data, reached with the "
                    "optimiser that comes of it, are not those of unseen data"
                )
            )
        with Interrupt() as stop:
            while self.progress.tasks < self.total and not interrupted:
                self.one()
                self.progress.seconds = earlier + perf_counter() - began
                self.save()
                interrupted = stop() and self.progress.tasks < self.total
        if interrupted:
            self.tell(Ended("interrupted"))
        summary = self._summary(interrupted)
        if not interrupted:
            self.folder.done(asdict(summary))
        return summary

    def one(self) -> None:
        """A task, and the comparison that may be due after it."""
        number, losses = self.progress.tasks, list[float]()
        try:
            losses = self.trainer.train(self.tasks.learn(number))
        except NonFiniteError as error:
            self.progress.diverged += 1
            self.tell(Warned(f"task {number + 1} ended early: {error}"))
        self.progress.tasks, self.progress.updates = number + 1, self.trainer.updates
        self.log(_task_done(number + 1, losses, self.meta.window))
        if self.progress.tasks % self.meta.judge_every == 0 or self.progress.tasks == self.total:
            self.judge()

    def judge(self) -> None:
        """Compares the optimiser at hand with the best so far; writes the better one."""
        loss = self.trainer.judge([partial(self.tasks.judge, k) for k in range(self.meta.judge_tasks)])
        finite, best = loss < float("inf"), self.progress.best
        better = finite and (best is None or loss < best)
        if better:
            self.progress.best, self.progress.best_task = loss, self.progress.tasks
            self.best.load_state_dict(self.trainer.learned.state_dict())
            self.subject.write(self.folder.path / WEIGHTS, self.best, self.record())
        self.log(Judged(self.progress.tasks, loss if finite else None, better))

    def log(self, event: TaskDone | Judged) -> None:
        """A line in the metrics, and for whoever listens."""
        self.folder.log({"event": type(event).__name__, **asdict(event)})
        self.progress.logged += 1
        self.tell(event)

    def save(self) -> None:
        """A checkpoint between two tasks."""
        self.progress.ways = used()
        folder = self.folder.checkpoints
        checkpoint.write(folder / f"step-{self.progress.tasks}", self.trained, asdict(self.progress))
        checkpoint.prune(folder, {path.name for path in checkpoint.newest_first(folder)[:KEPT]})

    def record(self) -> dict[str, Any]:
        """What the optimiser's file says about its training."""
        return {
            "meta_trained_on": PARTS[self.meta.learn_on],
            "meta_selected_on": PARTS[self.meta.judge_on],
            "recipe": _without_places(self.recipe.tables()),
            "seed": self.recipe.run.seed,
            "date": date.today().isoformat(),
            "onward": __version__,
            "tasks": self.progress.tasks,
            "updates": self.progress.updates,
            "loss": self.progress.best,
        }

    def _planned(self) -> Planned:
        return Planned(
            learned=sum(p.numel() for p in self.trainer.learned.parameters()),
            parameters=sum(self.sizes),
            tasks=self.total,
            windows=len(self.trainer.course.windows),
            window=self.meta.window,
            memory=self.memory,
            folder=self.folder.path,
            done=self.progress.tasks,
        )

    def _summary(self, interrupted: bool) -> MetaSummary:
        progress, path = self.progress, self.folder.path / WEIGHTS
        gain, radius = self.subject.filter(self.best)
        return MetaSummary(
            run=str(self.folder.path),
            weights=str(path) if path.is_file() else "",
            noun=self.subject.noun,
            use=self.subject.use,
            tasks=progress.tasks,
            updates=progress.updates,
            diverged=progress.diverged,
            best_loss=progress.best,
            best_task=progress.best_task,
            dc_gain=gain,
            spectral_radius=radius,
            interrupted=interrupted,
            seconds=progress.seconds,
        )


def _without_places(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without folders of this machine: they say nothing about the optimiser, and files are handed on."""
    for path in PLACES:
        tables = _without(tables, *path)
    return dict(tables)


def _without(table: Mapping[str, Any], name: str, *rest: str) -> dict[str, Any]:
    """A table without what lies at a path, where that is there."""
    if rest and isinstance(table.get(name), Mapping):
        return {**table, name: _without(table[name], *rest)}
    return {key: value for key, value in table.items() if key != name or rest}


def _task_done(number: int, losses: list[float], window: int) -> TaskDone:
    if not losses:
        return TaskDone(number, None, None)
    return TaskDone(number, sum(losses[:window]) / window, sum(losses[-window:]) / window)


def _progress(path: Path, state: Mapping[str, Any]) -> MetaProgress:
    try:
        return TypeAdapter(MetaProgress).validate_python(state)
    except ValidationError:
        raise CheckpointError(
            f"{path}: holds no counters of a meta-training; it is damaged, or another run's"
        ) from None
