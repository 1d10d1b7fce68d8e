"""``onward eval``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from onward.cli.output import Json, console, emit
from onward.data import Dataset
from onward.energy.neurobench import Metrics
from onward.energy.neurobench import neurobench as metrics_of
from onward.export import file_subject
from onward.train import Members, RunFolder, Subject, examine, members_of, subject_of
from onward.train.folder import write_json
from onward.train.launch import to_test
from onward.train.source import evaluation_data

METRICS = "metrics.json"
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
    neurobench: Annotated[
        bool, Parameter(negative="", help="Write NeuroBench's metrics as metrics.json, beside the network.")
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
    told: dict[str, Any] = {} if found is None else {"members": {**asdict(found), "gain": found.gain}}
    if neurobench:
        metrics, place = neurobench_of(subject, samples, result.test_accuracy, device), _beside(run)
        write_json(place, metrics)
        out.print(_metrics(metrics))
        out.print(f"NeuroBench's metrics are in {place}", soft_wrap=True)
        told["neurobench"] = metrics
    emit(json, {**asdict(result), **told})


def neurobench_of(subject: Subject, samples: Dataset, accuracy: float, device: str) -> Metrics:
    """NeuroBench's metrics of a network on data, of which ``accuracy`` percent is right."""
    loader, chunk = to_test(subject, samples)
    return metrics_of(subject.net, loader, accuracy / 100, device, chunk)


def _beside(run: Path) -> Path:
    """``metrics.json`` in a run's folder; beside a file, by its name."""
    return run.with_name(f"{run.name}.{METRICS}") if run.is_file() else run / METRICS


def _metrics(metrics: Metrics) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in metrics.items():
        for part, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            table.add_row(f"{name} {part}".strip(), f"{number:,.4f}" if number < 1 else f"{number:,.0f}")
    return table


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
