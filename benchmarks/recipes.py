"""Runs a recipe: every row with every seed, then a table; ``--write`` puts the results into the recipe's file.

    python -m benchmarks.recipes recipes/mnist-mlp.toml [--rows BP OPZO] [--seeds 0 1] [--jobs 2]
        [--device cuda] [--write]

A recipe is a configuration that ``onward train RECIPE`` accepts. Its table ``[recipe]`` lists rows (flags on top of
the configuration), seeds, and what must come out. A row that ``starts`` from another, further up, goes on with the
network that the other learned with the same seed; one that has another as its ``teacher`` learns from it. Each
training is one ``onward train --json`` process. Recipes at published size say that they need a GPU; whether the device
and the data are there is looked at before anything is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from onward.core.errors import DataError, OnwardError
from onward.data import datasets
from onward.train import parse_tokens
from onward.train.networks import check_device

RUNS = {"starts": "--train.init-from", "teacher": "--distil.teacher"}
"""Keys of a row that name another one, and the flags that take its run."""

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
class Row:
    """One line of the recipe's table.

    ``evaluate`` are data of which the test accuracy is reported as well, ``uses`` the labels of rows whose runs it
    needs, by the flag that takes a run's folder.
    """

    label: str
    flags: tuple[str, ...]
    evaluate: tuple[str, ...] = ()
    uses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Test accuracies in percent, one a seed; of a stream of tasks their mean at the end, and BWT in ``backward``."""

    label: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float
    samples: int = 10_000
    backward: tuple[float, ...] = ()

    @property
    def line(self) -> str:
        """A line of the table."""
        spread = f"{min(self.accuracies):.2f} to {max(self.accuracies):.2f}"
        kept = f"{mean(self.backward):.2f}" if self.backward else ""
        cells = (self.label, f"{mean(self.accuracies):.2f}", spread, kept, len(self.seeds), f"{self.seconds:.0f}")
        return f"| {' | '.join(map(str, cells))} |"


def read(path: Path) -> tuple[dict, list[Row]]:
    """The table ``[recipe]`` of a file, and its rows."""
    recipe = tomllib.loads(path.read_text())["recipe"]
    return recipe, [as_row(row) for row in recipe["row"]]


def as_row(row: Mapping[str, Any]) -> Row:
    """A row as a recipe has it."""
    uses = {flag: row[key] for key, flag in RUNS.items() if key in row}
    return Row(row["label"], tuple(row.get("flags", ())), tuple(row.get("evaluate", ())), uses)


def chosen(rows: list[Row], labels: list[str] | None) -> list[Row]:
    """The rows of these ``labels`` and those whose runs they use; all rows where no label is given."""
    if not labels:
        return rows
    wanted = set(labels)
    for row in reversed(rows):
        if row.label in wanted:
            wanted.update(row.uses.values())
    return [row for row in rows if row.label in wanted]


def check(path: Path, recipe: Mapping[str, Any], rows: list[Row], device: str) -> None:
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


def onward(*arguments: str, threads: int) -> dict:
    """The last line of ``onward ARGUMENTS --json``."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "onward", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Found:
    """What one test of one training gave."""

    label: str
    seed: int
    accuracy: float
    seconds: float = 0.0
    samples: int = 10_000
    backward: float | None = None
    folder: str = ""


Trained = Mapping[tuple[str, int], "Future[list[Found]]"]
"""What comes of every row with every seed."""


def run(path: Path, row: Row, seed: int, host: Host, trained: Trained) -> list[Found]:
    """Trains one row with one seed; what came of its own test and of further data."""
    where = ("--device", host.device)
    runs = [(flag, trained[label, seed].result()[0].folder) for flag, label in row.uses.items()]
    said = onward("train", str(path), *row.flags, *chain(*runs), "--seed", str(seed), *where, threads=host.threads)
    kept = (said["stream"] or {}).get("backward")
    found = [Found(row.label, seed, said["test_accuracy"], said["seconds"], backward=kept, folder=said["run"])]
    for data in row.evaluate:
        told = onward("eval", said["run"], "--data", os.path.expandvars(data), *where, threads=host.threads)
        label = f"{row.label} on {Path(os.path.expandvars(data)).stem}"
        found.append(Found(label, seed, told["test_accuracy"], samples=told["samples"]))
    print(f"{row.label}, seed {seed}: {', '.join(f'{f.accuracy:.2f} %' for f in found)}", file=sys.stderr, flush=True)
    return found


def collect(path: Path, rows: list[Row], seeds: list[int], jobs: int, host: Host) -> list[Result]:
    """All trainings, ``jobs`` at a time."""
    futures: dict[tuple[str, int], Future[list[Found]]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for row, seed in product(rows, seeds):  # rows that others use come first, so that nobody waits in vain
            futures[row.label, seed] = pool.submit(run, path, row, seed, host, futures)
        flat = [found for future in futures.values() for found in future.result()]
    labels = list(dict.fromkeys(found.label for found in flat))
    grouped = {label: [found for found in flat if found.label == label] for label in labels}
    return [
        Result(
            label,
            tuple(found.seed for found in tests),
            tuple(found.accuracy for found in tests),
            mean(found.seconds for found in tests),
            tests[0].samples,
            tuple(found.backward for found in tests if found.backward is not None),
        )
        for label, tests in grouped.items()
    ]


def machine(device: str = "cpu") -> str:
    """Cores, architecture and processor of products: a class of machine, nothing that names one."""
    processor = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores, {platform.machine()}, {processor}"


def write(path: Path, results: list[Result], host: Host) -> None:
    """Replaces the results in the recipe's file; rows that were not run again stay."""
    text = path.read_text()
    head = text.split(MARK)[0].rstrip()
    held = {entry["label"]: entry for entry in tomllib.loads(text)["recipe"].get("result", [])}
    for result in results:
        held[result.label] = {
            "label": result.label,
            "seeds": list(result.seeds),
            "accuracies": [round(a, 2) for a in result.accuracies],
            "mean": round(mean(result.accuracies), 2),
            **({"backward": [round(b, 2) for b in result.backward]} if result.backward else {}),
            "samples": result.samples,
            "seconds": round(result.seconds),
            "date": date.today().isoformat(),
            "machine": str(host),
        }
    lines = [head, "", MARK]
    for entry in held.values():
        lines += ["", "[[recipe.result]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", nargs="*", help="labels of the rows to run; default: all")
    parser.add_argument("--seeds", nargs="*", type=int, help="default: the recipe's")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each training")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--write", action="store_true", help="put the results into the recipe's file")
    asked = parser.parse_args()
    host = Host(asked.threads, asked.device)
    recipe, rows = read(asked.recipe)
    rows = chosen(rows, asked.rows)
    try:
        check(asked.recipe, recipe, rows, asked.device)
    except OnwardError as error:
        raise SystemExit(str(error)) from None
    results = collect(asked.recipe, rows, asked.seeds or recipe["seeds"], asked.jobs, host)
    print("| row | mean % | range | BWT | seeds | seconds a run |\n|---|---|---|---|---|---|")
    print("\n".join(result.line for result in results))
    if asked.write:
        write(asked.recipe, results, host)


if __name__ == "__main__":
    main()
