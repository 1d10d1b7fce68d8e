"""``onward rules``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from onward.cli.output import Json, console, emit
from onward.core.registry import Entry, Registry
from onward.core.rule import LearningRule
from onward.credit import locals_, spatials, temporals
from onward.rules import rules as registry

UNKNOWN = "not stated"


def rules(*, json: Json = False) -> None:
    """Lists every learning rule and every choice of the credit grid: meaning, needs, source."""
    out = console(json)
    listed = {"rules": list(_rules()), **{axis: list(_choices(axis, grid)) for axis, grid in GRID.items()}}
    for title, lines in listed.items():
        out.print(f"[bold]{title}[/bold]")
        for line in lines:
            _show(out, line)
    out.print("Use one: onward train --rule NAME. Mix: --rule.temporal NAME --rule.spatial NAME --rule.local NAME")
    emit(json, listed)


GRID: dict[str, Registry] = {"temporal": temporals, "spatial": spatials, "local": locals_}
PLAIN = {"name": "online", "temporal": "sltt", "spatial": "dfa", "local": "none"}


def _rules() -> Iterator[dict[str, Any]]:
    for name in registry.names():
        yield _described(registry.entry(name), registry.build(name))


def _choices(axis: str, grid: Registry) -> Iterator[dict[str, Any]]:
    """Each choice by itself: its needs are those of a rule whose other axes need nothing."""
    for name in grid.names():
        yield _described(grid.entry(name), registry.build({**PLAIN, axis: name}))


def _described(entry: Entry, rule: LearningRule) -> dict[str, Any]:
    traits = rule.traits
    needs = {"memory": traits.memory, "backward": traits.backward, "weight_transport": traits.weight_transport}
    facts = {key: entry.facts.get(key, UNKNOWN) for key in ("paper", "published", "inferred")}
    return {"name": entry.name, "meaning": entry.summary, **needs, **facts}


def _show(out: Console, line: dict[str, Any]) -> None:
    out.print(Padding(f"[bold cyan]{line['name']}[/bold cyan]  {escape(line['meaning'])}", (0, 0, 0, 2)))
    transport = "needs weight transport" if line["weight_transport"] else "no weight transport"
    needs = f"memory {line['memory']} in time steps; {transport}. "
    source = f"Paper: {line['paper']}. Published: {line['published']}. Inferred: {line['inferred']}."
    out.print(Padding(escape(needs + source), (0, 0, 0, 6)))
