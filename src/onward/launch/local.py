"""Jobs as processes of this machine."""

from __future__ import annotations

from collections import deque
from queue import Empty, SimpleQueue
from threading import Thread

from onward.core.errors import ConfigError
from onward.launch.job import TRAINING, Job, Outcome, Process


class Local:
    """As many jobs at a time as their threads fit into ``cores``, in the order in which they come.

    A job of more threads than cores runs alone.
    """

    def __init__(self, cores: int, program: tuple[str, ...] = TRAINING):
        if cores < 1:
            raise ConfigError(f"{cores} cores were given; expected a whole number at least 1")
        self.cores, self.program = cores, program
        self._waiting: deque[Job] = deque()
        self._running: dict[str, Process] = {}
        self._ended: SimpleQueue[Outcome] = SimpleQueue()

    def start(self, job: Job) -> None:
        """See `Launcher.start`."""
        self._waiting.append(job)
        self._fill()

    def next(self) -> Outcome:
        """See `Launcher.next`."""
        return self._take(self._ended.get())

    def poll(self, seconds: float) -> Outcome | None:
        """See `Launcher.poll`."""
        try:
            return self._take(self._ended.get(timeout=seconds))
        except Empty:
            return None

    def stop(self, name: str) -> None:
        """See `Launcher.stop`."""
        for job in [job for job in self._waiting if job.name == name]:
            self._waiting.remove(job)
            self._ended.put(Outcome(name, problem="interrupted", interrupted=True))
        if name in self._running:
            self._running[name].stop()

    def close(self) -> None:
        """See `Launcher.close`; waits until every job has ended."""
        self._waiting.clear()
        for process in self._running.values():
            process.stop()
        while self._running:
            self.next()

    def _take(self, outcome: Outcome) -> Outcome:
        self._running.pop(outcome.name, None)
        self._fill()
        return outcome

    def _fill(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            job = self._waiting.popleft()
            process = self._running[job.name] = Process(job, self.program)
            Thread(target=lambda process=process: self._ended.put(process.outcome()), daemon=True).start()

    def _fits(self, job: Job) -> bool:
        taken = sum(process.job.threads for process in self._running.values())
        return not self._running or taken + job.threads <= self.cores
