"""What an input may do: end in time, in memory, with our own error, and start nothing."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from onward.core.errors import OnwardError

SECONDS = 10.0
"""An input that takes longer is a crash. Refusing takes milliseconds; the rest is room for a busy machine."""

HEADROOM = 1536 * 2**20
"""Bytes of address space beyond those in use before the first input. Real data of 64 MB take about 1 GB to read."""

MOST_CHARACTERS = 1000
"""Characters of a message: one line that a person reads."""

CANARY = "fuzz_canary"
HARM = re.compile(r"os\.(system|exec|fork|spawn|posix_spawn|remove|rename)|subprocess\.|socket\.|pickle\.")


class TooSlow(BaseException):
    """The alarm rang."""


@dataclass(frozen=True)
class Verdict:
    """What came of one input: ``crash`` is empty where it was accepted or refused as it should be."""

    refused: bool
    crash: str
    seconds: float
    peak_bytes: int


class Auditor:
    """Notes what Python itself reports of programs started, objects unpickled and the canary imported."""

    def __init__(self) -> None:
        self._seen: list[str] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self._seen is None:
            return
        if HARM.match(event) or (event == "import" and str(arguments[0]).startswith(CANARY)):
            self._seen.append(f"{event} {arguments[:2]!r}"[:200])

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """The events of a while."""
        self._seen = seen = []
        try:
            yield seen
        finally:
            self._seen = None


def limit_memory(headroom: int = HEADROOM) -> None:
    """From here on, more address space than ``headroom`` beyond the present is a `MemoryError`; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + headroom
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def judge(read: Callable[[], object], auditor: Auditor) -> Verdict:
    """Runs ``read`` under all limits."""
    refused, crash = False, ""
    before, began = _reset_peak(), perf_counter()
    with auditor.listening() as harm, _alarm(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except OnwardError as error:
            refused, crash = True, unreadable(str(error))
        except (Exception, TooSlow, SystemExit) as error:
            crash = f"{type(error).__name__}: {error}"[:300]
    seconds = perf_counter() - began
    if harm:
        crash = f"started something: {'; '.join(harm)}"
    return Verdict(refused, crash, seconds, max(0, _peak() - before))


def unreadable(message: str) -> str:
    """Why a message is none for a person; empty where it is one."""
    if not message or len(message) > MOST_CHARACTERS:
        return f"a message of {len(message)} characters: {message[:100]!r}"
    return "" if message.isprintable() else f"a message with control characters: {message[:200]!r}"


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlow(f"no answer after {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _reset_peak() -> int:
    """Bytes resident now, from which the peak is counted."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
