"""What the runs of each row come to: one line a row, in words, as JSON, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from onward.comparison.estimates import Estimate, estimate
from onward.comparison.folder import Result
from onward.comparison.rows import Plan
from onward.train.config import RunConfig
from onward.train.folder import METRICS

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """One training of a row: its summary, and the lines of its metrics where they can be read here."""

    answer: Mapping[str, Any]
    metrics: Metrics
    config: RunConfig


@dataclass(frozen=True)
class Measure:
    """A column: ``read`` finds its number in a run, or None; ``digits`` are shown behind the point."""

    key: str
    title: str
    digits: int
    read: Callable[[Run], float | None]


@dataclass(frozen=True)
class Line:
    """A row, or a row tested on further data: the measures over its seeds, by key, and accuracies by seed."""

    label: str
    seeds: tuple[int, ...]
    accuracies: Mapping[int, float]
    measures: Mapping[str, Estimate]
    runs: tuple[Run, ...] = ()


def _plain(name: str, scale: float = 1.0) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        found = _number(run.answer.get(name))
        return None if found is None else found * scale

    return read


def _update(run: Run) -> float | None:
    pace = _number(run.answer.get("samples_per_second"))
    return 1000 * run.config.train.batch_size / pace if pace else None


def _rate(run: Run) -> float | None:
    """The mean over layers of the last firing rates, on test data where there was a test."""
    for line in reversed(run.metrics):
        rates = (line.get("score") or {}).get("rates") or line.get("rates") or {}
        if rates:
            return mean(rates.values())
    return None


def cosine_of(line: Mapping[str, Any]) -> float | None:
    """The mean over layers of an epoch's cosines between a rule's gradients and those of back-propagation."""
    told = {**(line.get("rule") or {}), **(line.get("alignment") or {})}
    cosines = [value for name, value in told.items() if name.startswith(("alignment", "cosine"))]
    return mean(cosines) if cosines else None


def _alignment(run: Run) -> float | None:
    return next((cosine for line in reversed(run.metrics) if (cosine := cosine_of(line)) is not None), None)


def _within(table: str, name: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        found = run.answer.get(table)
        return _number(found.get(name)) if isinstance(found, Mapping) else None

    return read


ACCURACY = Measure("test_accuracy", "test accuracy (%)", 2, _plain("test_accuracy"))
MEASURES = (
    ACCURACY,
    Measure("test_loss", "test loss", 4, _plain("test_loss")),
    Measure("backward", "BWT (points)", 2, _within("stream", "backward")),
    Measure("peak_mib", "peak memory (MiB)", 1, _plain("peak_bytes", 2**-20)),
    Measure("update_ms", "time per update (ms)", 2, _update),
    Measure("seconds", "seconds a run", 0, _plain("seconds")),
    Measure("rate", "spikes per neuron and step", 4, _rate),
    Measure("spikes", "spikes a sample", 0, _within("energy", "spikes")),
    Measure("synaptic_operations", "synaptic operations a sample", 0, _within("energy", "synaptic_operations")),
    Measure("energy_nj", "energy a sample (nJ, estimated)", 1, _within("energy", "nanojoules")),
    Measure("alignment", "cosine to BP's gradients", 3, _alignment),
)
"""All columns there are; those that no run has a number for are left out."""
COSTS = ("peak_mib", "rate", "spikes", "synaptic_operations", "energy_nj")
"""What a row takes, by key: the measures that do not depend on what else the machine does."""


def lines(plan: Plan, results: Mapping[str, Result]) -> list[Line]:
    """A line for each row that has results, in the order of the plan, tests on further data right behind it."""
    found = []
    for row in plan.rows:
        own = [result for result in results.values() if result.row == row.label]
        for on in dict.fromkeys(["", *sorted(result.on for result in own)]):
            tests = {r.seed: r for r in own if r.on == on and r.seed in plan.seeds}
            if tests:
                label = f"{row.label} on {on}" if on else row.label
                found.append(_line(label, {s: tests[s] for s in sorted(tests)}, row.config))
    return found


def _line(label: str, tests: Mapping[int, Result], config: RunConfig) -> Line:
    runs = {seed: Run(test.answer, () if test.on else _metrics(test.answer), config) for seed, test in tests.items()}
    measured = {measure.key: [measure.read(run) for run in runs.values()] for measure in MEASURES}
    known = {key: [v for v in values if v is not None] for key, values in measured.items()}
    accuracies = {seed: value for seed, run in runs.items() if (value := ACCURACY.read(run)) is not None}
    estimates = {key: estimate(values) for key, values in known.items() if values}
    return Line(label, tuple(tests), accuracies, estimates, tuple(runs.values()))


def _metrics(answer: Mapping[str, Any]) -> Metrics:
    path, found = Path(str(answer.get("run", ""))) / METRICS, []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict):
                found.append(line)
    return found


def shown_measures(told: Iterable[Line]) -> list[Measure]:
    """The columns that some line has a number for."""
    present = {key for line in told for key in line.measures}
    return [measure for measure in MEASURES if measure.key in present]


def words(found: Estimate | None, digits: int, plus_minus: str = " ± ") -> str:
    """A mean with half of its 95 % interval.

    >>> words(estimate([98.47, 98.48, 98.5]), 2)
    '98.48 ± 0.04'
    """
    if found is None:
        return ""
    margin = "" if found.margin is None else f"{plus_minus}{found.margin:,.{digits}f}"
    return f"{found.mean:,.{digits}f}{margin}"


def costs(line: Line) -> dict[str, float]:
    """The means of what a row takes, as its columns show them."""
    return {m.key: round(line.measures[m.key].mean, m.digits) for m in cost_columns([line.measures])}


def cost_columns(known: Iterable[Mapping[str, Any]]) -> list[Measure]:
    """The columns of costs that something is known of."""
    present = {key for one in known for key in one}
    return [measure for measure in MEASURES if measure.key in COSTS and measure.key in present]


def as_json(told: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines as plain tables."""
    return [
        {
            "label": line.label,
            "seeds": line.seeds,
            "accuracies": [line.accuracies.get(seed) for seed in line.seeds],
            **{key: {"mean": e.mean, "margin": e.margin, "values": e.values} for key, e in line.measures.items()},
        }
        for line in told
    ]


