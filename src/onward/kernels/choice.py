"""Ways of doing the same thing, and which is the fastest on this machine for which size.

What was measured is kept on disk and shown by ``onward doctor``. The environment variable ``ONWARD_WAYS`` overrules
it: ``ONWARD_WAYS=linear=onednn,gather=0.2``.
"""

from __future__ import annotations

import json
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch

from onward._folders import cache_folder
from onward.kernels.compiled import Use, in_use, warn

Way = TypeVar("Way", bound=Callable[..., Any])
ROUNDS = 3
VARIABLE = "ONWARD_WAYS"


class Measured(ABC):
    """Something about this machine that is found out once for every size class and number of threads."""

    def __init__(self, name: str):
        self.name = name
        MEASURED[name] = self

    @property
    @abstractmethod
    def expected(self) -> str:
        """What may be asked for, in words."""

    @abstractmethod
    def accepts(self, answer: str) -> bool:
        """Whether this may be asked for."""

    def answer(self, size: tuple[int, ...], find: Callable[[], str]) -> str:
        """What was asked for, or was found before, or what ``find`` finds now."""
        asked = _asked().get(self.name)
        if asked is not None:
            return asked
        key = self._key(size)
        if not self.accepts(_remembered().get(key, "")):
            _remembered()[key] = find()
            _keep()
        return _remembered()[key]

    def known(self, size: tuple[int, ...]) -> str | None:
        """What was asked for, or was found before; None where nobody has looked yet."""
        found = _asked().get(self.name) or _remembered().get(self._key(size), "")
        return found if self.accepts(found) else None

    def _key(self, size: tuple[int, ...]) -> str:
        return f"{self.name}: {' '.join(str(size_class(n)) for n in size)}, {torch.get_num_threads()} threads"


MEASURED: dict[str, Measured] = {}
"""Everything that is measured, by name."""


class Choice(Measured, Generic[Way]):
    """Several ``ways`` by name, the plain one first; `best` picks one for a size.

    With ``ONWARD_KERNELS`` set to ``never`` it is always the plain one.
    """

    def __init__(self, name: str, ways: Mapping[str, Way]):
        super().__init__(name)
        self.ways = dict(ways)

    @property
    def expected(self) -> str:
        """See `Measured.expected`."""
        return " or ".join(self.ways)

    def accepts(self, answer: str) -> bool:
        """See `Measured.accepts`."""
        return answer in self.ways

    def best(self, size: tuple[int, ...], *arguments: Any) -> Way:
        """The fastest way for ``size``, timed on ``arguments`` the first time such a size is seen."""
        if len(self.ways) == 1 or in_use() is Use.NEVER:
            return next(iter(self.ways.values()))
        return self.ways[self.answer(size, lambda: self._fastest(arguments))]

    def _fastest(self, arguments: tuple) -> str:
        with torch.no_grad():
            return min(self.ways, key=lambda name: seconds(lambda: self.ways[name](*arguments)))


class Share(Measured):
    """The share of non-zeros up to which a sparse product is faster than its dense twin."""

    @property
    def expected(self) -> str:
        """See `Measured.expected`."""
        return "a share from 0 to 1"

    def accepts(self, answer: str) -> bool:
        """See `Measured.accepts`."""
        try:
            return 0 <= float(answer) <= 1
        except ValueError:
            return False

    def below(self, size: tuple[int, ...], find: Callable[[], float]) -> float:
        """The share for products of that ``size``; everything where ``ONWARD_KERNELS`` is ``always``."""
        if in_use() is Use.ALWAYS:
            return 1.0
        return float(self.answer(size, lambda: f"{min(1.0, find()):.2f}"))

    def foreseen(self, size: tuple[int, ...], otherwise: float) -> float:
        """The share for products of that ``size`` as far as it is known; ``otherwise`` where nobody has looked yet."""
        return 1.0 if in_use() is Use.ALWAYS else float(self.known(size) or otherwise)


@cache
def _asked() -> dict[str, str]:
    """What ``ONWARD_WAYS`` asks for."""
    found = {}
    for pair in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, answer = (part.strip() for part in pair.partition("="))
        if name not in MEASURED:
            warn(f"{VARIABLE} names {name!r}; expected one of {', '.join(sorted(MEASURED))}: ignored")
        elif not MEASURED[name].accepts(answer):
            warn(f"{VARIABLE} asks for {name}={answer}; expected {MEASURED[name].expected}: ignored")
        else:
            found[name] = answer
    return found


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
