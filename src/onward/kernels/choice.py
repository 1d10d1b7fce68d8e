"""Ways of doing the same thing, and which is the fastest on this machine for which size.

What was measured is kept on disk and shown by ``onward doctor``. The environment variable ``ONWARD_WAYS`` overrules
it: ``ONWARD_WAYS=linear=onednn,gather=0.2``.
"""

from __future__ import annotations

import json
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch
from filelock import FileLock

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
        if key not in _USED:
            known = _remembered().get(key, "")
            _USED[key] = known if self.accepts(known) else self._settle(key, find())
        return _USED[key]

    def _settle(self, key: str, found: str) -> str:
        """What was ``found``, kept for other processes; if one of them was faster, what it found."""
        with _writing():
            known = _read()
            if not self.accepts(known.get(key, "")):
                known[key] = found
                _write(known)
        _remembered()[key] = known[key]
        return known[key]

    def known(self, size: tuple[int, ...]) -> str | None:
        """What was asked for, or was found before; None where nobody has looked yet."""
        key = self._key(size)
        found = _asked().get(self.name) or _USED.get(key) or _remembered().get(key, "")
        return found if self.accepts(found) else None

    def _key(self, size: tuple[int, ...]) -> str:
        return f"{self.name}: {' '.join(str(size_class(n)) for n in size)}, {torch.get_num_threads()} threads"


MEASURED: dict[str, Measured] = {}
"""Everything that is measured, by name."""
_USED: dict[str, str] = {}


def used() -> dict[str, str]:
    """What was answered in this process so far: sums are rounded in the order that these ways take."""
    return dict(_USED)


def pin(answers: Mapping[str, str]) -> None:
    """Answers as an earlier process did, whatever this machine's table says; what is unknown here is measured."""
    _USED.update({key: way for key, way in answers.items() if _possible(key, way)})


def _possible(key: str, way: str) -> bool:
    measured = MEASURED.get(key.partition(":")[0])
    return measured is not None and measured.accepts(way)


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

    def best(self, size: tuple[int, ...], trial: Callable[[], tuple[Any, ...]] = tuple) -> Way:
        """The fastest way for ``size``, timed on the arguments that ``trial`` makes when such a size is first seen."""
        if len(self.ways) == 1 or in_use() is Use.NEVER:
            return next(iter(self.ways.values()))
        return self.ways[self.answer(size, lambda: self._fastest(trial()))]

    def _fastest(self, arguments: tuple[Any, ...]) -> str:
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
    """The table of this machine and torch, as this process found it and what it has added."""
    return _read()


def _read() -> dict[str, str]:
    """The table on disk; empty where none was kept."""
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in kept.items()} if isinstance(kept, dict) else {}


@contextmanager
def _writing() -> Iterator[None]:
    """While entered, no other process writes to the table; where nothing can be written, nothing is locked."""
    with ExitStack() as held:
        with suppress(OSError):
            _file().parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(_file().with_suffix(".lock")))
        yield


def _write(table: Mapping[str, str]) -> None:
    """Writes the table; a read-only home costs a measurement in every process and nothing else."""
    with suppress(OSError):
        part = _file().with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(table, indent=1, sort_keys=True), encoding="utf-8")
        part.replace(_file())


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