def as_csv(told: Sequence[Line]) -> str:
    """A line for each row: mean and half interval of every measure."""
    out, columns = io.StringIO(), shown_measures(told)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "seeds", *(name for m in columns for name in (m.key, f"{m.key}_margin"))])
    for line in told:
        pairs = [line.measures.get(m.key) for m in columns]
        numbers = [n for e in pairs for n in ((e.mean, e.margin) if e else (None, None))]
        writer.writerow(
            [_no_formula(line.label), len(line.seeds), *("" if n is None else f"{n:.10g}" for n in numbers)]
        )
    return out.getvalue()


def as_latex(told: Sequence[Line]) -> str:
    """A tabular for \\usepackage{booktabs}."""
    columns = shown_measures(told)
    head = " & ".join(["row", "seeds", *(latex(m.title) for m in columns)])
    body = [
        " & ".join([latex(line.label), str(len(line.seeds)), *(_cell(line.measures.get(m.key), m) for m in columns)])
        for line in told
    ]
    rules = ("\\toprule", f"{head} \\\\", "\\midrule", *(f"{line} \\\\" for line in body), "\\bottomrule")
    aligned = "r" * (len(columns) + 1)
    return "\n".join([f"\\begin{{tabular}}{{l{aligned}}}", *rules, "\\end{tabular}\n"])


def _cell(found: Estimate | None, measure: Measure) -> str:
    number = words(found, measure.digits, r" \pm ").replace(",", "{,}")
    return f"${number}$" if number else "--"


def latex(text: str) -> str:
    """``text`` as LaTeX sets it.

    >>> latex("50 % of a_b")
    '50 \\\\% of a\\\\_b'
    """
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _no_formula(label: str) -> str:
    """A label that no spreadsheet takes for a formula."""
    return f"'{label}" if label.startswith(("=", "+", "-", "@", "\t", "\r")) else label


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
