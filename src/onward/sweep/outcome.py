"""A sweep as files: ``sweep.html``, ``sweep.json``, and ``best.toml``, with which `onward train` trains the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onward._durable import write_whole
from onward.report.page import Html, Section, facts, figure, grid, html, joined, page, paragraph, table
from onward.report.scatter import Dot, scatter
from onward.report.words import counted, percent
from onward.sweep.axes import Axis, Listed, Range, Value
from onward.sweep.folder import SweepFolder
from onward.sweep.plan import Plan
from onward.sweep.study import Study, Trial
from onward.train import toml
from onward.train.folder import write_json

PAGE, RECORD, BEST = "sweep.html", "sweep.json", "best.toml"
JUDGED = "held-out accuracy (%)"
CHOSEN = (
    "Trials are judged on a part of the training data that is held out. The best of many is above what it will do on "
    "data that nobody chose by: that is what its test accuracy says, which is known of the best trial alone."
)


@dataclass(frozen=True)
class Swept:
    """What a sweep came to; ``test_accuracy`` is the best trial's."""

    plan: Plan
    trials: tuple[Trial, ...]
    best: Trial | None
    test_accuracy: float | None

    @property
    def ranked(self) -> list[Trial]:
        """Trials that came to their end, best first, then the others."""
        return sorted(self.trials, key=lambda t: (t.state != "finished", -(t.accuracy or 0.0), t.place))


def swept(plan: Plan, folder: SweepFolder) -> Swept:
    """What the database in ``folder`` says."""
    study = Study(folder.database, plan)
    trials = study.trials()
    study.close()
    finished = [trial for trial in trials if trial.state == "finished"]
    best = max(finished, key=lambda trial: (trial.accuracy, -trial.place), default=None)
    return Swept(plan, tuple(trials), best, None if best is None else folder.test_accuracy(best.place))


def write(found: Swept, folder: SweepFolder) -> None:
    """Writes the page, the record, and the best configuration where there is one."""
    write_whole(folder.path / PAGE, page_of(found).encode())
    write_json(folder.path / RECORD, record(found, folder))
    if found.best is not None:
        config = found.plan.config(found.best.values)
        write_whole(folder.path / BEST, toml.dumps(config.model_dump()).encode())


def record(found: Swept, folder: SweepFolder) -> dict[str, Any]:
    """What ``sweep.json`` holds, and ``--json`` prints."""
    best = found.best
    return {
        "folder": str(folder.path),
        "page": str(folder.path / PAGE),
        "over": [axis.text for axis in found.plan.axes],
        "best": None
        if best is None
        else {
            **_told(best, folder),
            "test_accuracy": found.test_accuracy,
            "config": str(folder.path / BEST),
        },
        "trials": [_told(trial, folder) for trial in found.trials],
    }


def _told(trial: Trial, folder: SweepFolder) -> dict[str, Any]:
    run = folder.run_of(trial.place)
    return {
        "trial": trial.place,
        "values": dict(trial.values),
        "state": trial.state,
        "held_out_accuracy": trial.accuracy,
        "epochs": len(trial.accuracies),
        "run": None if run is None else str(run.path),
        "problem": trial.problem,
    }


def shown(value: Value) -> str:
    """A value in a table: four digits of a number.

    >>> shown(0.00123456), shown(64), shown("400 400")
    ('0.001235', '64', '400 400')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def page_of(found: Swept) -> str:
    """The page: nothing outside it is needed to show it."""
    base, states = found.plan.base, Counter(trial.state for trial in found.trials)
    ended = ", ".join(f"{number} {state}" for state, number in states.items())
    lead = paragraph(f"{len(found.trials)} of {counted(found.plan.count, 'trial')}: {ended}.")
    return page(f"Sweep of {base.data.name}, {base.model.name}", list(_sections(found)), lead)


def _sections(found: Swept) -> Iterator[Section]:
    yield Section("Best", _best(found), CHOSEN)
    if _seen(found.trials):
        yield Section("Over trials", _history(found), "The line is the best so far; rings were ended early.")
        pictures = [figure(_slice(axis, found.trials)) for axis in found.plan.axes]
        yield Section("By field", grid(pictures, 400), "Every dot is a trial, over the value of one field.")
    fields = [axis.field for axis in found.plan.axes]
    rows = [
        [trial.place, _accuracy(trial), *(shown(trial.values.get(field, "")) for field in fields), *_end(trial)]
        for trial in found.ranked
    ]
    yield Section("Trials", table(rows, ["trial", JUDGED, *fields, "epochs", "state"]))
    yield Section("Searched", table([[axis.field, axis.text.partition("=")[2]] for axis in found.plan.axes]))


def _best(found: Swept) -> Html:
    if found.best is None:
        return paragraph("No trial has come to its end.", "warning")
    best = found.best
    values = {field: (shown(value), "") for field, value in best.values.items()}
    numbers = {
        "held-out accuracy": (percent(best.accuracy), f"trial {best.place}, chosen by it"),
        "test accuracy": (percent(found.test_accuracy), "of the same weights"),
    }
    return joined(facts({**numbers, **values}), paragraph(html(f"Its configuration is {BEST}: onward train {BEST}")))


def _end(trial: Trial) -> tuple[int, str]:
    """Epochs, and how the trial ended."""
    return len(trial.accuracies), f"{trial.state}: {trial.problem}" if trial.problem else trial.state


def _accuracy(trial: Trial) -> str:
    return "" if trial.accuracy is None else f"{trial.accuracy:.2f}"


def _seen(trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    return [(trial, trial.accuracy) for trial in trials if trial.accuracy is not None and trial.state != "running"]


def _history(found: Swept) -> Html:
    dots, steps, best = list[Dot](), list[tuple[float, float]](), float("-inf")
    for trial, accuracy in _seen(found.trials):
        dots.append(_dot(trial, accuracy, trial.place))
        if trial.state == "finished":
            best = max(best, accuracy)
            steps.append((trial.place, best))
    return figure(scatter("Held-out accuracy over trials", dots, "trial", JUDGED, steps=steps))


def _slice(axis: Axis, trials: Sequence[Trial]) -> str:
    """Accuracy over the values of a field."""
    dots = [_dot(trial, accuracy, trial.values[axis.field]) for trial, accuracy in _seen(trials)]
    names, log = axis.values if isinstance(axis, Listed) else (), isinstance(axis, Range) and axis.log
    return scatter(axis.field, dots, axis.field, JUDGED, names=names, log=log)


def _dot(trial: Trial, accuracy: float, x: Value) -> Dot:
    return Dot(
        x, accuracy, f"trial {trial.place}: {accuracy:.2f} %, {settings(trial.values)}", trial.state == "finished"
    )


def settings(values: Mapping[str, Value]) -> str:
    """Values in one line."""
    return ", ".join(f"{field} {shown(value)}" for field, value in values.items())
