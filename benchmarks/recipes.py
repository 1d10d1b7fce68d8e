"""Runs a recipe: every row with every seed, then a table; ``--write`` puts the results into the recipe's file, and
``--curves`` draws how training went.

    python -m benchmarks.recipes recipes/mnist-mlp.toml [--rows BP OPZO] [--seeds 0 1] [--jobs 2]
        [--device cuda] [--to FOLDER] [--write] [--curves FOLDER]

A recipe is a configuration that ``onward train RECIPE`` accepts. Its table ``[recipe]`` lists rows (flags on top of
the configuration), seeds, and what must come out. A row that ``starts`` from another, further up, goes on with the
network that the other learned with the same seed; one that has another as its ``teacher`` learns from it. Each
training is one ``onward train --json`` process; ``onward compare RECIPE`` runs the same and draws a page. Recipes
at published size say that they need a GPU; whether the device and the data are there is looked at before anything is
trained.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from onward.comparison import ComparisonFolder, Line, Plan, compare, lines
from onward.comparison.outcome import learning_curves
from onward.comparison.rows import RecipeRow, chosen, configured, read_recipe
from onward.comparison.table import costs
from onward.core.errors import DataError, OnwardError
from onward.data import datasets
from onward.launch import Local, Outcome
from onward.train import parse_tokens
from onward.train.networks import check_device

MARK = "# Results, written by `python -m benchmarks.recipes`."


@dataclass(frozen=True)
class Host:
    """What each training runs on."""

    threads: int
    device: str

    def __str__(self) -> str:
        """The class of machine: nothing that names it."""
        return f"{machine(self.device)}, {self.threads} thread(s) a run"


@dataclass(frozen=True)
class Result:
    """Test accuracies in percent, one a seed; of a stream of tasks their mean at the end, and BWT in ``backward``."""

    label: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float
    samples: int = 10_000
    backward: tuple[float, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """A line of the table."""
        spread = f"{min(self.accuracies):.2f} to {max(self.accuracies):.2f}"
        kept = f"{mean(self.backward):.2f}" if self.backward else ""
        cells = (self.label, f"{mean(self.accuracies):.2f}", spread, kept, len(self.seeds), f"{self.seconds:.0f}")
        return f"| {' | '.join(map(str, cells))} |"


def check(path: Path, recipe: Mapping[str, Any], rows: list[RecipeRow], device: str) -> None:
    """Raises `OnwardError` in words where the recipe needs a GPU, or a row needs data, that is not there."""
    if recipe.get("needs") == "gpu" and device == "cpu":
        seen = f"torch sees {torch.cuda.device_count() or 'none'} here"
        raise OnwardError(
            f"{path} has the size that was published, and needs a GPU: add --device cuda ({seen}). To try it on a CPU, "
            f"run `onward train {path}` with flags that make it smaller"
        )
    check_device(device)
    for row in rows:
        data = parse_tokens([str(path), *row.flags]).data
        try:
            datasets.entry(data.name).facts["locate"](data)
        except DataError as missing:
            wanted = recipe.get("dataset", data.name)
            raise OnwardError(f"{path} needs {wanted}, which is not there: {missing}") from None


def run(
    path: Path, labels: list[str] | None, seeds: list[int] | None, jobs: int, host: Host, to: Path | None = None
) -> list[Line]:
    """Trains rows of a recipe; leaves with a message where something is missing."""
    try:
        recipe, rows = read_recipe(path)
        rows = chosen(rows, labels)
        check(path, recipe, rows, host.device)
    except OnwardError as error:
        raise SystemExit(str(error)) from None
    these = configured(path, rows, ["--device", host.device])
    plan = Plan(recipe["title"], these, tuple(seeds or recipe["seeds"]), host.threads)
    folder = ComparisonFolder(to) if to else ComparisonFolder.create(Path("runs"), plan)
    return collect(plan, folder, jobs, host)


def collect(plan: Plan, folder: ComparisonFolder, jobs: int, host: Host) -> list[Line]:
    """All trainings, ``jobs`` at a time; leaves with a message where one failed."""
    folder.begin(plan)
    failed = compare(plan, folder, Local(jobs * host.threads), told)
    if failed:
        raise SystemExit("\n".join(f"{outcome.name} failed: {outcome.problem}" for outcome in failed))
    return lines(plan, folder.results(plan))


def result_of(line: Line) -> Result:
    """A line of a comparison as a recipe's file keeps it."""
    first = line.runs[0].answer
    seconds, backward = line.measures.get("seconds"), line.measures.get("backward")
    return Result(
        line.label,
        line.seeds,
        line.measures["test_accuracy"].values,
        seconds.mean if seconds else 0.0,
        first.get("samples", 10_000),
        backward.values if backward else (),
        costs(line),
    )


