"""Jobs under Slurm, through submitit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import sleep
from types import ModuleType
from typing import Any

from onward.core.errors import ConfigError
from onward.launch.job import TRAINING, Job, Outcome, perform

POLL_SECONDS = 5.0
HOURS = {"timeout_min": 24 * 60}
"""Slurm ends a job after so long, unless it is told otherwise."""
SHARED = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
"""Settings that submitit knows for every scheduler; others are Slurm's."""


class OnSlurm:
    """Every job a Slurm job of its own; ``folder`` is seen from all machines.

    ``settings`` are what Slurm is told besides threads and GPUs: ``partition``, ``timeout_min``, ``mem_gb``, ...
    submitit keeps each job in ``folder`` as a pickle, which runs code when it is read: nobody else may write there.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str | int],
        program: tuple[str, ...] = TRAINING,
        cluster: str = "slurm",
        poll_seconds: float = POLL_SECONDS,
    ):
        self.submitit, self.program, self.poll_seconds = _submitit(), program, poll_seconds
        told = {name if name in SHARED else f"slurm_{name}": value for name, value in {**HOURS, **settings}.items()}
        try:
            self._executor = self.submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**told)
        except (AssertionError, NameError, RuntimeError) as error:
            raise ConfigError(f"--launcher slurm: {str(error).splitlines()[0]}") from None
        self._jobs: dict[str, Any] = {}
        self._stopped = set[str]()

    def start(self, job: Job) -> None:
        """See `Launcher.start`."""
        self._executor.update_parameters(name=job.name, cpus_per_task=job.threads, gpus_per_node=job.gpus)
        self._jobs[job.name] = self._executor.submit(Performance(job, self.program))

    def next(self) -> Outcome:
        """See `Launcher.next`."""
        while (outcome := self.poll(self.poll_seconds)) is None:
            pass
        return outcome

    def poll(self, seconds: float) -> Outcome | None:
        """See `Launcher.poll`; Slurm is asked once, and then slept."""
        for name, submitted in self._jobs.items():
            if submitted.done():
                del self._jobs[name]
                return self._outcome(name, submitted)
        sleep(seconds)
        return None

    def stop(self, name: str) -> None:
        """See `Launcher.stop`."""
        if name in self._jobs:
            self._stopped.add(name)
            self._jobs[name].cancel()

    def close(self) -> None:
        """See `Launcher.close`."""
        for submitted in self._jobs.values():
            submitted.cancel()
        self._jobs.clear()

    def _outcome(self, name: str, submitted: Any) -> Outcome:
        error = submitted.exception()
        if error is None:
            return submitted.result()
        return Outcome(name, problem=f"Slurm: {str(error).splitlines()[0]}", interrupted=name in self._stopped)


class Performance:
    """A job as submitit submits it: again, where its time ran out or another job took its place."""

    def __init__(self, job: Job, program: tuple[str, ...]):
        self.job, self.program = job, program

    def __call__(self) -> Outcome:
        """Runs the job."""
        return perform(self.job, self.program)

    def checkpoint(self) -> Any:
        """What is submitted in place of the job that was cut short."""
        return _submitit().helpers.DelayedSubmission(self)


def _submitit() -> ModuleType:
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "--launcher slurm needs submitit, which is not installed; install it with `pip install submitit`, or "
            "Onward with its extra `slurm` (pip install 'onward[slurm]')"
        ) from None
    return submitit
