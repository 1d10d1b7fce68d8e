"""Random words from keys, their bits as signs, and as uniform and normal numbers.

    word_i = mix(key + i G),   i = 1, 2, ...;   ``mix`` is the splitmix64 finaliser, G the golden ratio

Written in wrapping 64-bit integers, so that every device sees the same words.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from onward.kernels.compiled import Kernel

GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def signed(value: int) -> int:
    """The 64 bits of ``value`` as a signed integer, which is all that torch has."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """The splitmix64 finaliser (Steele, Lea & Flood 2014)."""
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ shifted(z, 31)


def mixed(z: int) -> int:
    """`mix` of one integer, as 64 unsigned bits: a tensor of one costs more than its number.

    >>> signed(mixed(-5)) == int(mix(torch.tensor(-5)))
    True
    """
    z &= _MASK64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK64
    return z ^ z >> 31


def words(keys: Tensor, count: int) -> Tensor:
    """``count`` 64-bit words for each of the keys ``[R]``: ``[R, count]``."""
    counter = torch.arange(1, count + 1, device=keys.device) * signed(GOLDEN)
    return mix(keys[:, None] + counter)


@cache
def _table(device: torch.device, dtype: torch.dtype) -> Tensor:
    byte = torch.arange(256, device=device)[:, None]
    bits = (byte >> torch.arange(8, device=device)) & 1
    return (2 * bits - 1).to(dtype)


def plain_signs(keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The plain twin of `signs`."""
    octets = words(keys, (n + 63) // 64).view(torch.uint8)
    return _table(keys.device, dtype)[octets.int()].flatten(1)[:, :n]


def signs(keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """``n`` of +1 and -1 for each of the keys ``[R]``, one hashed bit a number.

    >>> signs(torch.tensor([1]), 6, torch.float32).abs().tolist()
    [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    out = torch.empty(len(keys), n, dtype=dtype, device=keys.device)
    if not SIGNS.serves(out):
        return plain_signs(keys, n, dtype)
    SIGNS(keys.numpy().view("uint64"), out)
    return out


def uniforms(keys: Tensor, count: int) -> Tensor:
    """``count`` float64 numbers in (0, 1) for each of the keys ``[R]``, 32 bits each."""
    found = words(keys, (count + 1) // 2)
    halves = torch.stack([shifted(found, 32), found & 0xFFFFFFFF], dim=-1).flatten(1)
    return (halves[:, :count].double() + 0.5) / 2**32


def plain_normals(keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The plain twin of `normals`."""
    half = (n + 1) // 2
    u = uniforms(keys, 2 * half).view(len(keys), half, 2)
    radius, angle = (-2 * u[..., 0].log()).sqrt(), 2 * torch.pi * u[..., 1]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :n].to(dtype)


def normals(keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """``n`` of N(0, 1) for each of the keys ``[R]``, by the transform of Box and Muller, one word for two numbers."""
    out = torch.empty(len(keys), n, dtype=dtype, device=keys.device)
    if not NORMALS.serves(out):
        return plain_normals(keys, n, dtype)
    NORMALS(keys.numpy().view("uint64"), out)
    return out


def _normals_agree() -> bool:
    keys = torch.arange(-8, 8) * signed(GOLDEN * 3)
    found = torch.empty(16, 123)
    NORMALS(keys.numpy().view("uint64"), found)
    return torch.allclose(found, plain_normals(keys, 123, torch.float32), atol=1e-6)


def _agrees() -> bool:
    keys = torch.arange(-8, 8) * signed(GOLDEN * 3)
    found = torch.empty(16, 123)
    SIGNS(keys.numpy().view("uint64"), found)
    return torch.equal(found, plain_signs(keys, 123, torch.float32))


SIGNS = Kernel("signs", _agrees, least=1 << 14)
NORMALS = Kernel("normals", _normals_agree, least=1 << 12)
