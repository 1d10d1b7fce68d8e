"""``onward report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from onward.cli.output import Json, console, emit
from onward.core.errors import OnwardError
from onward.report.run import write_page
from onward.train import RunFolder


def report(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Draws what a run recorded on one page of HTML that needs no network."""
    path = write_page(RunFolder.open(run))
    console(json).print(f"The page is {path}", soft_wrap=True)
    emit(json, {"page": str(path)})


def show_page(out: Console, run: str) -> None:
    """Writes the page of a run that has just been trained and says where it is; what keeps it from that is told."""
    try:
        out.print(f"The page is {write_page(RunFolder.open(Path(run)))}", soft_wrap=True)
    except OnwardError as error:
        out.print(f"warning: there is no page: {error}", style="yellow", soft_wrap=True)
