"""``onward data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.padding import Padding

from onward.cli.output import Json, console, emit
from onward.cli.progress import told
from onward.data import Obtained, datasets, listing, obtain


def list_data(*, json: Json = False) -> None:
    """Lists every data set, and where it is or how to get it."""
    found, out = listing(), console(json)
    for line in found:
        here = "[green]here[/green]" if line.found else "[yellow]not here[/yellow]"
        out.print(f"[bold cyan]{line.name}[/bold cyan] ({here})  {escape(line.summary)}")
        out.print(Padding(escape(line.where), (0, 0, 0, 6)))
    out.print("Use one with: onward train --data NAME, or a file of your own: onward train --data FILE.npz")
    emit(json, {"data": [line._asdict() for line in found]})


def get(
    name: Annotated[str, Parameter(help="A data set's name; `onward data list` shows them.")],
    /,
    *,
    to: Annotated[
        Path | None, Parameter(help="Folder that gets a subfolder of the set; default: ONWARD_DATA, or the platform's.")
    ] = None,
    json: Json = False,
) -> None:
    """Fetches a data set over https and verifies every file. What is there already is not fetched again."""
    out = console(json)
    with told(out):
        result = obtain(name, to)
    out.print(escape(_outcome(result)), soft_wrap=True)
    emit(json, result._asdict())


def _outcome(result: Obtained) -> str:
    what = f"{result.name} ({datasets.entry(result.name).summary}) is in {result.folder}"
    done = f"Fetched and verified: {', '.join(result.fetched)}" if result.fetched else "Nothing had to be fetched"
    return f"{what}. {done}. Use it with: onward train {result.flags}"
