"""What a run tells as numbers with names, for loggers of any kind: one function, ``log(step, {name: value})``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onward.core.errors import ConfigError, UnknownName
from onward.train.events import BatchDone, EpochDone, Event, OnEvent, Started, TasksTested, Warned, ignore

Log = Callable[[int, Mapping[str, float]], object]
"""Hears numbers by name, after so many updates."""

LOGGERS = ("tensorboard",)
FOLDER = "tensorboard"
FLUSH_SECONDS = 5


def to_log(log: Log, on_event: OnEvent = ignore) -> OnEvent:
    """A callback for `fit`, `train` and `resume` that shows ``log`` the numbers of every event, and tells ``on_event``.

    ``log(step, values)`` is called after every mini-batch ("batch/loss", "batch/lr", ...), epoch ("epoch/loss",
    "test/accuracy", "rule/...") and lesson ("tasks/NAME"), with the number of updates made so far. An exception of its
    own loses no run: a warning says what it was, and ``log`` is not called again. Costs what ``log`` does.

    >>> hear = to_log(lambda step, values: print(step, dict(values)))
    >>> hear(BatchDone(0, 1, loss=0.5, accuracy=75.0, samples_per_second=10.0, lr=0.1))
    1 {'batch/loss': 0.5, 'batch/accuracy': 75.0, 'batch/samples_per_second': 10.0, 'batch/lr': 0.1}
    """
    return _Logged(log, on_event)


class _Logged:
    """Counts updates; hands numbers on."""

    def __init__(self, log: Log, on_event: OnEvent):
        self.log, self.on_event, self.step = log, on_event, 0
        self.failed = False

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        self.on_event(event)
        if isinstance(event, Started):
            self.step = max(self.step, event.done)
        self.step += isinstance(event, BatchDone)
        values = scalars(event)
        if not values or self.failed:
            return
        try:
            self.log(self.step, values)
        except Exception as error:
            self.failed = True
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.on_event(Warned(f"the logger failed after {self.step} updates ({said}); it is not called again"))


def scalars(event: Event) -> dict[str, float]:
    """The numbers that an event tells, by name; none of events that tell none.

    >>> scalars(TasksTested(1, {"left": 90.0}))
    {'tasks/left': 90.0}
    """
    match event:
        case BatchDone():
            return dict(_flat("batch", {key: v for key, v in vars(event).items() if key not in ("epoch", "batch")}))
        case EpochDone():
            told = {key: value for key, value in vars(event).items() if key not in ("epoch", "lesson", "score")}
            apart = {name: told.pop(name) for name in ("rule", "observed")}
            score = asdict(event.score) if event.score is not None else {}
            groups = {"epoch": told, event.judged_on: score, **apart}
            return {name: number for group, values in groups.items() for name, number in _flat(group, values)}
        case TasksTested():
            return dict(_flat("tasks", event.accuracies))
    return {}


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers in tables, by their path; whatever is no number is left out."""
    match value:
        case bool():
            return
        case int() | float():
            yield name, float(value)
        case Mapping():
            for key, item in value.items():
                yield from _flat(f"{name}/{key}", item)


@contextmanager
def logged(name: str | None, on_event: OnEvent) -> Iterator[OnEvent]:
    """``on_event``, and the logger called ``name`` beside it while entered.

    Raises `UnknownName`, or `ConfigError` where what the logger needs is not installed.
    """
    if name is None:
        yield on_event
        return
    if name not in LOGGERS:
        raise UnknownName("logger", name, LOGGERS)
    board = TensorBoard(_summary_writer(), on_event)
    try:
        yield board
    finally:
        board.close()


class TensorBoard:
    """Writes into the run's folder as it trains: ``RUN/tensorboard``, which ``tensorboard --logdir`` shows.

    ``writer`` makes what writes, as `torch.utils.tensorboard.SummaryWriter` does. A run that goes on writes over what
    came after its checkpoint.
    """

    def __init__(self, writer: Callable[..., Any], on_event: OnEvent):
        self._make, self._writer, self._tell = writer, None, on_event
        self._start: Started | None = None
        self._hear = to_log(self._write, on_event)

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        if isinstance(event, Started) and self._start is None:
            self._start = event
        self._hear(event)

    def close(self) -> None:
        """Writes what is left."""
        try:
            if self._writer is not None:
                self._writer.close()
        except Exception as error:
            self._tell(Warned(f"TensorBoard could not write what was left ({type(error).__name__}: {error})"))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._start is None:
            return
        if self._writer is None:
            where = (self._start.folder or Path()) / FOLDER
            again = self._start.done + 1 if self._start.done else None
            self._writer = self._make(log_dir=str(where), purge_step=again, flush_secs=FLUSH_SECONDS)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


def _summary_writer() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "--log tensorboard needs TensorBoard, which is not installed; install it with `pip install tensorboard`, "
            "or Onward with its extra `tensorboard` (pip install 'onward[tensorboard]')"
        ) from None
    return SummaryWriter
