"""Optuna's study of a sweep, on the disk after every word: what was tried, what came of it, what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from onward.core.errors import ConfigError
from onward.sweep.axes import Axis, Listed, Range, Value
from onward.sweep.plan import Plan

STARTUP = 5
"""Trials that come to their end before any is ended early."""
MOST_TRIES = 3
"""Of a trial whose training was killed."""
NAME = "sweep"
PLACE, TRIES, PROBLEM = "place", "tries", "problem"
PRIME = 1_000_003


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep, numbered from 1; ``accuracies`` are held-out, by epoch, ``accuracy`` is what it came to.

    ``state`` is "finished", "pruned", "failed" or "running".
    """

    place: int
    values: Mapping[str, Value]
    state: str
    accuracy: float | None = None
    accuracies: Mapping[int, float] = field(default_factory=dict)
    problem: str = ""


class Asked:
    """A trial that is to be trained now; ``handle`` is Optuna's."""

    def __init__(self, trial: Any):
        self.handle = trial
        self.place, self.values = int(trial.user_attrs[PLACE]), cast(Mapping[str, Value], dict(trial.params))
        self.accuracies: dict[int, float] = {}

    def report(self, epoch: int, accuracy: float) -> bool:
        """Notes an epoch's accuracy; whether it is so bad that the training need not go on."""
        self.accuracies[epoch] = accuracy
        self.handle.report(accuracy, epoch)
        return self.handle.should_prune()


class Study:
    """The trials of ``plan`` in the database ``path``.

    Trials are sampled by the tree-structured Parzen estimator, or all in turn where they are few. What comes next
    depends on the seed of the configuration, on the trial's number and on what has ended: a sweep of one job at a time
    is the same whether or not it was cut short. Raises `ConfigError` where Optuna is not installed, or the database is
    damaged.
    """

    def __init__(self, path: Path, plan: Plan):
        self.optuna, self.plan, self.grid, self.seed = installed(), plan, plan.grid, plan.base.seed
        self.space = {axis.field: self._distribution(axis) for axis in plan.axes}
        pruner = self.optuna.pruners.MedianPruner(STARTUP) if plan.prune else self.optuna.pruners.NopPruner()
        with self._readable(path):
            self._storage = self.optuna.storages.RDBStorage(_address(path))
            self._study = self.optuna.create_study(
                storage=self._storage, study_name=NAME, pruner=pruner, direction="maximize", load_if_exists=True
            )
            self._requeue()

    def close(self) -> None:
        """Lets go of the database."""
        self._storage.engine.dispose()

    def ask(self) -> Asked | None:
        """The next trial: one that was killed, else a new one; None where there are enough."""
        place = 1 + len(self.trials())
        if not any(trial.state == self._state.WAITING for trial in self._all()):
            if place > self.plan.count:
                return None
            seed = (self.seed * PRIME + place) % 2**32
            self._study.sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            if self.grid is not None:
                self._study.enqueue_trial(dict(self.grid[place - 1]))
        trial = self._study.ask(self.space)
        if PLACE not in trial.user_attrs:
            trial.set_user_attr(PLACE, place)
        return Asked(trial)

    def finish(self, asked: Asked, accuracy: float) -> None:
        """The trial came to its end."""
        self._study.tell(asked.handle, accuracy)

    def prune(self, asked: Asked) -> None:
        """The trial was ended early."""
        self._study.tell(asked.handle, state=self._state.PRUNED)

    def fail(self, asked: Asked, problem: str) -> None:
        """The trial cannot be trained; to the sampler it is the worst there is, so that it keeps away."""
        asked.handle.set_user_attr(PROBLEM, problem)
        self._study.tell(asked.handle, state=self._state.PRUNED)

    def killed(self, asked: Asked, problem: str) -> None:
        """The trial's training was ended from outside: it is marked, and tried again unless that happened too often."""
        tries = int(asked.handle.user_attrs.get(TRIES, 1))
        if tries >= MOST_TRIES:
            return self.fail(asked, f"{problem}, {tries} times")
        self._study.tell(asked.handle, state=self._state.FAIL)
        self._again(asked.values, asked.place, tries + 1)

    def trials(self) -> list[Trial]:
        """All trials, each as it stood last."""
        told = {int(t.user_attrs[PLACE]): t for t in self._all() if PLACE in t.user_attrs}
        return [self._told(place, trial) for place, trial in sorted(told.items())]

    @property
    def _state(self) -> Any:
        return self.optuna.trial.TrialState

    def _all(self) -> list[Any]:
        return self._study.get_trials(deepcopy=False)

    def _requeue(self) -> None:
        """Trials that ran when an earlier process ended are marked as killed, and wait to be run again."""
        for trial in self._study.get_trials(states=(self._state.RUNNING,)):
            self._study.tell(trial.number, state=self._state.FAIL)
            if PLACE in trial.user_attrs:
                self._again(trial.params, trial.user_attrs[PLACE], trial.user_attrs.get(TRIES, 1))

    def _again(self, values: Mapping[str, Value], place: int, tries: int) -> None:
        self._study.enqueue_trial(dict(values), user_attrs={PLACE: place, TRIES: tries})

    def _told(self, place: int, trial: Any) -> Trial:
        problem, states = trial.user_attrs.get(PROBLEM, ""), self._state
        names = {states.COMPLETE: "finished", states.PRUNED: "failed" if problem else "pruned"}
        values = trial.params or trial.system_attrs.get("fixed_params", {})
        ended = trial.state == states.COMPLETE
        return Trial(
            place=place,
            values=values,
            state=names.get(trial.state, "running"),
            accuracy=trial.value if ended else max(trial.intermediate_values.values(), default=None),
            accuracies=dict(trial.intermediate_values),
            problem=problem,
        )

    def _distribution(self, axis: Axis) -> Any:
        match axis:
            case Range(whole=True):
                return self.optuna.distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
            case Range():
                return self.optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)
            case Listed():
                return self.optuna.distributions.CategoricalDistribution(axis.values)
        raise TypeError(f"a {type(axis).__name__} is no axis that can be sampled")

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError  # pyright: ignore[reportMissingImports]

        broken: tuple[type[Exception], ...] = (self.optuna.exceptions.OptunaError, SQLAlchemyError)
        try:
            yield
        except broken as error:
            said = str(error).strip().splitlines()[0]
            raise ConfigError(f"{path} cannot be read as a sweep's database ({said}); start the sweep anew") from None


def _address(path: Path) -> str:
    from sqlalchemy import URL  # pyright: ignore[reportMissingImports]

    render: Callable[[], str] = URL.create("sqlite", database=str(path.absolute())).render_as_string
    return render()


def installed() -> Any:
    """Optuna; raises `ConfigError` where it is not installed."""
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "onward sweep needs Optuna, which is not installed; install it with `pip install optuna`, or Onward with "
            "its extra `sweep` (pip install 'onward[sweep]')"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
