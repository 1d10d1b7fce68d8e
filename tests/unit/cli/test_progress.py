"""What the console tells: preparations that take long, not more often than is pleasant, and the time left."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from onward.cli.progress import LINE_SECONDS, Lines, progress
from onward.train.events import BatchDone, Started


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("onward.cli.progress.perf_counter", clock)
    return clock


def batches_done(view: Lines, clock: Clock, *ends: tuple[int, int, float]) -> None:
    """Tells ``view`` of mini-batches ``(epoch, batch)``, each some seconds after what came before."""
    for epoch, batch, seconds in ends:
        clock.now += seconds
        view(BatchDone(epoch, batch, 1.0, 50.0, 100.0, 1e-3))


def test_what_the_library_logs_is_shown_while_it_prepares() -> None:
    text = io.StringIO()
    log = logging.getLogger("onward.data.somewhere")
    with progress(Console(file=text)):
        log.info("simulating recordings: %d of %d done", 0, 10)
        log.info("simulating recordings: %d of %d done", 1, 10)
        log.warning("the cache cannot be written")
    log.warning("nobody listens")
    assert text.getvalue().splitlines() == ["simulating recordings: 0 of 10 done", "the cache cannot be written"]


def test_the_first_mini_batch_tells_nothing_about_the_time_left(clock: Clock) -> None:
    text = io.StringIO()
    view = Lines(Console(file=text))
    for _ in range(2):
        view(Started("a run", 2, 100, 1000, None))
        batches_done(view, clock, (0, 1, 3600.0), (0, 2, LINE_SECONDS), (1, 1, 99 * LINE_SECONDS))
    start, first, second, later = text.getvalue().splitlines()[:4]
    assert start.startswith("a run")
    assert "batch 1/100" in first
    assert "ETA" not in first
    assert "ETA 33:00 " in second, "198 mini-batches of 10 seconds"
    assert "ETA 16:30 " in later
    assert text.getvalue().splitlines()[4:] == [start, first, second, later], "a second run is told anew"


def test_a_run_that_goes_on_is_judged_by_what_it_does_now(clock: Clock) -> None:
    text = io.StringIO()
    view = Lines(Console(file=text))
    view(Started("a run", 2, 100, 1000, None))
    batches_done(view, clock, (1, 80, LINE_SECONDS), (1, 90, LINE_SECONDS))
    assert "ETA 0:10 " in text.getvalue().splitlines()[-1]
