"""How much a compressed file may unpack to, so that a small one cannot ask for all memory."""

from __future__ import annotations

from typing import Protocol

ALWAYS = 64 * 2**20
"""Bytes that any file may unpack to: more than MNIST and Fashion-MNIST, less than any machine has."""

RATIO = 200
"""Beyond, how many times its own size a file may unpack to. Images pack 2 to 10 times, sparse frames up to 100, zeros
1,000 times (deflate) and more (xz)."""

_PART = 2**24


class Readable(Protocol):
    """A file, as far as it is needed here."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


def allowance(packed: int) -> int:
    """Bytes that ``packed`` bytes may unpack to.

    >>> allowance(1000) == ALWAYS, allowance(10**9)
    (True, 200000000000)
    """
    return max(ALWAYS, RATIO * packed)


def refusal(announced: int, packed: int) -> str:
    """What is said of a file that announces more."""
    return (
        f"announces {announced:,} bytes, and {packed:,} may unpack to {allowance(packed):,} at most; the file is "
        "damaged or made to fill memory (if it is meant so, store it uncompressed)"
    )


def read_up_to(file: Readable, size: int) -> bytearray:
    """The next ``size`` bytes, or fewer at the end; takes memory for what comes, not for what was announced."""
    payload = bytearray()
    while len(payload) < size and (part := file.read(min(size - len(payload), _PART))):
        payload += part
    return payload
