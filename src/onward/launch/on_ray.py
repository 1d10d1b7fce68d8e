"""Jobs on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from onward.core.errors import ConfigError
from onward.launch.job import TRAINING, Job, Outcome, perform

RETRIES = 10
"""How often a job is run again whose worker or machine was lost."""


class OnRay:
    """Every job where its threads, and its GPU if it wants one, are free.

    The cluster is the one that ``RAY_ADDRESS`` or `ray start` on this machine tells of, else this machine alone. Where
    a worker is lost, its job is run again; ``onward train --continue`` then goes on from the last checkpoint, in a
    folder that all machines share.
    """

    def __init__(self, program: tuple[str, ...] = TRAINING):
        self.ray, self.program = _ray(), program
        self._began = not self.ray.is_initialized()
        if self._began:
            self.ray.init(log_to_driver=False)
        self._remote: Any = self.ray.remote(perform)
        self._names: dict[Any, str] = {}
        self._stopped = set[str]()

    def start(self, job: Job) -> None:
        """See `Launcher.start`."""
        needs = {"num_cpus": job.threads, "num_gpus": job.gpus, "max_retries": RETRIES, "name": job.name}
        self._names[self._remote.options(**needs).remote(job, self.program, Path.cwd())] = job.name

    def next(self) -> Outcome:
        """See `Launcher.next`."""
        (ended,), _ = self.ray.wait(list(self._names), num_returns=1)
        return self._take(ended)

    def poll(self, seconds: float) -> Outcome | None:
        """See `Launcher.poll`."""
        ended, _ = self.ray.wait(list(self._names), num_returns=1, timeout=seconds)
        return self._take(ended[0]) if ended else None

    def stop(self, name: str) -> None:
        """See `Launcher.stop`; the job ends at once, and keeps its last checkpoint."""
        for waited_for, called in self._names.items():
            if called == name:
                self._stopped.add(name)
                self.ray.cancel(waited_for, force=True)

    def _take(self, ended: Any) -> Outcome:
        name = self._names.pop(ended)
        try:
            return self.ray.get(ended)
        except self.ray.exceptions.RayError as error:
            stopped = name in self._stopped
            return Outcome(name, problem=f"Ray: {str(error).strip().splitlines()[0]}", interrupted=stopped)

    def close(self) -> None:
        """See `Launcher.close`; jobs end at once, and keep their last checkpoint."""
        for waited_for in self._names:
            self.ray.cancel(waited_for, force=True)
        self._names.clear()
        if self._began:
            self.ray.shutdown()


def _ray() -> ModuleType:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "--launcher ray needs Ray, which is not installed; install it with `pip install ray`, or Onward with its "
            "extra `ray` (pip install 'onward[ray]')"
        ) from None
    return ray
