"""What a lesson of integer OPZO takes, and what the same events would take in 32-bit floats.

Energies are those of `onward.energy.constants` (Horowitz 2014). A shift is wiring, a sign flip is part of an addition.
Wherever a sum is wider than eight bits it is charged as one of 32; an int16 times int8 is two products of eight bits.
In floats, each of these is one multiplication with addition, but for a weight that meets a spike, which is an addition.
Random bits have no published energy: they are counted, not charged. Fetches are charged by bytes from a cache of 1 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from numpy import ndarray

from onward.energy.constants import technology
from onward.integer.law import RANDOM_BITS, Law
from onward.integer.plain import ADDITIONS, CHANGES, CREDIT_PRODUCTS, INPUT_PRODUCTS, WORDS


class Operations(NamedTuple):
    """``number`` of operations a sample; each takes products and sums of 8 bits, sums of 32, and fetches bytes.

    ``float_products`` and ``float_sums`` are what the same takes in floats, which fetch four bytes where integers fetch
    one of a weight, or two of a feedback matrix.
    """

    name: str
    number: float
    products: int
    sums_8: int
    sums_32: int
    bytes: int
    float_products: int
    float_sums: int
    float_bytes: int

    @property
    def picojoules(self) -> tuple[float, float]:
        """In integers, and in floats."""
        byte, long, single = (technology(f"45nm-{kind}") for kind in ("int8", "int32", "fp32"))
        whole = self.products * (byte.mac - byte.ac) + self.sums_8 * byte.ac + self.sums_32 * long.ac
        return self.number * whole, self.number * (
            self.float_products * (single.mac - single.ac) + self.float_sums * single.ac
        )

    @property
    def fetched(self) -> tuple[float, float]:
        """Picojoules of memory, in integers and in floats."""
        byte = technology("45nm-int8").word
        return self.number * self.bytes * byte, self.number * self.float_bytes * byte


def operations(law: Law, sizes: Sequence[int], counts: ndarray, samples: int) -> list[Operations]:
    """Operations of a sample that was learned; ``counts`` are sums over ``samples``."""
    hidden, steps = sum(sizes[1:-1]), law.steps
    inputs, spikes, credit, changes = (
        float(counts[k]) / samples for k in (INPUT_PRODUCTS, ADDITIONS, CREDIT_PRODUCTS, CHANGES)
    )
    feedback = hidden * sizes[-1] * steps / 2
    return [
        Operations("inputs meet weights", inputs, 1, 0, 1, 1, 1, 1, 4),
        Operations("spikes meet weights", spikes, 0, 0, 1, 1, 0, 1, 4),
        Operations("membranes leak and charge", float(hidden * steps), 0, 0, 2, 4, 1, 1, 8),
        Operations("traces", float((hidden + sizes[0]) * steps), 0, 0, 2, 4, 1, 1, 8),
        Operations("credit M e", credit, 2, 0, 2, 2, 1, 1, 4),
        Operations("changes of weights", changes, 1, 1, 1, 2, 1, 1, 8),
        Operations("changes of M", feedback, 0, 0, 3, 4, 1, 1, 8),
    ]


def random_bits(law: Law, sizes: Sequence[int], counts: ndarray, samples: int) -> float:
    """Random bits a sample: one a hidden neuron and pair of steps for noise, the rest for rounding."""
    return sum(sizes[1:-1]) * law.steps / 2 + RANDOM_BITS * float(counts[WORDS]) / samples
