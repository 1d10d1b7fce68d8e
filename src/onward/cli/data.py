"""``onward data``."""

from __future__ import annotations

from rich.markup import escape
from rich.padding import Padding

from onward.cli.output import Json, console, emit
from onward.data import listing


def list_data(*, json: Json = False) -> None:
    """Lists every data set, and where it is or how to get it."""
    found, out = listing(), console(json)
    for line in found:
        here = "[green]here[/green]" if line.found else "[yellow]not here[/yellow]"
        out.print(f"[bold cyan]{line.name}[/bold cyan] ({here})  {escape(line.summary)}")
        out.print(Padding(escape(line.where), (0, 0, 0, 6)))
    out.print("Use one with: onward train --data NAME, or a file of your own: onward train --data FILE.npz")
    emit(json, {"data": [line._asdict() for line in found]})
