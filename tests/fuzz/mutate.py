"""Valid inputs, damaged at random: the same seed and number always give the same damage."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

Parts = tuple[bytes, ...]
Change = Callable[[bytes, Random], bytes]

CHANGES = (1, 1, 1, 2, 3, 4)
EDGES = [n for bits in (7, 8, 15, 16, 31, 32, 63, 64) for n in (2**bits - 1, 2**bits)]
NUMBERS = [0, 1, 2, 10, 1000, 10**6, 10**9, 10**12, *EDGES]
MAGICS = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"\x93NUMPY\x01\x00",
    b"\x93NUMPY\x03\x00",
    b"\xfd7zXZ\x00\x00\x04",
    b"\x5d\x00\x00\x80\x00",
    b"\x1f\x8b\x08\x00",
    b"BZh9",
    b"\x00\x00\x08\x03",
    b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00",
)
TEXTS = (
    *(str(n).encode() for n in NUMBERS),
    *(str(-n).encode() for n in NUMBERS),
    b"nan",
    b"-inf",
    b"1e308",
    b"1e-400",
    b"0x" + b"f" * 2000,
    b"9" * 5000,
    b"none",
    b"true",
    b"[",
    b"[" * 3000,
    b"{a=" * 400,
    b"(" * 300,
    b"A" * 5000,
    b"\x1b[2J",
    b"\r\n",
    "\u202e\U0010ffff".encode(),
)
HARMFUL = (
    b"os.system",
    b"__import__('os').system('true')",
    b"fuzz_canary",
    b"fuzz_canary.boom",
    b"fuzz_canary:boom",
    b"builtins.eval",
    b"!!python/object/apply:os.system",
    b"${fuzz_canary}",
    b"__class__",
    b"../../../../etc/passwd",
    b"/dev/zero",
    b"~nobody-of-this-name/x.npz",
)


def flip(data: bytes, rng: Random) -> bytes:
    """Some bits of one neighbourhood."""
    out, start = bytearray(data), rng.randrange(len(data) or 1)
    for _ in range(rng.randint(1, 8)):
        place = min(len(out) - 1, start + rng.randint(0, 8))
        if place >= 0:
            out[place] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncate(data: bytes, rng: Random) -> bytes:
    """The beginning, or the end."""
    cut = rng.randint(0, len(data))
    return data[:cut] if rng.random() < 0.8 else data[cut:]


def remove(data: bytes, rng: Random) -> bytes:
    """Without a slice."""
    start, stop = _slice(data, rng)
    return data[:start] + data[stop:]


def repeat(data: bytes, rng: Random) -> bytes:
    """A slice several times."""
    start, stop = _slice(data, rng)
    return data[:stop] + data[start:stop] * rng.choice([1, 1, 2, 30]) + data[stop:]


def length_field(data: bytes, rng: Random) -> bytes:
    """1, 2, 4 or 8 bytes overwritten by a number at the edge of what they hold, in either byte order."""
    width = rng.choice([1, 2, 4, 8])
    number = rng.choice(NUMBERS) % 2 ** (8 * width)
    ends = rng.choice([64, len(data)])
    place = rng.randrange(max(1, min(ends, len(data))))
    place = place if rng.random() < 0.6 else max(0, len(data) - place - width)
    return data[:place] + number.to_bytes(width, rng.choice(["little", "big"])) + data[place + width :]


def number_in_text(data: bytes, rng: Random) -> bytes:
    """A number written in digits replaced by another."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return data
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(TEXTS) + data[match.end() :]


def magic(data: bytes, rng: Random) -> bytes:
    """The first bytes of some format, inserted or written over."""
    place, word = rng.choice([0, rng.randint(0, len(data))]), rng.choice(MAGICS)
    return data[:place] + word + data[place + rng.choice([0, len(word)]) :]


class Mutator:
    """Damages inputs of one format, whose own ``words`` it inserts besides those above; ``seeds`` may be spliced."""

    def __init__(self, seeds: Sequence[Parts], words: Sequence[bytes] = ()):
        self.seeds = seeds
        self._words = (*TEXTS, *HARMFUL, *words, *words)
        self._changes: tuple[Change, ...] = (
            flip,
            truncate,
            remove,
            repeat,
            length_field,
            number_in_text,
            magic,
            self._word,
            self._splice,
        )

    def parts(self, rng: Random) -> Parts:
        """A seed with one part damaged, now and then with parts in other places."""
        parts = list(rng.choice(self.seeds))
        place = rng.randrange(len(parts))
        parts[place] = self.damaged(parts[place], rng)
        if len(parts) > 1 and rng.random() < 0.2:
            self._rearrange(parts, rng)
        return tuple(parts)

    def damaged(self, data: bytes, rng: Random) -> bytes:
        """``data`` after one change, or some."""
        for _ in range(rng.choice(CHANGES)):
            data = rng.choice(self._changes)(data, rng)
        return data

    def _word(self, data: bytes, rng: Random) -> bytes:
        """A word inserted, or in place of a word."""
        place, word = rng.randint(0, len(data)), rng.choice(self._words)
        found = list(re.finditer(rb"[\w.-]+", data)) if rng.random() < 0.5 else []
        if found:
            match = rng.choice(found)
            return data[: match.start()] + word + data[match.end() :]
        return data[:place] + word + data[place:]

    def _splice(self, data: bytes, rng: Random) -> bytes:
        """The beginning of this and the end of another."""
        other = rng.choice(rng.choice(self.seeds))
        return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]

    def _rearrange(self, parts: list[bytes], rng: Random) -> None:
        one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(4):
            case 0:
                parts[one], parts[two] = parts[two], parts[one]
            case 1:
                parts.insert(one, parts[two])
            case 2:
                parts.insert(one, rng.choice(self._words))
            case _:
                parts[one] = rng.choice(rng.choice(self.seeds))


def _slice(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice([1, 4, 16, 200]))
