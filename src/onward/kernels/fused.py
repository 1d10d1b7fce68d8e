"""torch.compile for recurrences that have no compiled kernel, on request.

A recurrence in plain torch is some operations a step, each of which passes over memory and, on a GPU, is launched by
itself. torch.compile makes one loop of them. It takes seconds a shape, and on a CPU a C++ compiler, so it is off
until asked for: ``train.compile``, or ``with fusing():``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

import torch

from onward.kernels.compiled import warn

Function = TypeVar("Function", bound=Callable[..., Any])
_asked = False
_broken = False


def fuses() -> bool:
    """Whether recurrences go through torch.compile now."""
    return _asked and not _broken


@contextmanager
def fusing(asked: bool = True) -> Iterator[None]:
    """Sends recurrences through torch.compile for a while, if ``asked``."""
    global _asked
    before, _asked = _asked, asked
    try:
        yield
    finally:
        _asked = before


def fusible(function: Function) -> Function:
    """A recurrence on tensors and numbers that torch.compile may take; plain where it was not asked for or fails."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        return _fused(function, *arguments) if fuses() else function(*arguments)

    return run  # type: ignore[return-value]


def _fused(function: Callable, *arguments: Any) -> Any:
    global _broken
    try:
        return _compiled(function)(*arguments)
    except Exception as error:  # whatever a compiler may throw, the plain function serves
        found = function(*arguments)
        _broken = True
        reason = (str(error).splitlines() or [""])[0]
        warn(f"torch.compile is off: {type(error).__name__}: {reason}; plain torch serves, more slowly")
        return found


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)
