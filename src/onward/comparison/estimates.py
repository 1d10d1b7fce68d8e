"""Means over few seeds, and whether differences between them are more than chance.

No library is needed: Student's t is the incomplete beta function, I_x(a, b), whose continued fraction converges in some
dozens of terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, fsum, lgamma, log, sqrt
from statistics import mean, stdev

LEVEL = 0.05
"""A difference is called one where chance makes as large a one more rarely than this."""
MOST_SIGNS = 20
"""Of the exact test: it looks at 2 to the number of pairs."""
TINY = 1e-300


@dataclass(frozen=True)
class Estimate:
    """A mean over ``values``; ``margin`` is half of its 95 % interval by Student's t, None for a single value."""

    values: tuple[float, ...]
    mean: float
    margin: float | None


@dataclass(frozen=True)
class Difference:
    """``one`` minus ``other`` over the seeds that both have.

    ``t`` and ``signs`` are p-values of the paired t test and of the exact sign-flip test, after Holm's correction for
    all pairs at hand; None where there are too few seeds. ``words`` say what follows from them.
    """

    one: str
    other: str
    seeds: int
    estimate: Estimate | None
    t: float | None
    signs: float | None
    words: str


def estimate(values: Sequence[float]) -> Estimate:
    """mean +- t_{0.975, n-1} s / sqrt(n).

    >>> round(estimate([1.0, 2.0, 3.0]).margin, 4)
    2.4841
    """
    n = len(values)
    margin = student_quantile(0.975, n - 1) * stdev(values) / sqrt(n) if n > 1 else None
    return Estimate(tuple(values), mean(values), margin)


def paired_t(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of mean / (s / sqrt(n)) under Student's t with n - 1 degrees; None for n = 1.

    Differences that are all the same leave nothing to chance: p is 0, and 1 where they are all zero.
    """
    n = len(differences)
    if n < 2:
        return None
    spread, centre = stdev(differences), mean(differences)
    if spread == 0:
        return 0.0 if centre else 1.0
    return 2 * student_cdf(-abs(centre) / (spread / sqrt(n)), n - 1)


def sign_flip(differences: Sequence[float]) -> float | None:
    """The share of the 2^n ways to choose signs whose sum is as far from zero as the one at hand, or further.

    Exact under the null hypothesis that both sides are interchangeable in every pair; its smallest value is 2^(1-n).
    None for no pairs, and for more than `MOST_SIGNS`.
    """
    if not 0 < len(differences) <= MOST_SIGNS:
        return None
    sums = [0.0]
    for difference in map(abs, differences):
        sums = [total + sign for total in sums for sign in (difference, -difference)]
    observed = abs(fsum(differences)) - 1e-9 * fsum(map(abs, differences))
    return sum(abs(total) >= observed for total in sums) / len(sums)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the k-th smallest of m is multiplied by m - k + 1, and none falls below the last.

    >>> holm([0.01, 0.04, None])
    [0.02, 0.04, None]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    floor = 0.0
    for rank, (p, place) in enumerate(known):
        floor = max(floor, min(1.0, p * (len(known) - rank)))
        adjusted[place] = floor
    return adjusted


def differences(rows: Mapping[str, Mapping[int, float]]) -> list[Difference]:
    """Every pair of ``rows`` (values by seed), tested over the seeds that both have."""
    pairs = list(combinations(rows, 2))
    shared = [[rows[a][s] - rows[b][s] for s in sorted(rows[a].keys() & rows[b].keys())] for a, b in pairs]
    t_tests, sign_tests = holm([paired_t(d) for d in shared]), holm([sign_flip(d) for d in shared])
    return [
        Difference(a, b, len(d), estimate(d) if d else None, t, signs, _words(a, b, d, t, signs, len(pairs)))
        for (a, b), d, t, signs in zip(pairs, shared, t_tests, sign_tests, strict=True)
    ]


def _words(a: str, b: str, pairs: Sequence[float], t: float | None, signs: float | None, tests: int) -> str:
    n = len(pairs)
    if n < 2 or t is None:
        return f"too few seeds to tell: {n} in common"
    larger, smaller = (a, b) if mean(pairs) > 0 else (b, a)
    if signs is not None and signs < LEVEL and t < LEVEL:
        return f"{larger} is above {smaller}"
    if least_seeds(tests) > n:
        hint = f"{larger} is above {smaller} by the t test alone, which takes differences to be normal; " * (t < LEVEL)
        return f"{hint}too few seeds to tell: the sign-flip test needs {least_seeds(tests)}, there are {n}"
    return "no difference shown"


def least_seeds(tests: int) -> int:
    """Pairs from which on the sign-flip test can reach `LEVEL`, whatever comes out, after Holm for so many tests.

    >>> least_seeds(1), least_seeds(3)
    (6, 7)
    """
    return next(n for n in range(1, 64) if tests * 2.0 ** (1 - n) < LEVEL)


def student_cdf(t: float, degrees: int) -> float:
    """P(X <= t) of Student's t: I_{v / (v + t^2)}(v / 2, 1 / 2) / 2 below zero, one minus that above."""
    tail = incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return tail if t <= 0 else 1 - tail


def student_quantile(probability: float, degrees: int) -> float:
    """The t with that much probability below it, for ``probability`` at least 1/2; by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for 0 <= x <= 1."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly: I_x(a, b) = 1 - I_{1-x}(b, a)
        return 1 - incomplete_beta(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(1 - x)) / a
    return front * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / ...)), evaluated from the front by Lentz's recursion."""
    value, c, d = 1.0, 1.0, 0.0
    for k in range(1, 1000):
        m, odd = divmod(k, 2)
        if odd:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or TINY)
        c = 1 + term / c or TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return 1 / value
