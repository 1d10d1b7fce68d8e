"""Preparations that take long are told on the console, and not more often than is pleasant."""

from __future__ import annotations

import io
import logging

from rich.console import Console

from onward.cli.progress import progress


def test_what_the_library_logs_is_shown_while_it_prepares() -> None:
    text = io.StringIO()
    log = logging.getLogger("onward.data.somewhere")
    with progress(Console(file=text)):
        log.info("simulating recordings: %d of %d done", 0, 10)
        log.info("simulating recordings: %d of %d done", 1, 10)
        log.warning("the cache cannot be written")
    log.warning("nobody listens")
    assert text.getvalue().splitlines() == ["simulating recordings: 0 of 10 done", "the cache cannot be written"]
