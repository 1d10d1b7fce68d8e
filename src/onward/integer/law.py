"""The numbers of integer OPZO: shifts in place of factors, and the bounds that keep every sum within its register."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from onward.core.errors import ConfigError

BYTE, WORD, LONG = 127, 32_767, 2**31 - 1
"""The largest numbers of eight, sixteen and thirty-two bits; the smallest in use are their negatives."""

RANDOM_BITS = 16
"""Random bits that a rounding draws, and the most that a shift can throw away."""


class Law(NamedTuple):
    """Fixed-point scales, all of them exponents of two but for ``steps`` and ``goal``.

    ``leak``: a membrane or trace x loses x >> leak a step, so that lambda = 1 - 2^-leak.
    ``noise``: the threshold sways by threshold >> noise.
    ``window``: the surrogate slope is 1 where |u - threshold| < threshold >> window, else 0.
    ``spike``: a spike adds 2^spike to its trace.
    ``goal``: what the right class has to read after t steps is goal t, every other one -goal t.
    ``error``, ``credit``: the error, and the credit M e, are shifted so far to fit eight bits.
    ``gain``: the readout's difference is shifted up so far before M averages it, with momentum 1 - 2^-rho.
    ``levels``: inputs have so many bits.
    """

    steps: int = 4
    leak: int = 1
    noise: int = 3
    window: int = 1
    spike: int = 4
    goal: int = 1024
    error: int = 5
    credit: int = 8
    gain: int = 6
    rho: int = 14
    levels: int = 4


def check(law: Law, sizes: Sequence[int], thresholds: Sequence[int], rates: Sequence[int]) -> None:
    """Raises `ConfigError` where a number is out of range, or where a sum could outgrow its register.

    >>> check(Law(), (784, 256, 10), (8192,), (12, 10))
    """
    if len(sizes) < 3 or min(sizes) < 1:
        raise ConfigError(f"layers of {list(sizes)} were given; expected inputs, hidden layers and classes, such as "
                          "[784, 256, 10]")  # fmt: skip
    if len(thresholds) != len(sizes) - 2 or len(rates) != len(sizes) - 1:
        raise ConfigError(
            f"{len(thresholds)} thresholds and {len(rates)} rates were given for {len(sizes) - 2} hidden layers; "
            "expected a threshold for each of them, and a rate for each of them and for the readout"
        )
    if law.steps < 2 or law.steps % 2:
        raise ConfigError(f"{law.steps} time steps were given; noise comes in pairs of steps: expected 2, 4, 6 or more")
    for name, shift in _shifts(law, rates):
        if not 1 <= shift <= RANDOM_BITS:
            raise ConfigError(f"a shift of {shift} was given for {name}; expected 1 to {RANDOM_BITS}")
    for name, found, most in worst(law, sizes, thresholds, rates):
        if found > most:
            raise ConfigError(f"{name} can reach {found:,}, and its register holds {most:,}; give smaller layers, "
                              "thresholds or shifts")  # fmt: skip


def _shifts(law: Law, rates: Sequence[int]) -> list[tuple[str, int]]:
    named = {"leak": law.leak, "error": law.error, "credit": law.credit, "rho": law.rho}
    return [*named.items(), *(("a learning rate", rate) for rate in rates)]


def worst(
    law: Law, sizes: Sequence[int], thresholds: Sequence[int], rates: Sequence[int]
) -> list[tuple[str, int, int]]:
    """Name, largest possible magnitude and register of every intermediate result, whatever inputs and weights are.

    A trace that decays by a >> leak never exceeds 2^leak times what one step adds.
    """
    top = 2**law.levels - 1
    drives = [n * BYTE * (top if k == 0 else 1) for k, n in enumerate(sizes[:-1])]
    out = drives[-1]
    return [
        ("an input's trace", top << law.leak, BYTE),
        ("a spike's trace", 1 << law.spike + law.leak, BYTE),
        ("a threshold", max(thresholds), WORD),
        ("a membrane", max(drives) + WORD + 2 * max(thresholds), LONG),
        ("the readout's sum", law.steps * (out + law.goal) + (1 << law.error), LONG),
        ("the readout's difference", 2 * out << law.gain, LONG),
        ("a credit", sizes[-1] * (WORD + 1) * BYTE + (1 << law.credit), LONG),
        ("a change of a weight", BYTE * BYTE + (1 << max(rates)), LONG),
        ("a change of feedback", 2 * WORD + 1 + (1 << law.rho), LONG),
    ]
