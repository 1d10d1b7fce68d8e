"""Runs a sweep: trial after trial, or several at a time, on any launcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from onward.core.errors import ConfigError, UnknownName
from onward.launch import Launcher, Outcome
from onward.sweep.folder import SweepFolder
from onward.sweep.plan import Plan
from onward.sweep.study import Asked, Study, Trial
from onward.train.config import RunConfig

POLL_SECONDS = 0.5
"""Between two looks at the metrics of trainings at hand."""

OnTrial = Callable[[Trial, int, int], None]
"""Hears of every trial that ended: what it came to, how many have ended, and how many there are to be."""


@dataclass
class Running:
    """A trial whose training is at hand; ``given_up`` once the pruner has said so."""

    asked: Asked
    config: RunConfig
    given_up: bool = False


@dataclass
class _Sweep:
    """What the steps of a sweep share."""

    plan: Plan
    folder: SweepFolder
    study: Study
    launcher: Launcher
    threads: int
    tell: OnTrial
    running: dict[str, Running] = field(default_factory=dict)

    def start(self) -> bool:
        """Starts another trial; False where there is none left to start."""
        asked = self.study.ask()
        if asked is None:
            return False
        try:
            config = self.plan.config(asked.values)
        except (ConfigError, UnknownName) as error:
            self.study.fail(asked, str(error))
            self.told(asked.place)
            return True
        job = self.folder.job(asked.place, config, self.threads)
        self.running[job.name] = Running(asked, config)
        self.launcher.start(job)
        return True

    def look(self, name: str, one: Running) -> None:
        """Hears what a training has written; ends one that is not worth its time."""
        for epoch, accuracy in self.folder.accuracies(one.asked.place):
            if one.given_up or epoch in one.asked.accuracies:
                continue
            if one.asked.report(epoch, accuracy) and epoch < one.config.train.epochs:
                one.given_up = True
                self.launcher.stop(name)

    def end(self, outcome: Outcome) -> None:
        """Notes what came of a trial."""
        one = self.running.pop(outcome.name)
        self.look(outcome.name, one)
        asked, accuracies = one.asked, list(one.asked.accuracies.values())
        if one.given_up:
            self.study.prune(asked)
        elif outcome.interrupted:
            self.study.killed(asked, outcome.problem)
        elif outcome.answer is None or not accuracies:
            self.study.fail(asked, outcome.problem or "no accuracy on held-out data was noted")
        else:
            self.study.finish(asked, max(accuracies) if one.config.train.keep_best else accuracies[-1])
        self.told(asked.place)

    def told(self, place: int) -> None:
        """Tells of a trial that has ended for good."""
        trials = self.study.trials()
        if trials[place - 1].state != "running":
            self.tell(trials[place - 1], sum(t.state != "running" for t in trials), self.plan.count)


def sweep(plan: Plan, folder: SweepFolder, launcher: Launcher, tell: OnTrial, jobs: int = 1, threads: int = 1) -> None:
    """Trains the trials of ``plan`` that ``folder`` has not seen the end of, ``jobs`` at a time.

    A trial is judged by its accuracy on held-out data: of the best epoch, or with ``train.keep_best`` off the last one.
    Ctrl-C ends the trainings at hand, which save what they have learned; started again, they go on from there.
    """
    study = Study(folder.database, plan)
    at_hand = _Sweep(plan, folder, study, launcher, threads, tell)
    try:
        while True:
            while len(at_hand.running) < jobs and at_hand.start():
                pass
            if not at_hand.running:
                return
            outcome = launcher.poll(POLL_SECONDS)
            for name, one in at_hand.running.items():
                at_hand.look(name, one)
            if outcome is not None:
                at_hand.end(outcome)
    finally:
        launcher.close()
        study.close()
