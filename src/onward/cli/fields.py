"""Every field of a configuration as a page of help."""

from __future__ import annotations

from itertools import groupby

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.core.registry import Registry
from onward.train.schema import Option, expected, options, shown

GRAMMAR = (
    "A field takes its value after a space or an equals sign; dashes and underscores are the same; lists are 800 "
    "800 or [800,800]; switches are --x.y, --no-x.y or --x.y false. A choice takes its name directly: --rule opzo. "
    "Which fields a choice has depends on its name; this page shows the names in force: onward train --rule dfa "
    "--help shows those of DFA. Flags win over the recipe, the recipe over what its rule brings (onward rules NAME), "
    "and that over the defaults."
)


def show_fields(console: Console, config: BaseModel, usage: str, purpose: str, examples: str) -> None:
    """Prints every field of ``config``: its flag, its value unless said otherwise, its meaning; then examples."""
    console.print(f"Usage: {usage}\n", markup=False)
    console.print(purpose)
    console.print(GRAMMAR + "\n", markup=False)
    listed = options(type(config), config.model_dump())
    for group, members in groupby(listed, key=_group):
        console.print(_section(group, list(members)))
    console.print("--json  End standard output with one JSON object; progress goes to standard error.\n")
    console.print(examples, markup=False)


def _group(option: Option) -> str:
    """The heading that the field stands under."""
    return next(iter(option.path)) if len(option.path) > 1 or isinstance(option.value, dict) else "run"


def _section(group: str, members: list[Option]) -> Table:
    table = Table(title=f"[bold]{group}[/bold]", title_justify="left", box=None, padding=(0, 2, 0, 0), expand=False)
    table.add_column("flag", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=22)
    table.add_column("meaning", overflow="fold")
    for option in members:
        if option.registry is not None:
            name = shown(option.value["name"]) if option.value else shown(None)
            table.add_row(option.flag, name, _meaning(option, _names(option.registry)))
        elif not isinstance(option.value, dict):
            table.add_row(option.flag, escape(shown(option.value)), _meaning(option, expected(option.info)))
    table.add_section()
    return table


def _meaning(option: Option, takes: str) -> str:
    return f"{escape(option.info.description or '')} [dim]({escape(takes)})[/dim]"


def _names(registry: Registry) -> str:
    return " | ".join(registry.names())
