"""``onward resume``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onward.cli import INTERRUPTED
from onward.cli.output import Json, console, emit
from onward.cli.progress import progress
from onward.cli.report import show_page
from onward.cli.train import Logger, closing
from onward.train import RunFolder
from onward.train import resume as go_on
from onward.train.grammar import with_flags
from onward.train.log import logged
from onward.train.ranks import group_of

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]
Force = Annotated[bool, Parameter(negative="", help="Go on although versions, data or settings have changed.")]


def resume(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
    /,
    *tokens: Tokens,
    force: Force = False,
    log: Logger = None,
    json: Json = False,
) -> int:
    """Continues a run that was cut short, from its last checkpoint, as if nothing had happened."""
    device = with_flags(tokens, RunFolder.open(run).config()).device
    with group_of(device) as group:
        out = console(json, group.rank)
        with progress(out) as shown, logged(log if group.rank == 0 else None, shown) as on_event:
            summary = go_on(run, tokens, force=force, on_event=on_event, group=group)
        out.print(closing(summary), soft_wrap=True)
        if group.rank == 0:
            show_page(out, summary.run)
        emit(json, asdict(summary), group.rank)
    return INTERRUPTED if summary.interrupted else 0
