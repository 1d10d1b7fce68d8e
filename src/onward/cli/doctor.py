"""``onward doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage
from typing import Annotated, NamedTuple

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.cli.output import Json, console, emit
from onward.data import listing
from onward.data.cache import VARIABLE, cache_folder
from onward.kernels import KERNELS, choices
from onward.train.config import TrainConfig
from onward.train.folder import environment
from onward.train.selfcheck import self_check

CHECK_FAILED = 1
LITTLE_SPACE = 2**30
"""Bytes free on a disk below which it is told: simulated recordings take 0.4 GB, a run some MB."""


class Finding(NamedTuple):
    """One thing looked at: ``good`` False means that something is missing or slower than it could be.

    ``seconds`` is how long a check of the self-check took.
    """

    what: str
    good: bool
    found: str
    seconds: float | None = None


def doctor(
    *,
    check: Annotated[bool, Parameter(help="Also try gradients, kernels, a checkpoint and two processes: 20 s.")] = True,
    json: Json = False,
) -> int:
    """Shows what this machine has: versions, threads, kernels, data, space; tries what training needs.

    The exit status is 1 where something that was tried does not work.
    """
    out = console(json)
    found = [*_versions(), *_compute(), *_data(), *_caches(), *_space()]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in found:
        table.add_row(_mark(finding, "[yellow]--[/yellow]"), finding.what, escape(finding.found))
    out.print(table)
    checked = list(_checks(out)) if check else []
    emit(json, {"findings": [finding._asdict() for finding in (*found, *checked)], "environment": environment()})
    return 0 if all(finding.good for finding in checked) else CHECK_FAILED


def _mark(finding: Finding, bad: str) -> str:
    return "[green]ok[/green]" if finding.good else bad


def _checks(out: Console) -> Iterator[Finding]:
    """The self-check, each line told when it is known."""
    out.print("\nSelf-check, about 20 seconds; --no-check leaves it out")
    for done in self_check():
        finding = Finding(f"check: {done.name}", done.passed, done.found, round(done.seconds, 3))
        line = f"{_mark(finding, '[red]failed[/red]')}  {done.name}: {escape(done.found)} ({done.seconds:.1f} s)"
        out.print(line, soft_wrap=True)
        yield finding


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
    writable = os.access(_existing(folder), os.W_OK)
    yield Finding("cache", writable, f"{folder}{'' if writable else ': cannot be written; set ' + VARIABLE}")


def _space() -> Iterator[Finding]:
    """Free space where runs and caches go, or would."""
    for what, folder in (("runs", Path(TrainConfig().out).absolute()), ("cache", cache_folder())):
        disk = disk_usage(_existing(folder))
        found = f"{disk.free / 1e9:,.1f} of {disk.total / 1e9:,.1f} GB free at {folder}"
        yield Finding(f"disk: {what}", disk.free >= LITTLE_SPACE, found)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    return next(path for path in (folder, *folder.parents) if path.exists())
