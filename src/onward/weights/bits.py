"""Truth values at one bit each: ceil(n / 8) bytes for n of them, the first in the lowest bit of the first byte."""

from __future__ import annotations

import torch
from torch import Tensor

BYTE = 8


def pack(values: Tensor) -> Tensor:
    """The truth ``values`` of any shape as bytes ``[ceil(n / 8)]``; what is left of the last byte is 0.

    >>> pack(torch.tensor([True, False, True])).tolist()
    [5]
    """
    flat = values.flatten().to(torch.uint8)
    filled = torch.nn.functional.pad(flat, (0, -len(flat) % BYTE)).view(-1, BYTE)
    return (filled << _places(filled)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The truth values of that ``shape`` that `pack` made ``packed`` of."""
    bits = ((packed[:, None] >> _places(packed)) & 1).flatten()
    return bits[: torch.Size(shape).numel()].view(shape).bool()


def _places(like: Tensor) -> Tensor:
    return torch.arange(BYTE, dtype=torch.uint8, device=like.device)