def told(outcome: Outcome, ended: int, jobs: int) -> None:
    """Says what a job came to."""
    came = f"{outcome.answer['test_accuracy']:.2f} %" if outcome.answer else outcome.problem
    print(f"{ended} of {jobs}: {outcome.name}: {came}", file=sys.stderr, flush=True)


def machine(device: str = "cpu") -> str:
    """Cores, architecture and processor of products: a class of machine, nothing that names one."""
    processor = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores, {platform.machine()}, {processor}"


def write(path: Path, results: list[Result], host: Host) -> None:
    """Replaces the results in the recipe's file; rows that were not run again stay."""
    held = results_in(path)
    for result in results:
        held[result.label] = {
            "label": result.label,
            "seeds": list(result.seeds),
            "accuracies": [round(a, 2) for a in result.accuracies],
            "mean": round(mean(result.accuracies), 2),
            **({"backward": [round(b, 2) for b in result.backward]} if result.backward else {}),
            **({"costs": dict(result.costs)} if result.costs else {}),
            "samples": result.samples,
            "seconds": round(result.seconds),
            "date": date.today().isoformat(),
            "machine": str(host),
        }
    rewrite(path, held)


def results_in(path: Path) -> dict[str, dict[str, Any]]:
    """The results in a recipe's file, by label."""
    return {entry["label"]: entry for entry in tomllib.loads(path.read_text())["recipe"].get("result", [])}


def rewrite(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts these results in the place of those in the recipe's file."""
    lines = [path.read_text().split(MARK)[0].rstrip(), "", MARK]
    for entry in results.values():
        lines += ["", "[[recipe.result]]", *(f"{key} = {as_toml(value)}" for key, value in entry.items())]
    path.write_text("\n".join(lines) + "\n")


def as_toml(value: object) -> str:
    """A value of a result: TOML writes them as JSON does, but for tables.

    >>> as_toml({"peak_mib": 1.5})
    '{ peak_mib = 1.5 }'
    """
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {json.dumps(number)}' for key, number in value.items())} }}"
    return json.dumps(value)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", nargs="*", help="labels of the rows to run; default: all")
    parser.add_argument("--seeds", nargs="*", type=int, help="default: the recipe's")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each training")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--to", type=Path, help="a folder; named again, only what is missing in it is run")
    parser.add_argument("--write", action="store_true", help="put the results into the recipe's file")
    parser.add_argument("--curves", type=Path, help="a folder for RECIPE-loss.svg and the like, by epoch")
    asked = parser.parse_args()
    host = Host(asked.threads, asked.device)
    found = run(asked.recipe, asked.rows, asked.seeds, asked.jobs, host, asked.to)
    results = [result_of(line) for line in found]
    print("| row | mean % | range | BWT | seeds | seconds a run |\n|---|---|---|---|---|---|")
    print("\n".join(result.line for result in results))
    if asked.write:
        write(asked.recipe, results, host)
    for name, picture in learning_curves(found).items() if asked.curves else ():
        (asked.curves / f"{asked.recipe.stem}-{name}.svg").write_text(picture)


if __name__ == "__main__":
    main()
