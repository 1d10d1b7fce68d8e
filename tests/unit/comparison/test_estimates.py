"""Student's t, the two tests and Holm's correction, against closed forms, enumeration and worked examples."""

from __future__ import annotations

from itertools import product
from math import atan, pi, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.comparison.estimates import (
    differences,
    estimate,
    holm,
    incomplete_beta,
    least_seeds,
    paired_t,
    sign_flip,
    student_cdf,
    student_quantile,
)


@given(st.floats(-50, 50))
def test_student_has_closed_forms_for_one_and_two_degrees(t: float) -> None:
    assert student_cdf(t, 1) == pytest.approx(0.5 + atan(t) / pi, abs=1e-12)
    assert student_cdf(t, 2) == pytest.approx(0.5 + t / (2 * sqrt(2 + t * t)), abs=1e-12)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062047), (2, 4.30265273), (4, 2.77644511), (9, 2.26215716), (1000, 1.96233908)]
)
def test_quantiles_are_those_of_printed_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-8)


@given(st.floats(0, 1), st.floats(0.1, 20), st.floats(0.1, 20))
def test_the_beta_function_is_symmetric_and_a_power_for_b_one(x: float, a: float, b: float) -> None:
    assert incomplete_beta(x, a, b) == pytest.approx(1 - incomplete_beta(1 - x, b, a), abs=1e-9)
    assert incomplete_beta(x, a, 1.0) == pytest.approx(x**a, abs=1e-10)


def test_the_interval_of_three_values_by_hand() -> None:
    found = estimate([98.47, 98.48, 98.50])
    assert found.mean == pytest.approx(98.48333333)
    assert found.margin == pytest.approx(4.30265273 * 0.0152752523 / sqrt(3), rel=1e-6)
    assert estimate([98.0]).margin is None


def test_the_paired_t_test_by_hand() -> None:
    # mean 1, s = 1, n = 4: t = 2 with 3 degrees; the closed form for 3 degrees gives the tail
    t, x = 2.0, 2.0 / sqrt(3)
    tail = 0.5 - (atan(x) + x / (1 + x * x)) / pi
    assert paired_t([1 - sqrt(1.5), 1 + sqrt(1.5), 1.0, 1.0]) == pytest.approx(2 * tail, abs=1e-12)
    assert paired_t([1.0]) is None
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.5, 0.5]) == 0.0
    assert t > 0


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=7))
def test_the_sign_flip_test_is_enumeration(values: list[int]) -> None:
    wanted = sum(
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= abs(sum(values))
        for signs in product((1, -1), repeat=len(values))
    ) / 2 ** len(values)
    assert sign_flip([float(v) for v in values]) == pytest.approx(wanted)


def test_the_sign_flip_test_cannot_go_below_its_least() -> None:
    assert sign_flip([1.0, 2.0, 3.0]) == 0.25
    assert sign_flip([]) is None
    assert sign_flip([1.0] * 21) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lowers_nothing(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(a is not None and a >= p for a, p in zip(adjusted, values, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [adjusted[k] for k in order] == sorted(a for a in adjusted if a is not None)


def test_differences_say_when_there_are_too_few_seeds() -> None:
    (found,) = differences({"bp": {0: 98.5, 1: 98.4, 2: 98.6}, "zo": {0: 90.1, 1: 90.3, 2: 90.2, 9: 1.0}})
    assert found.seeds == 3
    assert found.signs == 0.25
    assert found.t is not None
    assert found.t < 0.001
    assert found.words.startswith("bp is above zo by the t test alone")
    assert found.words.endswith("too few seeds to tell: the sign-flip test needs 6, there are 3")
    (alone,) = differences({"bp": {0: 98.5}, "zo": {1: 90.1}})
    assert (alone.seeds, alone.estimate, alone.t, alone.signs) == (0, None, None, None)
    assert alone.words == "too few seeds to tell: 0 in common"


def test_differences_over_enough_seeds() -> None:
    noise = [0.01, -0.02, 0.03, 0.0, -0.01, 0.02, 0.01]
    rows = {"bp": dict(enumerate(98 + n for n in noise)), "dfa": dict(enumerate(97 - n for n in noise))}
    (found,) = differences(rows)
    assert found.words == "bp is above dfa"
    (same,) = differences({"a": dict(enumerate(noise)), "b": dict(enumerate(reversed(noise)))})
    assert same.words == "no difference shown"
    assert [least_seeds(m) for m in (1, 3, 10)] == [6, 7, 9]
