"""How loops in numba's subset of Python are compiled and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from onward.kernels.compiled import warn


def jit(**options: Any) -> Callable[[Callable], Callable]:
    """Compiles a loop and keeps the result on disk where there is a place for it."""

    def decorate(loop: Callable) -> Callable:
        try:
            return numba.njit(cache=True, error_model="numpy", **options)(loop)
        except RuntimeError:
            warn("compiled kernels cannot be kept on disk and are made anew in every process; set NUMBA_CACHE_DIR")
            return numba.njit(error_model="numpy", **options)(loop)

    return decorate
