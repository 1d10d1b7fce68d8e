"""``onward data``."""

from __future__ import annotations

from rich.table import Table

from onward.cli.output import Json, console, emit
from onward.data import listing


def list_data(*, json: Json = False) -> None:
    """Lists every data set, and where it is or how to get it."""
    found = listing()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("name", "what", "here", "where, or how to get it"):
        table.add_column(name, overflow="fold")
    for line in found:
        table.add_row(line.name, line.summary, "yes" if line.found else "no", line.where)
    console(json).print(table)
    emit(json, {"data": [line._asdict() for line in found]})
