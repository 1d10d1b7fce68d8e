"""Compiled kernels: numba loops that stand in for plain torch where they apply.

A kernel is compiled when it is first needed, kept on disk for the next process, and compared with its plain twin once
before its results are used. If numba is missing, compilation fails or the comparison does, the plain twin serves and a
warning says so once. The environment variable ``ONWARD_KERNELS`` chooses: ``auto`` (default: where a kernel is faster),
``always`` (wherever it can), ``never``.

Loops run on as many threads as torch does. A team of threads does not survive a fork: in a forked process, such as a
data worker, the plain twins serve.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cache
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from onward.kernels.host import threads


class Use(Enum):
    """When compiled kernels are used."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class KernelWarning(UserWarning):
    """A kernel is switched off, or cannot be kept; results stay right."""


def _from_environment() -> Use:
    asked = os.environ.get("ONWARD_KERNELS", "auto")
    if asked in {use.value for use in Use}:
        return Use(asked)
    warn(f"ONWARD_KERNELS={asked!r} was given; expected auto, always or never: auto is used")
    return Use.AUTO


def warn(text: str) -> None:
    """A `KernelWarning` at the caller's caller."""
    warnings.warn(text, KernelWarning, stacklevel=3)


_use = _from_environment()
_forked = False


def _leave_team() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_team)


def in_use() -> Use:
    """When compiled kernels are used now."""
    return _use


@contextmanager
def using(use: Use) -> Iterator[None]:
    """Uses compiled kernels as ``use`` says, for a while."""
    global _use
    before, _use = _use, use
    try:
        yield
    finally:
        _use = before


class Kernel:
    """A compiled loop of `onward.kernels.loops`, by name, and the check that admits it.

    ``agrees()`` compares it with its plain twin on a small input; ``least`` is the number of elements from which
    on it is the faster one.
    """

    def __init__(self, name: str, agrees: Callable[[], bool], least: int = 0):
        self.name, self.least, self._agrees = name, least, agrees
        self._loops: ModuleType | None = None
        self._broken = ""
        self.seconds = 0.0
        KERNELS[name] = self

    def serves(self, *tensors: Tensor) -> bool:
        """Whether it works, all ``tensors`` are float32 on the CPU, and the first is large enough."""
        if _forked or _use is Use.NEVER or (_use is Use.AUTO and tensors[0].numel() < self.least):
            return False
        if any(t.dtype is not torch.float32 or t.device.type != "cpu" for t in tensors):
            return False
        return self.works

    @property
    def works(self) -> bool:
        """Whether it could be compiled and agrees with its plain twin; compiles it if need be."""
        if self._loops is None and not self._broken:
            self._load()
        return not self._broken

    @property
    def state(self) -> str:
        """What `onward doctor` says of it."""
        if self._broken:
            return f"off: {self._broken}"
        return "not needed yet" if self._loops is None else f"ready, loaded in {self.seconds:.1f} s"

    def __call__(self, *arguments: Any) -> Any:
        """Runs the loop; tensors are handed over without a copy."""
        loops: Any = self._loops
        loops.set_num_threads(threads(loops.MOST_THREADS))
        return getattr(loops, self.name)(*(a.numpy() if isinstance(a, Tensor) else a for a in arguments))

    def _load(self) -> None:
        """Compiles or reads from disk, then checks; whatever a compiler may throw, the plain twin serves."""
        began = perf_counter()
        try:
            self._loops = _compiled_loops()
            if not self._agrees():
                self._broken = "its results differ from those of plain torch"
        except ImportError as error:
            self._loops, self._broken = None, f"numba cannot be used ({error})"
            _without_numba(str(error))
            return
        except Exception as error:
            self._broken = f"it cannot be compiled ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        self.seconds = perf_counter() - began
        if self._broken:
            self._loops = None
            warn(f"compiled kernel '{self.name}' is off: {self._broken}; plain torch serves, more slowly")


KERNELS: dict[str, Kernel] = {}
"""Every kernel by name."""


@cache
def _without_numba(why: str) -> None:
    """Says once that no kernel can be had."""
    warn(f"compiled kernels are off: numba cannot be used ({why}); plain torch serves, more slowly")


def _compiled_loops() -> ModuleType:
    """The module of loops; says once, on a terminal, why the first seconds are slow.

    numba sizes every OpenMP region of the process, torch's too, by its own team of threads; torch gets back its number.
    """
    if "onward.kernels.loops" not in sys.modules and sys.stderr.isatty():
        print("Preparing compiled kernels: some seconds the first time, then kept on disk.", file=sys.stderr)
    asked = torch.get_num_threads()
    from onward.kernels import loops

    loops.set_num_threads(threads(loops.MOST_THREADS))  # the first call starts the team
    torch.set_num_threads(asked)
    return loops
