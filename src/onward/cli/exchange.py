"""``onward export nir`` and ``onward import nir``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from onward.cli.output import Json, console, emit
from onward.export.nir import DT, Exchanged, export_run, import_file
from onward.train import RunFolder


def export_nir(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The file; default: network.nir in the run's folder.")] = None,
    dt: Annotated[float, Parameter(help="Seconds that a time step stands for; snnTorch takes 1e-4 alone.")] = DT,
    lossy_ok: Annotated[
        bool, Parameter(negative="", help="Write what NIR cannot say, such as soft resets, as notes for Onward alone.")
    ] = False,
    json: Json = False,
) -> None:
    """Writes a trained network as a NIR graph, reads it back, and compares every spike."""
    found, speak = export_run(RunFolder.open(run), out, dt=dt, lossy=lossy_ok), console(json)
    _tell(speak, found)
    speak.print(f"Test it: onward eval {found.file}", soft_wrap=True)
    emit(json, asdict(found))


def import_nir(
    file: Annotated[Path, Parameter(help="A NIR file, from any program.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The file to write; default: NAME-onward.nir beside it.")] = None,
    dt: Annotated[
        float | None, Parameter(help="Seconds that a time step stands for, if the file does not say.")
    ] = None,
    steps: Annotated[int | None, Parameter(help="Time steps of a sequence, if the file does not say.")] = None,
    json: Json = False,
) -> None:
    """Makes a network of a NIR graph, and writes it as a file that `onward eval` tests; compares every spike."""
    to = out or file.with_name(f"{file.stem}-onward.nir")
    found, speak = import_file(file, to, dt=dt, steps=steps), console(json)
    _tell(speak, found)
    speak.print(f"Test it: onward eval {found.file} --data NAME", soft_wrap=True)
    speak.print(f"In Python: onward.from_nir({found.file!r})", soft_wrap=True)
    emit(json, asdict(found))


def _tell(speak: Console, found: Exchanged) -> None:
    """What was written, and how the check went."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.nodes.items())
    speak.print(f"{found.file}: {kinds}, {found.edges} edges, {found.dt:g} s a step", soft_wrap=True)
    check = found.agreement
    speak.print(
        f"Read back and tried on random inputs: {check.spikes:,} spikes, all {check.agreed:,} states of neurons agree",
        soft_wrap=True,
    )
    if check.silent:
        speak.print(f"Never fired on the probes: {', '.join(check.silent)}", soft_wrap=True)
    for words in found.lost:
        speak.print(f"Only Onward will know: {words}", soft_wrap=True)
