"""``onward eval``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from onward.cli.output import Json, console, emit
from onward.export import file_subject
from onward.train import Members, RunFolder, examine, members_of, subject_of
from onward.train.source import evaluation_data

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def evaluate(
    run: Annotated[Path, Parameter(help="The folder of a run, or a file that `onward pack` or `export nir` wrote.")],
    /,
    *tokens: Tokens,
    data: Annotated[str | None, Parameter(help="A data set's name, or an .npz file; default: the run's own.")] = None,
    split: Annotated[
        str | None,
        Parameter(
            name="--data.split",
            help="Which part: of a file, the recordings of that split (default: all rows); "
            "of a named set, train or test (default: test).",
        ),
    ] = None,
    task: Annotated[int | None, Parameter(help="Of a stream of tasks: which one, counted from 1.")] = None,
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:N.")] = "cpu",
    members: Annotated[
        bool, Parameter(negative="", help="Test every time step by itself, and the mean of the first of them.")
    ] = False,
    json: Json = False,
) -> None:
    """Tests a network, packed or not; further --data.FIELD flags say how the data is read, as in `onward train`."""
    subject = file_subject(run, device) if run.is_file() else subject_of(RunFolder.open(run), device)
    samples = evaluation_data(subject.config, data, split, tokens, task)
    result = examine(subject, samples, device)
    low, high = result.interval
    out = console(json)
    out.print(
        f"Accuracy {result.test_accuracy:.2f} % on {result.samples:,} samples of {result.data} "
        f"(95 % interval {low:.2f} to {high:.2f}), loss {result.test_loss:.4f}, "
        f"{result.samples_per_second:,.0f} samples/s",
        soft_wrap=True,
    )
    found = members_of(subject, samples, device) if members else None
    if found is not None:
        out.print(_table(found))
        out.print(_closing(found), soft_wrap=True)
    emit(json, {**asdict(result), **({} if found is None else {"members": {**asdict(found), "gain": found.gain}})})


def _table(found: Members) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("step", "alone", "mean of steps so far", "says otherwise than all"):
        table.add_column(name, justify="right")
    for t, shares in enumerate(zip(found.alone, found.together, found.astray, strict=True), 1):
        table.add_row(str(t), *(f"{share:.2f} %" for share in shares))
    return table


def _closing(found: Members) -> str:
    steps = len(found.alone)
    return (
        f"The mean of {steps} steps gains {found.gain:+.2f} points over a step by itself; two steps disagree on "
        f"{found.disagreement:.2f} % of the samples."
    )
