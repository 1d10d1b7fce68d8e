"""A step of a layer of ternary couples: charge, fire, reset, and what is counted, in one pass.

u = leak u + current;    q = [u >= V] - [u <= -V];    r = D q;    u = u - r
total = leak total + r,  fired = fired + |q|,         sent = gain mask r
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from onward.kernels.compiled import Kernel
from onward.kernels.host import fills


class Memory(NamedTuple):
    """What a layer keeps, written in place: potentials, sum of what was emitted, number of firings."""

    u: Tensor
    total: Tensor
    fired: Tensor


class Law(NamedTuple):
    """The numbers of a couple: what a step keeps of the potential, the threshold V, and the charge D."""

    leak: float
    threshold: float
    charge: float


def couple(current: Tensor, memory: Memory, law: Law, mask: Tensor, gain: Tensor | float) -> Tensor:
    """One step under ``current``; what is sent, in the shape of the layer. The memory is written."""
    tensors = (current, *memory, mask)
    if COUPLE.serves(*tensors) and fills(current) and len({t.stride() for t in tensors}) == 1:
        sent = torch.empty_like(current)
        numbers = (np.float32(number) for number in (*law, float(gain)))
        COUPLE(*(t.as_strided((t.numel(),), (1,)) for t in (*tensors, sent)), *numbers)
        return sent
    return plain_couple(current, memory, law, mask, gain)


def plain_couple(current: Tensor, memory: Memory, law: Law, mask: Tensor, gain: Tensor | float) -> Tensor:
    """The plain twin."""
    u = torch.add(current, memory.u, alpha=law.leak)
    q = (u >= law.threshold).to(u.dtype) - (u <= -law.threshold).to(u.dtype)
    r = law.charge * q
    memory.u.copy_(u - r)
    memory.total.mul_(law.leak).add_(r)
    memory.fired.add_(q.abs())
    return gain * mask * r


def _agrees() -> bool:
    currents = torch.linspace(-2, 2, 5 * 4099).view(4099, 5).T.contiguous()
    found = []
    for step in (couple, plain_couple):
        memory = Memory(*(torch.zeros(4099) for _ in range(3)))
        mask = (torch.arange(4099) % 3 > 0).float()
        sent = [step(current, memory, Law(0.75, 0.5, 1.0), mask, 0.5) for current in currents]
        found.append(torch.stack([*sent, *memory]))
    return bool(((found[0] - found[1]).abs() < 1e-5).float().mean() > 0.99)  # rounding may decide a tie


COUPLE = Kernel("couple", _agrees, least=4096)
