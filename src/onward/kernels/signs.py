"""Random bits as signs: bit j of a row of bytes becomes +1 or -1."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from onward.kernels.compiled import Kernel


@cache
def _table(device: torch.device, dtype: torch.dtype) -> Tensor:
    byte = torch.arange(256, device=device)[:, None]
    bits = (byte >> torch.arange(8, device=device)) & 1
    return (2 * bits - 1).to(dtype)


def plain(octets: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The plain twin of `signs`."""
    return _table(octets.device, dtype)[octets.int()].flatten(1)[:, :n]


def signs(octets: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """``n`` signs from each row of ``octets`` ``[R, bytes]``, uint8.

    >>> signs(torch.tensor([[5]], dtype=torch.uint8), 4, torch.float32).tolist()
    [[1.0, -1.0, 1.0, -1.0]]
    """
    out = torch.empty(len(octets), n, dtype=dtype, device=octets.device)
    if not EXPAND.serves(out):
        return plain(octets, n, dtype)
    EXPAND(octets, out)
    return out


def _agrees() -> bool:
    octets = torch.arange(256, dtype=torch.uint8).view(16, 16)
    found = torch.empty(16, 123)
    EXPAND(octets, found)
    return torch.equal(found, plain(octets, 123, torch.float32))


EXPAND = Kernel("expand", _agrees, least=1 << 14)
