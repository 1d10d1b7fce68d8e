"""What torch lets callers hand to an optimiser's step."""

from __future__ import annotations

from collections.abc import Callable

import torch


def worked_out(closure: Callable[[], float] | None) -> float | None:
    """The loss that a closure works out; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
