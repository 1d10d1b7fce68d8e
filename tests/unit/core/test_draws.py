"""Keyed draws: who asks, and in which order, changes nothing; laws have the moments they promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from onward.core.draws import Gaussian, Keep, Key, KeyedDraws, Law, Rademacher, RecordedDraws, Sphere, Uniform
from onward.core.errors import ConfigError, ShapeError

LAWS: list[Law] = [Rademacher(), Gaussian(), Sphere(), Uniform(), Keep(0.3)]
LIKE = torch.zeros((), dtype=torch.float64)
KEY = Key("noise", "layer", 3)
each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)


def numbers(law: Law, steps: Tensor, ids: Tensor, n: int = 8, key: Key = KEY, seed: int = 0) -> Tensor:
    return KeyedDraws(seed).draw(law, key, steps, ids, (n,), LIKE)


@each_law
@given(st.integers(0, 40), st.integers(1, 9), st.permutations(range(6)))
def test_any_part_in_any_order_is_the_same_part_of_the_whole(law: Law, start: int, length: int, order: list) -> None:
    whole = numbers(law, torch.arange(50), torch.arange(6))
    part = numbers(law, torch.arange(start, start + length), torch.tensor(order))
    assert torch.equal(part, whole[start : start + length][:, order])


@each_law
def test_negative_steps_and_large_ids_are_keys_too(law: Law) -> None:
    ids = torch.tensor([0, 2**40, 2**62])
    both = numbers(law, torch.tensor([-1, 0]), ids, n=64)
    assert len(both.unique(dim=0)) == 2
    assert torch.equal(both, numbers(law, torch.tensor([-1, 0]), ids, n=64))


@pytest.mark.parametrize(
    "other",
    [Key("dropout", "layer", 3), Key("noise", "other", 3), Key("noise", "layer", 4), Key("noisel", "ayer", 3)],
    ids=str,
)
def test_another_key_gives_independent_numbers(other: Key) -> None:
    a, b = (numbers(Gaussian(), torch.arange(50), torch.arange(40), key=key) for key in (KEY, other))
    assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5


def test_another_seed_gives_independent_numbers() -> None:
    a, b = (numbers(Gaussian(), torch.arange(50), torch.arange(40), seed=seed) for seed in (0, 1))
    assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5


@pytest.mark.parametrize(
    ("law", "mean", "variance", "fourth"),
    [
        (Rademacher(), 0.0, 1.0, 1.0),
        (Gaussian(), 0.0, 1.0, 3.0),
        (Sphere(), 0.0, 1.0, 3 * 50 / 52),
        (Uniform(), 0.5, 1 / 12, 1 / 80),
        (Keep(0.3), 1.0, 0.3 / 0.7, 0.3 + 0.7 * (0.3 / 0.7) ** 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_moments(law: Law, mean: float, variance: float, fourth: float) -> None:
    x = numbers(law, torch.arange(40), torch.arange(100), n=50)
    centred = x - mean
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(centred.square().mean()) == pytest.approx(variance, rel=0.02)
    assert float(centred.pow(4).mean()) == pytest.approx(fourth, rel=0.03)


@pytest.mark.parametrize("law", LAWS[:4], ids=lambda law: type(law).__name__)
def test_numbers_are_uncorrelated_over_steps_samples_and_units(law: Law) -> None:
    x = numbers(law, torch.arange(60), torch.arange(60), n=60)
    x = (x - x.mean()) / x.std()
    count = x.numel()
    for dim in range(3):
        for lag in (1, 2, 3, 7):
            n = x.shape[dim] - lag
            correlation = (x.narrow(dim, 0, n) * x.narrow(dim, lag, n)).mean()
            assert abs(float(correlation)) < 5 / count**0.5


@pytest.mark.parametrize("n", [10, 64, 100])
def test_perturbations_have_unit_covariance(n: int) -> None:
    """E[z z^T] = I for all three laws: what makes the estimate of the Jacobian unbiased."""
    for law in (Rademacher(), Gaussian(), Sphere()):
        z = numbers(law, torch.arange(200), torch.arange(100), n=n).flatten(0, 1)
        covariance = z.T @ z / len(z)
        assert (covariance - torch.eye(n)).abs().max() < 6 / len(z) ** 0.5


def test_every_bit_of_a_word_is_fair() -> None:
    z = numbers(Rademacher(), torch.arange(100), torch.arange(200), n=128)
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    assert z.mean((0, 1)).abs().max() < 5 / 20000**0.5


def test_the_sphere_has_its_radius() -> None:
    z = numbers(Sphere(), torch.arange(5), torch.arange(5), n=30)
    assert torch.allclose(z.norm(dim=-1), torch.full((5, 5), 30.0).double().sqrt())


def test_dropout_masks_are_zero_or_rescaled() -> None:
    mask = numbers(Keep(0.25), torch.zeros(1, dtype=torch.int64), torch.arange(500), n=40)
    assert torch.allclose(mask.unique(), torch.tensor([0, 1 / 0.75]).double())
    assert float((mask == 0).double().mean()) == pytest.approx(0.25, abs=0.015)
    with pytest.raises(ConfigError, match=r"probability of 1\.0 was given; expected 0 <= p < 1"):
        Keep(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_numbers_come_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    for law in LAWS:
        x = KeyedDraws(0).draw(law, KEY, torch.arange(2), torch.arange(3), (4, 5), torch.zeros((), dtype=dtype))
        assert x.dtype == dtype
        assert x.shape == (2, 3, 4, 5)


def test_subsets_are_distinct_and_repeatable() -> None:
    found = [KeyedDraws(1).subset(Key("subset", "", n), 10, 4) for n in range(100)]
    assert all(len(set(subset)) == 4 and set(subset) <= set(range(10)) for subset in found)
    assert found == [KeyedDraws(1).subset(Key("subset", "", n), 10, 4) for n in range(100)]


def test_recorded_draws_are_returned_step_by_step() -> None:
    z = torch.randn(6, 3, 4)
    draws = RecordedDraws({("noise", "layer"): z})
    assert torch.equal(draws.draw(Gaussian(), KEY, torch.tensor([2, 4]), torch.arange(3), (4,), z), z[[2, 4]])


def test_recorded_draws_say_what_is_missing() -> None:
    draws = RecordedDraws({("noise", "other"): torch.zeros(6, 3, 4)})
    with pytest.raises(ConfigError, match="no draws were recorded for noise/layer; recorded: noise/other"):
        draws.draw(Gaussian(), KEY, torch.arange(2), torch.arange(3), (4,), LIKE)
    with pytest.raises(ShapeError, match=r"expected \[2, 3, 5\]"):
        draws.draw(Gaussian(), Key("noise", "other", 0), torch.arange(2), torch.arange(3), (5,), LIKE)
