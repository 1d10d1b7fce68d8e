"""Runs a comparison: what is missing of it, on any launcher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onward.comparison.folder import ComparisonFolder, Result
from onward.comparison.rows import Plan, jobs_of, keys, training
from onward.launch import Job, Launcher, Outcome, carry_out
from onward.launch.choice import available

OnOutcome = Callable[[Outcome, int, int], None]
"""Hears of every job that ended: what it came to, how many have ended, and how many there are."""


def compare(plan: Plan, folder: ComparisonFolder, launcher: Launcher, tell: OnOutcome) -> list[Outcome]:
    """Runs the jobs of ``plan`` that ``folder`` has no result of; returns those that failed.

    Every result is on the disk before the next is waited for. Ctrl-C ends the jobs at hand, which save what they have
    learned; started again, they go on from there.
    """
    jobs = list(jobs_of(plan, folder.path, available()))
    known, done = keys(plan), folder.results(plan)
    folders = {name: str(result.answer.get("run", "")) for name, result in done.items()}
    places = {training(row.label, seed): (row.label, seed) for row in plan.rows for seed in plan.seeds}
    ended, failed = sum(job.name in done for job in jobs), list[Outcome]()
    try:
        for outcome in carry_out([job for job in jobs if job.name not in done], launcher, folders):
            ended += 1
            if outcome.answer is None:
                failed.append(outcome)
            else:
                job = next(job for job in jobs if job.name == outcome.name)
                row, seed = places[job.uses.get("", job.name)]
                folder.add(Result(job.name, row, seed, _data(job), known[row], outcome.answer))
            tell(outcome, ended, len(jobs))
    finally:
        launcher.close()
    return failed


def _data(job: Job) -> str:
    """The further data that a job tests on; empty for a training."""
    return Path(job.arguments[2]).stem if job.arguments[0] == "eval" else ""
