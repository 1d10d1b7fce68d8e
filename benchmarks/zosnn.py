"""Losses of every mini-batch under several optimisers: the curves of the ZO-SNN project, with accuracy beside them.

    python -m benchmarks.zosnn recipes/zo-snn-linear20.toml [--rows LSTM Adam] [--seeds 0 1 2] [--out FOLDER]
        [--device cuda] [--again]

Trains every row of the recipe with every seed, prints means over seeds of windows of 50 iterations that end at 50,
100, 200, 400 and 800, of the last 100, and the test accuracy; published numbers stand in brackets. Draws the curves.
Losses are kept in the folder, and what is there already is not trained again, unless with ``--again``.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from onward.core.errors import NonFiniteError
from onward.report import curves
from onward.train import BatchDone, Event, fit, parse_tokens
from onward.train.parts import assemble

ENDS, WIDTH, LAST, PUBLISHED = (50, 100, 200, 400, 800), 50, 100, (50, 200, 800)


class Losses:
    """The loss of every mini-batch, from the running means that training tells."""

    def __init__(self) -> None:
        self.each: list[float] = []
        self._total = 0.0

    def __call__(self, event: Event) -> None:
        """Sees an event."""
        if isinstance(event, BatchDone):
            total = event.loss * event.batch
            self.each.append(total - self._total)
            self._total = total


Run = dict[str, Any]
"""The losses of a training, its test accuracy in percent, and how it ended if it ended early."""


def trained(recipe: Path, flags: list[str], seed: int) -> Run:
    """Losses and test accuracy (in percent) of one training; a divergence ends it early."""
    parts, config = assemble(parse_tokens([str(recipe), *flags, "--seed", str(seed)]))
    losses = Losses()
    try:
        fitted = fit(parts, config.train, on_event=losses)
    except NonFiniteError as error:
        return {"losses": losses.each, "accuracy": None, "ended": str(error)}
    assert fitted.score is not None
    return {"losses": losses.each, "accuracy": fitted.score.accuracy, "ended": None}


def window(runs: list[Run], stop: int | None, width: int) -> float | None:
    """The mean loss over seeds of ``width`` mini-batches before ``stop``; None where a run did not get there."""
    if any(len(run["losses"]) < (stop or 1) or run["ended"] for run in runs):
        return None
    return mean(mean(run["losses"][(stop or len(run["losses"])) - width : stop]) for run in runs)


def table(found: dict[str, list[Run]], published: dict[str, list[float]]) -> str:
    """Rows of means, published numbers in brackets."""
    places = [str(end) for end in ENDS]
    lines = [f"| optimiser | {' | '.join(places)} | last 100 | test accuracy (%) |", f"|{'---|' * (len(ENDS) + 3)}"]
    for label, runs in found.items():
        told = dict(zip((*PUBLISHED, None), published.get(label, []), strict=False))
        cells = [_cell(window(runs, end, WIDTH), told.get(end)) for end in ENDS]
        cells.append(_cell(window(runs, None, LAST), told.get(None)))
        right = [run["accuracy"] for run in runs]
        cells.append("diverged" if None in right else f"{mean(right):.2f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, published: float | None) -> str:
    ours = "-" if value is None else f"{value:.3f}"
    return ours if published is None else f"{ours} ({published:.3f})"


def figure(title: str, found: dict[str, list[Run]], published: dict[str, list[float]]) -> str:
    """Curves of means over 50 iterations; what was published as lines of their own."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for label, runs in found.items():
        ends = range(WIDTH, min(len(run["losses"]) for run in runs) + 1, WIDTH)
        lines[label] = [(end, mean(mean(run["losses"][end - WIDTH : end]) for run in runs)) for end in ends]
        if label in published:
            lines[f"{label}, theirs"] = list(zip((*PUBLISHED, 1875), published[label], strict=True))
    return curves(lines, title, "mini-batches", "training loss")


class Kept:
    """Trainings of a recipe in a JSON file: those of each row, by seed."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[str, dict[str, Run]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def has(self, label: str, seed: int) -> bool:
        """Whether a row was trained with a seed."""
        return str(seed) in self.rows.get(label, {})

    def put(self, label: str, seed: int, run: Run) -> None:
        """Takes a training in, and writes the file."""
        self.rows.setdefault(label, {})[str(seed)] = run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.rows), encoding="utf-8")

    def found(self, labels: list[str]) -> dict[str, list[Run]]:
        """What there is of ``labels``, in the order of seeds."""
        return {label: [run for _, run in sorted(self.rows[label].items())] for label in labels if label in self.rows}


def main() -> None:
    """Runs, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    recipe = tomllib.loads(asked.recipe.read_text(encoding="utf-8"))["recipe"]
    rows = {row["label"]: row["flags"] for row in recipe["row"] if asked.rows is None or row["label"] in asked.rows}
    kept = Kept(asked.out / f"{asked.recipe.stem}.json")
    seeds: list[int] = recipe["seeds"] if asked.seeds is None else asked.seeds
    for (label, flags), seed in product(rows.items(), seeds):
        if asked.again or not kept.has(label, seed):
            kept.put(label, seed, trained(asked.recipe, [*flags, "--device", asked.device], seed))
    found = kept.found(list(rows))
    print(table(found, recipe["curves"]))
    drawn = figure(recipe["title"], found, recipe["curves"])
    (asked.out / f"{asked.recipe.stem}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
