"""``onward doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from rich.markup import escape
from rich.table import Table

from onward.cli.output import Json, console, emit
from onward.data import listing
from onward.data.cache import VARIABLE, cache_folder
from onward.kernels import KERNELS, choices
from onward.train.folder import environment


class Finding(NamedTuple):
    """One thing looked at: ``good`` False means that something is missing or slower than it could be."""

    what: str
    good: bool
    found: str


def doctor(*, json: Json = False) -> None:
    """Shows what this machine has: versions, threads, kernels, data, caches."""
    found = [*_versions(), *_compute(), *_data(), *_caches()]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in found:
        table.add_row(
            "[green]ok[/green]" if finding.good else "[yellow]--[/yellow]",
            finding.what,
            escape(finding.found),
        )
    console(json).print(table)
    emit(json, {"findings": [finding._asdict() for finding in found], "environment": environment()})


def _versions() -> Iterator[Finding]:
    here = environment()
    yield Finding("python", True, f"{here['python']} on {here['system']} {here['machine']}")
    for name, number in here["packages"].items():
        yield Finding(name, number is not None, number or "not installed as a package")


def _compute() -> Iterator[Finding]:
    here = environment()
    yield Finding("threads", True, f"{here['threads']} of {here['cpus']} processors (--train.threads N)")
    cuda = here["cuda"]
    yield Finding("cuda", True, cuda or "none seen by torch; --device cpu is the default")
    yield Finding("oneDNN", torch.backends.mkldnn.is_available(), "fast CPU convolutions and products in torch")
    for kernel in KERNELS.values():
        yield Finding(f"kernel: {kernel.name}", kernel.works, kernel.state)
    for size, way in sorted(choices().items()):
        yield Finding(f"product: {size}", True, way)


def _data() -> Iterator[Finding]:
    for line in listing():
        where = line.where if line.found else "not here; `onward data list` says how to get it"
        yield Finding(f"data: {line.name}", line.found, where)


def _caches() -> Iterator[Finding]:
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(existing, os.W_OK)
    yield Finding("cache", writable, f"{folder}{'' if writable else ': cannot be written; set ' + VARIABLE}")
