"""A stream of tasks, lesson by lesson, and what stays of the earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from onward.data.streams import StreamChoice
from onward.report import heatmap
from onward.train.config import RunConfig
from onward.train.events import OnEvent, Started, TasksTested
from onward.train.fit import fit
from onward.train.folder import RunFolder
from onward.train.leakage import leakage
from onward.train.parts import Parts, turned
from onward.train.rehearse import rehearse
from onward.train.score import score
from onward.train.state import Fitted

Matrix = Sequence[Sequence[float]]
"""Percent that are right: a row for every lesson, a column for every task."""


@dataclass(frozen=True)
class Retention:
    """What a stream came to, in percent; rows of ``matrix`` are lessons, the one before all of them first.

    With R[k][i] the accuracy on task i after lesson k, of K:

        accuracy  ACC = mean over i of R[K][i]
        backward  BWT = mean over i < K of R[K][i] - R[i][i]            forgetting, if negative
        forward   FWT = mean over i > 1 of R[i-1][i] - R[0][i]          what earlier tasks teach about the next

    ``backward`` and ``forward`` are None where all was learned at once, or there is one task only. ``leakage`` says how
    much each lesson changed the drives of earlier tasks, by synapse (see `onward.train.leakage`).
    """

    tasks: tuple[str, ...]
    matrix: Matrix
    accuracy: float
    backward: float | None
    forward: float | None
    leakage: Sequence[dict[str, float]] = ()


def retention(tasks: Sequence[str], matrix: Matrix, leaks: Sequence[dict[str, float]] = ()) -> Retention:
    """The measures of a ``matrix`` whose first row was taken before the first lesson.

    >>> found = retention(["a", "b"], [[50, 50], [90, 60], [80, 95]])
    >>> found.accuracy, found.backward, found.forward
    (87.5, -10.0, 10.0)
    """
    last, count = matrix[-1], len(tasks)
    one_by_one = len(matrix) == count + 1 > 2
    backward = _mean(last[i] - matrix[i + 1][i] for i in range(count - 1)) if one_by_one else None
    forward = _mean(matrix[i][i] - matrix[0][i] for i in range(1, count)) if one_by_one else None
    return Retention(tuple(tasks), matrix, _mean(last), backward, forward, leaks)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def learn(
    parts: Parts,
    config: RunConfig,
    start: Started,
    *,
    folder: RunFolder | None,
    fitted: Fitted,
    on_event: OnEvent,
    stop: Callable[[], bool],
) -> None:
    """Learns the lessons of ``parts.stream`` in turn, from where ``fitted`` stands.

    After each, all tasks are tested and a checkpoint is written. Every lesson starts with a fresh optimiser. What
    follows `fit` in a lesson (kept samples, tests) is done again from its start if it was cut short.
    """
    if not fitted.matrix:
        examine(parts, fitted, on_event)
        parts.sink.begin_task(0)
    while fitted.progress.lesson < len(parts.stream.lessons):
        on_event(replace(start, title=f"{start.title}, {_lesson(parts)}", batches=len(parts.loader)))
        fit(parts, config.train, folder=folder, fitted=fitted, on_event=on_event, stop=stop)
        if fitted.interrupted:
            return
        parts = close(parts, config, fitted, on_event)
        if folder is not None:
            folder.save(parts.trained, fitted, config.train.keep)


def close(parts: Parts, config: RunConfig, fitted: Fitted, on_event: OnEvent) -> Parts:
    """What is due after a lesson; the parts of the next one, if there is any."""
    progress, choice = fitted.progress, cast(StreamChoice, config.stream)
    parts.sink.end_task()
    earlier = [parts.tests[task] for lesson in parts.stream.lessons[: progress.lesson] for task in lesson]
    fitted.leaks.append(leakage(parts.net, parts.starts, earlier, parts.device, parts.chunk))
    if choice.replay and progress.lesson > 0:
        rehearse(parts, config)
    progress.lesson, progress.epoch, progress.batch = progress.lesson + 1, 0, 0
    examine(parts, fitted, on_event)
    if progress.lesson == len(parts.stream.lessons):
        return parts
    parts.sink.begin_task(progress.lesson)
    parts.starts.mark()
    return turned(parts, config, progress.lesson)


def _lesson(parts: Parts) -> str:
    """The lesson at hand, in words."""
    names = [parts.stream.names[number] for number in parts.stream.lessons[parts.lesson]]
    if len(parts.stream.lessons) == 1:
        return f"all {len(names)} tasks at once"
    return f"lesson {parts.lesson + 1} of {len(parts.stream.lessons)}: {names[0]}"


def examine(parts: Parts, fitted: Fitted, on_event: OnEvent) -> None:
    """Adds a row to the matrix: every task is tested, those to come as well."""
    row = [score(parts.net, parts.objective, loader, parts.device, parts.chunk).accuracy for loader in parts.tests]
    fitted.matrix.append(row)
    leaks = fitted.leaks[-1] if fitted.leaks else {}
    on_event(TasksTested(fitted.progress.lesson, dict(zip(parts.stream.names, row, strict=True)), leaks))


def figure(found: Retention, title: str) -> str:
    """The matrix as an SVG."""
    rows = {"before": found.matrix[0], **{f"after {k}": row for k, row in enumerate(found.matrix[1:], 1)}}
    return heatmap(rows, [str(k) for k in range(1, len(found.tasks) + 1)], title, "task", "accuracy (%)")
