"""Where a command writes: words for people, and with ``--json`` one object as the last line of stdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from onward.train.folder import json_line

Json = Annotated[
    bool,
    Parameter(negative="", help="End standard output with one JSON object; progress goes to standard error."),
]


def console(json: bool, rank: int = 0) -> Console:
    """For people: standard output, or standard error where the former is for JSON; the first process alone speaks."""
    return Console(stderr=json, highlight=False, soft_wrap=False, quiet=rank > 0)


def emit(json: bool, value: Mapping[str, Any], rank: int = 0) -> None:
    """The object that ``--json`` promises."""
    if json and rank == 0:
        print(json_line(value), flush=True)
