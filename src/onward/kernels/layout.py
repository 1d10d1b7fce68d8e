"""How maps lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def maps_last(x: Tensor) -> Tensor:
    """Rows of images ``[R, C, H, W]`` with channels last in memory: faster in float32 on CPUs."""
    if x.dim() != 4 or x.dtype is not torch.float32 or x.device.type != "cpu":
        return x
    return x.contiguous(memory_format=torch.channels_last)
