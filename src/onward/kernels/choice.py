"""Ways of doing the same thing, and which is the fastest on this machine for which size."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch

from onward._folders import cache_folder
from onward.kernels.compiled import Use, in_use

Way = TypeVar("Way", bound=Callable[..., Any])
ROUNDS = 3


class Choice(Generic[Way]):
    """Several ``ways`` by name, the plain one first; `best` picks one for a size.

    With ``ONWARD_KERNELS`` set to ``never`` it is always the plain one.
    """

    def __init__(self, name: str, ways: Mapping[str, Way]):
        self.name, self.ways = name, dict(ways)
        CHOICES[name] = self

    def best(self, size: tuple[int, ...], *arguments: Any) -> Way:
        """The fastest way for ``size``, timed on ``arguments`` the first time such a size is seen."""
        plain = next(iter(self.ways.values()))
        if len(self.ways) == 1 or in_use() is Use.NEVER:
            return plain
        key = f"{self.name} {' '.join(str(size_class(n)) for n in size)}"
        return self.ways.get(measured(key, lambda: self._fastest(arguments)), plain)

    def _fastest(self, arguments: tuple) -> str:
        with torch.no_grad():
            return min(self.ways, key=lambda name: seconds(lambda: self.ways[name](*arguments)))


CHOICES: dict[str, Choice] = {}
"""Every choice by name."""


def measured(what: str, find: Callable[[], str]) -> str:
    """What ``find`` found for this number of threads: now, or the first time that it was asked on this machine."""
    key = f"{what}, {torch.get_num_threads()} threads"
    if key not in _remembered():
        _remembered()[key] = find()
        _keep()
    return _remembered()[key]


def seconds(function: Callable[[], Any]) -> float:
    """The median of some runs, after one to warm up."""
    times = []
    for _ in range(ROUNDS + 1):
        began = perf_counter()
        function()
        times.append(perf_counter() - began)
    return sorted(times[1:])[ROUNDS // 2]


def size_class(n: int) -> int:
    """Sizes within a factor of 2 share what was measured: the power of two at or above."""
    return 1 << max(0, n - 1).bit_length()


def table() -> dict[str, str]:
    """What was found so far on this machine: name, size class and threads -> way."""
    return dict(_remembered())


@cache
def _remembered() -> dict[str, str]:
    """The table of this machine and torch; empty where none was kept."""
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in kept.items()} if isinstance(kept, dict) else {}


def _keep() -> None:
    """Writes the table; a read-only home costs a measurement in every process and nothing else."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        part = _file().with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(_remembered(), indent=1, sort_keys=True), encoding="utf-8")
        part.replace(_file())
    except OSError:
        pass


@cache
def _file() -> Path:
    """Where the table of this processor and torch is kept."""
    machine = f"{_processor()} {torch.__version__}"
    return cache_folder() / "kernels" / f"{sha256(machine.encode()).hexdigest()[:16]}.json"


def _processor() -> str:
    """The processor's name and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return " ".join(sorted({line for line in lines if line.startswith(("model", "flags", "cpu family"))}))
    except OSError:
        return platform.processor() or platform.machine()
