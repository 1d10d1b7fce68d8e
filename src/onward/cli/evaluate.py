"""``onward eval``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onward.cli.output import Json, console, emit
from onward.train import RunFolder, evaluate_run
from onward.train.source import evaluation_data

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def evaluate(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
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
    json: Json = False,
) -> None:
    """Tests a trained network. Further --data.FIELD flags say how the data is read, as in `onward train`."""
    folder = RunFolder.open(run)
    result = evaluate_run(folder, evaluation_data(folder.config(), data, split, tokens, task), device)
    low, high = result.interval
    out = console(json)
    out.print(
        f"Accuracy {result.test_accuracy:.2f} % on {result.samples:,} samples of {result.data} "
        f"(95 % interval {low:.2f} to {high:.2f}), loss {result.test_loss:.4f}, "
        f"{result.samples_per_second:,.0f} samples/s",
        soft_wrap=True,
    )
    emit(json, asdict(result))
