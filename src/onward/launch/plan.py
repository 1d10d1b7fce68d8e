"""Jobs that need each other's results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from onward.core.errors import ConfigError
from onward.launch.job import Job, Launcher, Outcome


def carry_out(jobs: Iterable[Job], launcher: Launcher, runs: Mapping[str, str] | None = None) -> Iterator[Outcome]:
    """Runs ``jobs``, each after those whose runs it uses; yields what they come to as they end.

    ``runs`` has the run folders of jobs that ended before. A job whose need failed is not run, and its outcome says
    so. Whoever stops early closes the launcher. Raises `ConfigError` for needs that nobody meets.
    """
    waiting = {job.name: job for job in jobs}
    folders, failed, running = dict(runs or {}), set[str](), 0
    _check(waiting, folders)
    while waiting or running:
        for job in [job for job in waiting.values() if failed.intersection(job.uses.values())]:
            del waiting[job.name]
            failed.add(job.name)
            yield Outcome(job.name, problem=f"needs {_and(failed.intersection(job.uses.values()))}, which failed")
        for job in [job for job in waiting.values() if folders.keys() >= set(job.uses.values())]:
            launcher.start(_ready(waiting.pop(job.name), folders))
            running += 1
        if running:
            outcome, running = launcher.next(), running - 1
            if outcome.answer is None:
                failed.add(outcome.name)
            else:
                folders[outcome.name] = str(outcome.answer.get("run", ""))
            yield outcome


def _ready(job: Job, folders: Mapping[str, str]) -> Job:
    """The job with the folders that its flags take; the one that no flag takes stands right behind the command."""
    first = [folders[name] for flag, name in job.uses.items() if not flag]
    runs = chain.from_iterable((flag, folders[name]) for flag, name in job.uses.items() if flag)
    return replace(job, arguments=(*job.arguments[:1], *first, *job.arguments[1:], *runs), uses={})


def _check(jobs: Mapping[str, Job], folders: Mapping[str, str]) -> None:
    """Raises `ConfigError` where a job needs one that there is not, or jobs wait for each other."""
    met = set(folders)
    for job in jobs.values():
        unknown = set(job.uses.values()) - jobs.keys() - met
        if unknown:
            raise ConfigError(f"{job.name} uses the run of {_and(unknown)}, which is not among the jobs")
    left = dict(jobs)
    while ready := [name for name, job in left.items() if met >= set(job.uses.values())]:
        met.update(ready)
        left = {name: job for name, job in left.items() if name not in met}
    if left:
        raise ConfigError(f"{_and(left)} wait for each other; a job may use runs of jobs that do not need its own")


def _and(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))
