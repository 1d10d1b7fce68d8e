"""The machine a process runs on: threads, registers, and an allocator that keeps its pages."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 << 20

SPAN = 64
"""Numbers whose sums are kept in registers together: half of the registers of AVX2, an eighth of those of AVX-512."""


def threads(most: int) -> int:
    """How many threads a loop of ours may use: as many as torch does, at most ``most``."""
    return max(1, min(torch.get_num_threads(), most))


def fills(x: Tensor) -> bool:
    """Whether ``x`` fills its memory without gaps or overlap, in whatever order of axes."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


@cache
def keep_pages() -> bool:
    """Tells glibc's allocator to keep what is freed; whether it could.

    Activations are tens of megabytes. By default each is mapped afresh and returned at once, and zeroing its pages
    costs more than the arithmetic on them. Does nothing where ``MALLOC_MMAP_MAX_`` is set, or without glibc.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_MAX_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _TOP_PAD))
    return all(mallopt(option, value) == 1 for option, value in settings)
