"""``onward serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onward.cli.output import Json, console, emit
from onward.core.errors import ConfigError
from onward.serve import serve as run

MOST_PORT = 65535


def serve(
    runs: Annotated[Path, Parameter(help="The folder that runs are in.")] = Path("runs"),
    /,
    *,
    port: Annotated[int, Parameter(help="Where on this machine; 0 for any that is free.")] = 8230,
    json: Json = False,
) -> None:
    """Shows all runs in a browser, with curves that grow while they train; to this machine alone, until Ctrl-C."""
    if not 0 <= port <= MOST_PORT:
        raise ConfigError(f"--port: {port} was given; expected a whole number from 0 to {MOST_PORT}")
    out = console(json)

    def tell(url: str) -> None:
        out.print(f"{runs} is shown at {url} until Ctrl-C", soft_wrap=True)
        emit(json, {"url": url})

    run(runs, port, tell)
