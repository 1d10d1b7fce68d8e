"""``onward reproduce``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import onward
from onward._durable import write_whole
from onward.cli.compare import carry_out
from onward.cli.output import Json, console, emit
from onward.comparison import ComparisonFolder, Plan, lines
from onward.comparison.index import index as index_of
from onward.comparison.reproduction import Reproduction, costs_of, every, fresh, named, table_of
from onward.comparison.rows import chosen, configured
from onward.core.errors import ConfigError
from onward.launch import chosen as launcher_called
from onward.report.page import Section, joined, page, paragraph, table

HEADER = ("row", "published", "ours", "settings")


def reproduce(
    name: Annotated[str | None, Parameter(help="A recipe, by its name.")] = None,
    /,
    *,
    list: Annotated[bool, Parameter(negative="", help="List the reproductions and what is known of them.")] = False,
    recorded: Annotated[bool, Parameter(negative="", help="Show what the recipe holds, and train nothing.")] = False,
    row: Annotated[list[str] | None, Parameter(help="A row; may be given again.", negative="")] = None,
    seed: Annotated[list[int] | None, Parameter(help="A seed; may be given again.", negative="")] = None,
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:N.")] = "cpu",
    to: Annotated[Path | None, Parameter(help="Where it goes; default: runs/reproduce-NAME.")] = None,
    launcher: Annotated[str, Parameter(help="local, ray or slurm.")] = "local",
    cores: Annotated[int | None, Parameter(help="Cores that local trainings share; default: all.")] = None,
    threads: Annotated[int | None, Parameter(help="Threads of each training; default: its share of the cores.")] = None,
    slurm: Annotated[str, Parameter(help="For Slurm: partition=gpu,timeout-min=600.")] = "",
    index: Annotated[Path | None, Parameter(help="Write the index of all reproductions there.")] = None,
    recipes: Annotated[Path | None, Parameter(help="Where the recipes are; default: here, or the checkout.")] = None,
    json: Json = False,
) -> int:
    """Trains a published result again, and says what was published, what came out, and whether that is what must.

    What has ended is kept in a folder; the same command again runs what is missing there.
    """
    where, out = recipes or _recipes(), console(json)
    if index is not None:
        write_whole(index, index_of(every(where)).encode())
        out.print(f"The index is {index}", soft_wrap=True)
        return 0
    if list or name is None:
        return _list(out, every(where), json)
    one, folder, code = named(name, where), to or Path("runs") / f"reproduce-{name}", 0
    if not recorded:
        if one.by:
            raise ConfigError(
                f"{name} is run by another program: {one.by} {one.path}; what it found is shown by "
                f"onward reproduce {name} --recorded"
            )
        these = configured(one.path, chosen(one.rows, row), ["--device", device])
        plan = Plan(one.title, these, tuple(seed or one.seeds), threads)
        runs = launcher_called(launcher, cores, folder / "slurm", slurm)
        code, _ = carry_out(plan, ComparisonFolder(folder), runs, out)
        one = replace(one, found=fresh(lines(plan, ComparisonFolder(folder).results(plan))))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "reproduction.html", page_of(one, recorded).encode())
    _show(out, one, folder)
    emit(json, {**told(one), "page": str(folder / "reproduction.html")})
    return code


def told(one: Reproduction) -> dict[str, Any]:
    """A reproduction as a plain table."""
    return {
        "name": one.name,
        "title": one.title,
        "published": one.published,
        "must": one.must,
        "verdict": one.verdict,
        "rows": [dict(zip(HEADER, line, strict=True)) for line in table_of(one)],
        "costs": {label: found.costs for label, found in one.found.items() if found.costs},
        "checks": {check.says: check.verdict(one.found) for check in one.checks},
        "notes": one.notes,
    }


def page_of(one: Reproduction, recorded: bool) -> str:
    """A page of its own."""
    source = "as recorded in the recipe" if recorded else "as trained here"
    took = costs_of(one)
    checks = [(check.says, check.verdict(one.found)) for check in one.checks]
    sections = [
        Section("Results", table(table_of(one), HEADER), f"Ours {source}. Published: {one.published}."),
        Section("What it took", table(took[1:], took[0]) if took else ""),
        Section("Verdict", table(checks, ("check", "verdict")) if checks else ""),
        Section("Notes", joined(*map(paragraph, one.notes))),
    ]
    lead = paragraph(f"Must come out: {one.must}. Verdict: {one.verdict}.")
    return page(one.title, [section for section in sections if section.body], lead)


def _recipes() -> Path:
    """The recipes of the working directory, else those of the checkout."""
    here = Path("recipes")
    return here if here.is_dir() else Path(onward.__file__).parents[2] / "recipes"


def _list(out: Console, known: list[Reproduction], json: bool) -> int:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "what", "verdict"):
        shown.add_column(column)
    for one in known:
        shown.add_row(one.name, escape(one.title), escape(one.verdict))
    out.print(shown)
    emit(json, {"reproductions": [told(one) for one in known]})
    return 0


def _show(out: Console, one: Reproduction, folder: Path) -> None:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in HEADER:
        shown.add_column(column, overflow="fold")
    for line in table_of(one):
        shown.add_row(*map(escape, line))
    out.print(shown)
    for check in one.checks:
        out.print(escape(f"{check.says}: {check.verdict(one.found)}"), soft_wrap=True)
    out.print(escape(f"Published: {one.published}. Verdict: {one.verdict}."), soft_wrap=True)
    for note in one.notes:
        out.print(escape(note), soft_wrap=True)
    out.print(f"The page is {folder / 'reproduction.html'}", soft_wrap=True)
