"""Training as it goes: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from onward.train.events import BatchDone, Ended, EpochDone, Event, OnEvent, Started, TasksTested, Warned

REFRESH_SECONDS, LINE_SECONDS, ROWS = 0.2, 10.0, 12


@contextmanager
def progress(console: Console) -> Iterator[OnEvent]:
    """A callback that shows events on ``console`` while the context lasts; long preparations are told as well."""
    with told(console):
        if not console.is_terminal:
            yield Lines(console)
            return
        with Live(console=console, auto_refresh=False) as live:
            yield Board(console, live)


@contextmanager
def told(console: Console) -> Iterator[None]:
    """What the library logs while it prepares, such as the simulation of recordings, goes to ``console``."""
    log, handler = logging.getLogger("onward"), _Teller(console)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Teller(logging.Handler):
    """Prints log records; information at most every few seconds."""

    def __init__(self, console: Console):
        super().__init__()
        self.console, self.told = console, -LINE_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        if record.levelno > logging.INFO or perf_counter() - self.told >= LINE_SECONDS:
            self.told = perf_counter()
            self.console.print(record.getMessage(), highlight=False)


@dataclass(frozen=True)
class Mark:
    """When so many mini-batches were ``done``."""

    done: int
    at: float


class View(ABC):
    """Follows a run, and shows it when something worth showing has happened."""

    def __init__(self, console: Console):
        self.console = console
        self.start = Started("", 0, 0, 0, None)
        self.shown = perf_counter()
        self.first: Mark | None = None

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        match event:
            case Started():
                self.start, self.shown, self.first = event, perf_counter(), None
                self.started()
            case BatchDone():
                self.first = self.first or self._mark(event)
                self.batch(event)
            case EpochDone():
                self.epoch(event)
            case TasksTested():
                self.console.print(_tasks(event), soft_wrap=True)
            case Warned():
                self.say(f"warning: {event.text}")
            case Ended():
                self.say(f"ended: {event.reason}")

    @abstractmethod
    def started(self) -> None:
        """A run began; its description is in ``self.start``."""

    @abstractmethod
    def batch(self, event: BatchDone) -> None:
        """A mini-batch was learned."""

    @abstractmethod
    def epoch(self, event: EpochDone) -> None:
        """An epoch ended."""

    def say(self, text: str) -> None:
        """A remark."""
        self.console.print(text, style="yellow", soft_wrap=True)

    def due(self, seconds: float) -> bool:
        """Whether that much time has passed since it last was."""
        now = perf_counter()
        if now - self.shown < seconds:
            return False
        self.shown = now
        return True

    def eta(self, event: BatchDone) -> str:
        """Time left at the pace since the first mini-batch, which compiles and measures; of that one, nothing."""
        first, now = self.first, self._mark(event)
        if first is None or now.done <= first.done:
            return ""
        left = self.start.epochs * self.start.batches - now.done
        return f"ETA {clock((now.at - first.at) / (now.done - first.done) * left)}"

    def _mark(self, event: BatchDone) -> Mark:
        return Mark(event.epoch * self.start.batches + event.batch, perf_counter())

    def heading(self) -> str:
        """The run in a line."""
        epochs = f"{self.start.epochs} epoch{'' if self.start.epochs == 1 else 's'}"
        going_on = f", going on after mini-batch {self.start.done:,}" if self.start.done else ""
        return f"{self.start.title}: {self.start.parameters:,} parameters, {epochs}{going_on}"


class Lines(View):
    """One line an epoch, and one every ten seconds between."""

    def started(self) -> None:
        """See `View.started`."""
        self.console.print(self.heading())

    def batch(self, event: BatchDone) -> None:
        """See `View.batch`."""
        if self.due(LINE_SECONDS):
            place = f"epoch {event.epoch + 1}/{self.start.epochs} batch {event.batch}/{self.start.batches}"
            numbers = f"loss {event.loss:.4f} accuracy {event.accuracy:.2f} %"
            pace = " ".join(filter(None, (f"{event.samples_per_second:,.0f} samples/s", self.eta(event))))
            self._line(f"{place} {numbers} {pace} rates {_rates(event.rates)}")

    def epoch(self, event: EpochDone) -> None:
        """See `View.epoch`."""
        numbers = f"loss {event.loss:.4f} accuracy {event.accuracy:.2f} %"
        judged = f" {event.judged_on} {event.score.accuracy:.2f} %" if event.score else ""
        pace = f"{event.samples_per_second:,.0f} samples/s rates {_rates(event.rates)}"
        active = f" active slopes {_rates(event.active)}" if event.active else ""
        flips = f" sign flips {_rates(event.flips, 4)}" if event.flips else ""
        self._line(f"epoch {event.epoch}/{self.start.epochs} {numbers}{judged} {pace}{active}{flips}")

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


class Board(View):
    """A live table: past epochs, the present one, firing rates, time left."""

    def __init__(self, console: Console, live: Live):
        super().__init__(console)
        self.live, self.past, self.table = live, list[EpochDone](), Table()

    def started(self) -> None:
        """See `View.started`."""
        if self.past:
            self.console.print(self.table)
        self.past = []
        self.live.update(Text(self.heading()), refresh=True)

    def batch(self, event: BatchDone) -> None:
        """See `View.batch`."""
        if self.due(REFRESH_SECONDS):
            self.live.update(Group(self._table(event), self._status(event)), refresh=True)

    def epoch(self, event: EpochDone) -> None:
        """See `View.epoch`."""
        self.past.append(event)
        self.table = self._table(None)
        self.live.update(self.table, refresh=True)

    def _table(self, now: BatchDone | None) -> Table:
        judged = self.past[-1].judged_on if self.past else "test"
        table = Table(title=self.heading(), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("epoch", "loss", "accuracy", judged, "samples/s", "firing rates"):
            table.add_column(name, justify="left" if name in ("epoch", "firing rates") else "right")
        for event in self.past[-ROWS:]:
            scored = f"{event.score.accuracy:.2f} %" if event.score else ""
            table.add_row(*self._cells(event.epoch, event, scored))
        if now is not None:
            table.add_row(*self._cells(now.epoch + 1, now, ""), style="bold")
        return table

    def _cells(self, number: int, event: BatchDone | EpochDone, judged: str) -> tuple[str, ...]:
        return (
            f"{number}/{self.start.epochs}",
            f"{event.loss:.4f}",
            f"{event.accuracy:.2f} %",
            judged,
            f"{event.samples_per_second:,.0f}",
            _rates(event.rates),
        )

    def _status(self, event: BatchDone) -> RenderableType:
        row = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=self.start.batches, completed=event.batch, width=40)
        row.add_row(bar, f"batch {event.batch}/{self.start.batches}", self.eta(event))
        return row


def clock(seconds: float) -> str:
    """Seconds as ``1:05`` or ``2:01:05``.

    >>> clock(65), clock(7265)
    ('1:05', '2:01:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tasks(event: TasksTested) -> str:
    """Percent of every task, and their mean."""
    when = f"after lesson {event.lesson}" if event.lesson else "before the first lesson"
    row = " ".join(f"{value:.1f}" for value in event.accuracies.values())
    mean = sum(event.accuracies.values()) / len(event.accuracies)
    leaked = " ".join(f"{name}: {share:.3f}" for name, share in event.leakage.items())
    return f"all tasks {when} (%): {row}; mean {mean:.2f}" + (f"; leakage {leaked}" if leaked else "")


def _rates(rates: Mapping[str, float], digits: int = 3) -> str:
    return " ".join(f"{name}: {rate:.{digits}f}" for name, rate in rates.items())
