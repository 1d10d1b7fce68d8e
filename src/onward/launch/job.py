"""What launchers run, and what comes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import onward

TRAINING = (sys.executable, "-m", "onward.launch.tied")
"""Runs ``onward ARGUMENTS``, and ends when the process that started it ends."""
SOURCES = str(Path(onward.__file__).parents[1])
"""A job runs the same Onward as its launcher, in whatever folder."""
INTERRUPTED = 130
MOST_LETTERS = 600
"""Of what a failed job said last."""
FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
"""Signals that end a job through no fault of its own."""


@dataclass(frozen=True)
class Job:
    """One command of ``onward`` that ends standard output with a JSON object.

    ``name`` is like no other's; ``uses`` has, by flag, the name of a job whose run folder the flag takes, where the
    flag is empty right behind the command; ``gpus`` are asked for where a launcher hands out GPUs.
    """

    name: str
    arguments: tuple[str, ...]
    uses: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a job came to: the object that it said last, or in words why there is none.

    An ``interrupted`` job was ended from outside; run again, it goes on.
    """

    name: str
    answer: Mapping[str, Any] | None = None
    problem: str = ""
    interrupted: bool = False


class Launcher(Protocol):
    """Runs jobs, as many at a time as there is room for."""

    def start(self, job: Job) -> None:
        """Takes in a job, which runs as soon as there is room; returns at once."""
        ...

    def next(self) -> Outcome:
        """Waits for the next job to end; a job that fails is an outcome too, and never an exception."""
        ...

    def poll(self, seconds: float) -> Outcome | None:
        """Waits for the next job to end, but no longer than so many seconds; None where none has ended."""
        ...

    def stop(self, name: str) -> None:
        """Ends a job, which `next` or `poll` hands back as interrupted; does nothing where it has ended."""
        ...

    def close(self) -> None:
        """Ends what still runs. A training saves what it learned, where there is time to tell it."""
        ...


class Process:
    """A job as a process of this machine: it ends when this process does, however that ends."""

    def __init__(self, job: Job, program: tuple[str, ...] = TRAINING, folder: Path | None = None):
        self.job = job
        path = os.pathsep.join(filter(None, [SOURCES, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONPATH": path}
        held, self._line = os.pipe()
        self._process = subprocess.Popen(
            [*program, *job.arguments],
            stdin=held,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for us; the job hears of it through `stop`
        )
        os.close(held)

    def outcome(self) -> Outcome:
        """Waits for the end."""
        said, complained = self._process.communicate()
        os.close(self._line)
        return _outcome(self.job.name, self._process.returncode, said, complained)

    def stop(self) -> None:
        """Asks the job to save what it has, and to end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)


def perform(job: Job, program: tuple[str, ...] = TRAINING, folder: Path | None = None) -> Outcome:
    """Runs a job in ``folder`` to its end."""
    return Process(job, program, folder).outcome()


def _outcome(name: str, code: int, said: str, complained: str) -> Outcome:
    if code == INTERRUPTED:
        return Outcome(name, problem="interrupted", interrupted=True)
    if code < 0:
        return Outcome(name, problem=f"ended by {_signal(-code)}", interrupted=-code in FROM_OUTSIDE)
    if code:
        return Outcome(name, problem=complained.strip()[-MOST_LETTERS:] or f"ended with exit status {code}")
    try:
        answer = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return Outcome(name, problem="ended without a JSON object as its last line")
    return Outcome(name, answer)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
