"""``onward pack``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from onward.cli.output import Json, console, emit
from onward.export import PackedRun, pack_run
from onward.train import RunFolder


def pack(
    run: Annotated[Path, Parameter(help="The folder of a run with binary weights.")],
    /,
    *,
    to: Annotated[Path | None, Parameter(help="The file; default: packed.safetensors in the run's folder.")] = None,
    json: Json = False,
) -> None:
    """Writes a trained network with one bit for every binary weight; shows what its layers take."""
    found, out = pack_run(RunFolder.open(run), to), console(json)
    out.print(_table(found))
    fewer = f"{found.before:,} bytes became {found.after:,} ({found.before / found.after:.1f} times fewer)"
    out.print(f"{fewer} in {found.file}, which was read back bit for bit", soft_wrap=True)
    out.print(f"Test it: onward eval {found.file}", soft_wrap=True)
    out.print(f"In Python: onward.export.read_packed(Path({found.file!r}))", soft_wrap=True)
    emit(json, asdict(found))


def _table(found: PackedRun) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("layer")
    table.add_column("weights", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("packed", justify="right")
    table.add_column("operations a step", justify="right")
    for layer in found.layers:
        kind = "additions" if layer.binary else "multiply-adds"
        counts = (f"{layer.weights:,}", f"{layer.bytes:,}", f"{layer.packed:,}", f"{layer.operations:,} {kind}")
        table.add_row(layer.name, *counts)
    return table
