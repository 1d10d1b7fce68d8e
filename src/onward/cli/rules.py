"""``onward rules``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from shlex import join
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from onward.cli.output import Json, console, emit
from onward.core.errors import UnknownName
from onward.core.registry import OWN, Entry, Registry
from onward.core.rule import LearningRule
from onward.credit import locals_, spatials, temporals
from onward.data.streams import streams
from onward.explain.equations import entries as made_of
from onward.rules import rules as registry
from onward.train.grammar import brought_flags
from onward.transforms import transforms
from onward.works import cited

UNKNOWN = "not stated"


def rules(
    *name: Annotated[str, Parameter(help="Of these names alone; default: all.")],
    cite: Annotated[
        bool, Parameter(negative="", help="Print BibTeX of where they, and what they are made of, come from.")
    ] = False,
    json: Json = False,
) -> None:
    """Lists every learning rule, every choice of the credit grid, and what tasks that follow one another are kept by:
    meaning, needs, source, what it brings. Or prints BibTeX of their sources."""
    out = console(json)
    chosen = _chosen(name)
    if cite:
        found = cited(_entries(chosen))
        out.print("\n\n".join(found), markup=False, soft_wrap=True)
        emit(json, {"bibtex": found})
        return
    listed = {kind: [_line(kind, name) for name in names] for kind, names in chosen.items()}
    for title, lines in listed.items():
        out.print(f"[bold]{title}[/bold]")
        for line in lines:
            _show(out, line)
    out.print("Use one: onward train --rule NAME. Mix: --rule.temporal NAME --rule.spatial NAME --rule.local NAME")
    out.print("What one does: onward explain NAME, and a picture of it: onward explain NAME --out NAME.html")
    out.print("Tasks one after the other: onward train --stream NAME --transform NAME --rule NAME")
    emit(json, listed)


GRID: dict[str, Registry] = {"temporal": temporals, "spatial": spatials, "local": locals_}
TASKS: dict[str, Registry] = {"transform": transforms, "stream": streams}
PLAIN = {"name": "online", "temporal": "sltt", "spatial": "dfa", "local": "none"}


def known() -> dict[str, list[str]]:
    """Every name by kind."""
    return {"rules": registry.names(), **{kind: found.names() for kind, found in {**GRID, **TASKS}.items()}}


def _chosen(wanted: tuple[str, ...]) -> dict[str, list[str]]:
    """Names by kind: all of them, or those ``wanted``; raises `UnknownName`."""
    everything = set().union(*known().values())
    for name in wanted:
        if name not in everything:
            raise UnknownName("rule", name, everything)
    chosen = {kind: [name for name in names if name in wanted] for kind, names in known().items()}
    return {kind: names for kind, names in chosen.items() if names} if wanted else known()


def _entries(chosen: Mapping[str, Sequence[str]]) -> Iterator[Entry]:
    """What the registries say of them; of a rule, and of the choices it is made of."""
    for kind, names in chosen.items():
        for name in names:
            if kind == "rules":
                yield from (entry for _, entry in made_of(registry.parse(name)))
            else:
                yield {**GRID, **TASKS}[kind].entry(name)


def _line(kind: str, name: str) -> dict[str, Any]:
    if kind == "rules":
        return _rule(name)
    return _choice(kind, name) if kind in GRID else _told(TASKS[kind].entry(name))


def _rule(name: str) -> dict[str, Any]:
    return {**_described(registry.entry(name), registry.build(name)), "brings": join(brought_flags(name))}


def _choice(axis: str, name: str) -> dict[str, Any]:
    """A choice by itself: its needs are those of a rule whose other axes need nothing."""
    return _described(GRID[axis].entry(name), registry.build({**PLAIN, axis: name}))


def _described(entry: Entry, rule: LearningRule) -> dict[str, Any]:
    traits = rule.traits
    needs = {"memory": traits.memory, "backward": traits.backward, "weight_transport": traits.weight_transport}
    return {**_told(entry), **needs}


def _told(entry: Entry) -> dict[str, Any]:
    facts = {key: entry.facts.get(key, UNKNOWN) for key in ("paper", "published", "inferred")}
    return {"name": entry.name, "meaning": entry.summary, "origin": entry.origin, **facts}


def _show(out: Console, line: dict[str, Any]) -> None:
    out.print(Padding(f"[bold cyan]{line['name']}[/bold cyan]  {escape(line['meaning'])}", (0, 0, 0, 2)))
    source = f"Paper: {line['paper']}. Published: {line['published']}. Inferred: {line['inferred']}."
    if "memory" in line or line["paper"] != UNKNOWN:
        out.print(Padding(escape(_needs(line) + source), (0, 0, 0, 6)))
    if line["origin"] != OWN:
        out.print(Padding(escape(f"From the plug-in {line['origin']}."), (0, 0, 0, 6)))
    if line.get("brings"):
        out.print(escape(f"      Brings, unless you say otherwise: {line['brings']}"), soft_wrap=True)


def _needs(line: dict[str, Any]) -> str:
    if "memory" not in line:
        return ""
    transport = "needs weight transport" if line["weight_transport"] else "no weight transport"
    return f"memory {line['memory']} in time steps; {transport}. "
