"""Writes docs/credit-table.md, rules x networks x data, and lets a rule of yours join it.

    python -m benchmarks.credit_table [--time] [--recipes mnist-mlp ...]
    python -m benchmarks.credit_table --add RULE [--label LABEL] [--recipes mnist-mlp ...] [--jobs 2]
        [--rule.FIELD VALUE ...]

``--add`` appends a row to every recipe of the table, or to those named, trains it with their seeds, and measures its
updates; ``--time`` measures the updates of all rows. Then the table is written, and docs/reproductions.md with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.recipes import MARK, Host, result_of, results_in, rewrite, run, write
from benchmarks.updates import Update, take_turns
from onward.comparison.credit_table import credit_table
from onward.comparison.index import index
from onward.comparison.reproduction import every
from onward.comparison.rows import Row, configured, read_recipe
from onward.train import assemble

ROOT = Path(__file__).parent.parent
TURNS = 7


def updates(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Time of an update as a multiple of the first row's, and its peak in MiB; rows take turns."""
    found = [Update(row.label, assemble(row.config)[0]) for row in rows]
    peaks = {update.label: update.peak() for update in found}
    take_turns(found, TURNS)
    first = found[0].milliseconds
    return {u.label: {"time": round(u.milliseconds / first, 2), "mib": round(peaks[u.label], 1)} for u in found}


def measure(path: Path, labels: Sequence[str] | None = None) -> None:
    """Puts what updates take into the results of a recipe, of all rows that have a result and use no other run."""
    held, (_, rows) = results_in(path), read_recipe(path)
    able = [row for row in rows if row.label in held and not row.uses]
    wanted = [row for row in able if labels is None or row is able[0] or row.label in labels]
    for label, took in updates(configured(path, wanted)).items():
        held[label]["update"] = took
    rewrite(path, held)


def add(path: Path, label: str, flags: Sequence[str], host: Host, jobs: int) -> None:
    """A row that a recipe did not have: written into its file, trained, measured."""
    head, mark, tail = path.read_text().partition(MARK)
    if label not in {row.label for row in read_recipe(path)[1]}:
        row = f"[[recipe.row]]\nlabel = {json.dumps(label)}\nflags = {json.dumps(list(flags))}\n\n"
        path.write_text(f"{head.rstrip()}\n\n{row}{mark}{tail}")
    write(path, [result_of(line) for line in run(path, [label], None, jobs, host)], host)
    measure(path, [label])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", metavar="RULE", help="a rule that joins the table")
    parser.add_argument("--label", help="what its row is called; default: the rule's name")
    parser.add_argument("--recipes", nargs="*", help="names; default: all of the table")
    parser.add_argument("--time", action="store_true", help="measure the updates of all rows anew")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--folder", type=Path, default=ROOT / "recipes", help="where the recipes are")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the table goes")
    asked, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    known = [one for one in every(asked.folder) if one.table and (not asked.recipes or one.name in asked.recipes)]
    if not known:
        raise SystemExit(f"no recipe of the table is called {' or '.join(asked.recipes or ())}")
    for one in known:
        if asked.add:
            add(one.path, asked.label or asked.add, ["--rule", asked.add, *flags], Host(1, "cpu"), asked.jobs)
        elif asked.time:
            measure(one.path)
    found = every(asked.folder)
    (asked.docs / "credit-table.md").write_text(credit_table(found), encoding="utf-8")
    (asked.docs / "reproductions.md").write_text(index(found), encoding="utf-8")


if __name__ == "__main__":
    main()
