"""Launchers by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from onward.core.errors import ConfigError, UnknownName
from onward.launch.job import Launcher
from onward.launch.local import Local

NAMES = ("local", "ray", "slurm")


def chosen(name: str, cores: int | None = None, folder: Path = Path("runs"), slurm: str = "") -> Launcher:
    """The launcher called ``name``.

    ``cores`` are what ``local`` may use (default: all), ``folder`` is where ``slurm`` keeps its files and ``slurm``
    what it is told besides, such as ``partition=gpu,timeout-min=600``. Raises `UnknownName`, or `ConfigError` where
    what a launcher needs is not installed.
    """
    if slurm and name != "slurm":
        raise ConfigError(f"--slurm {slurm} is for --launcher slurm; {name} was given")
    if name == "local":
        return Local(available() if cores is None else cores)
    if name == "ray":
        from onward.launch.on_ray import OnRay

        return OnRay()
    if name == "slurm":
        from onward.launch.on_slurm import OnSlurm

        return OnSlurm(folder, settings(slurm))
    raise UnknownName("launcher", name, NAMES)


def available() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settings(text: str) -> Mapping[str, str | int]:
    """``partition=gpu,timeout-min=600`` as a table; raises `ConfigError` for anything else.

    >>> settings("partition=gpu, timeout-min=600")
    {'partition': 'gpu', 'timeout_min': 600}
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise ConfigError(f"--slurm {text} was given; expected settings such as partition=gpu,timeout-min=600")
    return {name.strip().replace("-", "_"): _number(value.strip()) for name, _, value in pairs}


def _number(value: str) -> str | int:
    return int(value) if value.isascii() and value.isdigit() else value
