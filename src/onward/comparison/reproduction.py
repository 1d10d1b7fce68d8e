"""Published results as recipes: what was published, what came out here, and whether that is what must come out."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from onward.comparison.estimates import estimate
from onward.comparison.rows import RecipeRow, as_row
from onward.comparison.table import Line, cost_columns, costs, words
from onward.core.errors import ConfigError, UnknownName
from onward.train import toml

HOLDS, FAILS, OPEN = "holds", "does not hold", "not run"
MEASURES = {"accuracies": "%", "backward": "points of BWT", "last": "mean of the last 100 losses"}
"""What results are given in, and by which word."""


@dataclass(frozen=True)
class Found:
    """What one row came to: values by measure, one a seed (of ``last``, the mean alone), and what it took.

    ``costs`` are of a whole training, ``update`` of one update: ``time`` beside the first row's, and peak ``mib``.
    """

    label: str
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    date: str = ""
    machine: str = ""
    costs: Mapping[str, float] = field(default_factory=dict)
    update: Mapping[str, float] = field(default_factory=dict)

    def value(self, measure: str) -> float | None:
        """The mean over seeds."""
        return mean(self.values[measure]) if self.values.get(measure) else None

    @property
    def told(self) -> str:
        """All measures, in words."""
        units = {"accuracies": " %", "backward": " points BWT", "last": " last losses"}
        return ", ".join(
            words(estimate(values), 3 if measure == "last" else 2) + units[measure]
            for measure, values in self.values.items()
            if values
        )


@dataclass(frozen=True)
class Check:
    """Something that must come out: a row's measure, less that of row ``of`` where there is one, within bounds.

    With ``than`` it is the distance of a row from ``of`` as a share of the distance of row ``than``.
    """

    says: str
    row: str
    of: str = ""
    than: str = ""
    measure: str = "accuracies"
    at_least: float | None = None
    at_most: float | None = None
    within: float | None = None

    def verdict(self, found: Mapping[str, Found]) -> str:
        """Whether it holds for what was found; `OPEN` where a row was not run."""
        own, other = self._value(found, self.row), self._value(found, self.of) if self.of else 0.0
        scale = self._value(found, self.than) if self.than else 0.0
        if own is None or other is None or scale is None:
            return OPEN
        number = round((own - other) / (scale - other) if self.than else own - other, 6)
        bounds = [(operator.ge, self.at_least), (operator.le, self.at_most)]
        holds = all(compare(number, bound) for compare, bound in bounds if bound is not None)
        return HOLDS if holds and (self.within is None or abs(number) <= self.within) else FAILS

    def _value(self, found: Mapping[str, Found], label: str) -> float | None:
        return found[label].value(self.measure) if label in found else None


@dataclass(frozen=True)
class Reproduction:
    """One recipe; ``by`` is the command that runs it where ``onward reproduce`` cannot.

    Recipes with the same ``table`` have rows in common, which the index shows side by side.
    """

    name: str
    path: Path
    title: str
    published: str
    must: str
    rows: tuple[RecipeRow, ...]
    seeds: tuple[int, ...]
    by: str = ""
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    found: Mapping[str, Found] = field(default_factory=dict)
    published_rows: Mapping[str, str] = field(default_factory=dict)
    table: str = ""

    @property
    def verdict(self) -> str:
        """In words, what the checks came to."""
        verdicts = [check.verdict(self.found) for check in self.checks]
        held, failed, unknown = (verdicts.count(word) for word in (HOLDS, FAILS, OPEN))
        if not self.found:
            return "not run"
        if not verdicts:
            return "run; nothing that a number decides"
        rest = f"; {unknown} of {len(verdicts)} not run" if unknown else ""
        if failed:
            return f"not reached: {failed} of {len(verdicts)} checks {'fail' if failed > 1 else 'fails'}{rest}"
        return f"reached{rest}" if held else "not run"

    def settings(self, label: str) -> str:
        """The flags of the row that ``label`` belongs to."""
        row = max(
            (row for row in self.rows if label.startswith(row.label)), key=lambda row: len(row.label), default=None
        )
        return " ".join(row.flags) if row else ""

    def published_for(self, label: str) -> str:
        """The published number that belongs beside a row."""
        return self.published_rows.get(label, "none for this setting")


def read(path: Path) -> Reproduction:
    """The reproduction in a recipe's file; raises `ConfigError` where its table is not as it should be."""
    recipe = toml.read(path).get("recipe", {})
    try:
        curves = {label: f"{points[-1]:.3f} last losses" for label, points in recipe.get("curves", {}).items()}
        own = {row["label"]: row["published"] for row in recipe["row"] if "published" in row}
        return Reproduction(
            path.stem,
            path,
            recipe["title"],
            recipe["published"],
            recipe["must"],
            tuple(map(as_row, recipe["row"])),
            tuple(recipe["seeds"]),
            recipe.get("by", ""),
            tuple(Check(**check) for check in recipe.get("check", ())),
            tuple(recipe.get("notes", ())),
            {result["label"]: _recorded(result) for result in recipe.get("result", ())},
            {**curves, **own},
            recipe.get("table", ""),
        )
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{path}: [recipe] is not a reproduction: {type(error).__name__}, {error}") from None


def _recorded(result: Mapping[str, Any]) -> Found:
    values = {"accuracies": result["accuracies"], "backward": result.get("backward", [])}
    last = {"last": (result["last"],)} if "last" in result else {}
    told = {name: tuple(given) for name, given in values.items() if given}
    costs = {name: float(value) for name, value in result.get("costs", {}).items()}
    return Found(
        result["label"],
        tuple(result["seeds"]),
        {**told, **last},
        result["date"],
        result["machine"],
        costs,
        {name: float(value) for name, value in result.get("update", {}).items()},
    )


def fresh(lines: Sequence[Line]) -> dict[str, Found]:
    """What a comparison found, as a reproduction keeps it."""
    measures = {"accuracies": "test_accuracy", "backward": "backward"}
    return {
        line.label: Found(
            line.label,
            line.seeds,
            {name: line.measures[key].values for name, key in measures.items() if key in line.measures},
            costs=costs(line),
        )
        for line in lines
    }


def every(folder: Path) -> list[Reproduction]:
    """All recipes in a folder; raises `ConfigError` where there are none."""
    paths = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    if not paths:
        raise ConfigError(
            f"{folder} has no recipes; they come with the source checkout: run this there, or name their folder with "
            "--recipes FOLDER"
        )
    return [read(path) for path in paths]


def named(name: str, folder: Path) -> Reproduction:
    """The recipe called ``name``; raises `UnknownName`."""
    known = {reproduction.name: reproduction for reproduction in every(folder)}
    if name not in known:
        raise UnknownName("reproduction", name, known)
    return known[name]


def table_of(reproduction: Reproduction) -> Iterator[tuple[str, str, str, str]]:
    """row | published | ours | settings, of every row and test that has a result."""
    for label, found in reproduction.found.items():
        ours = f"{found.told} ({len(found.seeds)} seed{'s' * (len(found.seeds) > 1)})"
        yield label, reproduction.published_for(label), ours, reproduction.settings(label)


def costs_of(reproduction: Reproduction) -> list[tuple[str, ...]]:
    """A heading, then a line for each row whose costs are known; empty where none are."""
    found = [one for one in reproduction.found.values() if one.costs]
    columns = cost_columns(one.costs for one in found)

    def cells(one: Found) -> tuple[str, ...]:
        return one.label, *(f"{one.costs[m.key]:,.{m.digits}f}" if m.key in one.costs else "" for m in columns)

    return [("row", *(m.title for m in columns)), *map(cells, found)] if found else []
