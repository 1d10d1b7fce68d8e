"""``onward export torch``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onward.cli.output import Json, console, emit
from onward.export.program import export_run
from onward.train import RunFolder


def export_torch(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The file; default: network.pt2 in the run's folder.")] = None,
    json: Json = False,
) -> None:
    """Writes a step of a trained network as a program that runs in torch without Onward; compares every spike."""
    found, speak = export_run(RunFolder.open(run), out), console(json)
    states = ", ".join(f"{name} {list(shape)}" for name, shape in found.states.items())
    speak.print(f"{found.file}: {found.operations} operations a step, states {states or 'none'}", soft_wrap=True)
    check = found.agreement
    speak.print(
        f"Tried on random inputs: {check.spikes:,} spikes, all {check.agreed:,} states of neurons agree; the same bits "
        "once read back",
        soft_wrap=True,
    )
    if check.silent:
        speak.print(f"Never fired on the probes: {', '.join(check.silent)}", soft_wrap=True)
    speak.print(f"Run it anywhere: torch.export.load({found.file!r}).module()", soft_wrap=True)
    emit(json, asdict(found))
