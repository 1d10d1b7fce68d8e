"""``onward export torch`` and ``onward export onnx``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onward.cli.output import Json, console, emit
from onward.export.program import export_run, export_run_onnx
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


def export_onnx(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The file; default: network.onnx in the run's folder.")] = None,
    json: Json = False,
) -> None:
    """Writes a step of a trained network as an ONNX file; compares it in ONNX Runtime."""
    found, speak = export_run_onnx(RunFolder.open(run), out), console(json)
    states = ", ".join(f"{name} {list(shape)}" for name, shape in found.states.items())
    speak.print(f"{found.file}: states {states or 'none'}", soft_wrap=True)
    check = found.agreement
    speak.print(
        f"Tried on random inputs: {check.spikes:,} spikes in torch, all {check.agreed:,} states of neurons agree; in "
        f"ONNX Runtime {found.agreed} of {found.steps} steps of samples",
        soft_wrap=True,
    )
    emit(json, asdict(found))
