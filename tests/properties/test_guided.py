"""Directions that bend towards the last estimate and update: covariance, limits, and what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward.core import CrossEntropy, GradSink, KeyedDraws, Network, PerStep, Static, run_sequence
from onward.core.drawn import BLOCK, Drawn, Ray, names_of
from onward.core.draws import Gaussian, Law, Rademacher
from onward.core.errors import ConfigError
from onward.core.recall import Recall, products
from onward.optim import Guided
from onward.optim.query import orthonormal
from onward.rules import rules
from onward.rules.guided import Bent, GuidedRule, draw_inside
from onward.testing.harness import relative
from onward.testing.zoo import data, make
from properties.weight_lab import flat, learn, stored

WIDE = torch.float64


def remembering(net: nn.Module, seed: int = 0) -> Recall:
    """A memory of an estimate and of an update that are neither 0 nor parallel."""
    recall, generator = Recall(names_of(net)), torch.Generator().manual_seed(seed)
    recall.estimate.copy_(torch.randn(recall.estimate.shape, generator=generator, dtype=WIDE))
    recall.weights.add_(torch.randn(recall.estimate.shape, generator=generator, dtype=WIDE), alpha=0.1)
    return recall


def guides_of(net: nn.Module, recall: Recall) -> Tensor:
    return torch.stack([recall.estimate, flat(net) - recall.weights])


def drawn_flat(net: nn.Module, direction: Ray | Bent) -> Tensor:
    """A direction over all parameters."""
    parts = []
    for p, name in names_of(net).items():
        blocks = p.detach().flatten().split(BLOCK)
        parts += [direction.block(name, number, values) for number, values in enumerate(blocks)]
    return torch.cat(parts)


def bent(net: nn.Module, recall: Recall, alpha: float, law: Law, sequence: int) -> Bent:
    ray, view = Ray(KeyedDraws(0), law, "probe/0", sequence), recall.view()
    found = products(view, ray, names_of(net))
    return Bent(ray, view, tuple(Guided(alpha).factors(found, draw_inside(ray, found)).tolist()))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_basis_is_orthonormal_and_spans_the_guides(k: int) -> None:
    rows = torch.randn(k, 30, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, rows[:1] * 3, rows.sum(0, keepdim=True), 0 * rows[:1]])
    basis = orthonormal(rows @ rows.T) @ rows
    assert len(basis) == k
    torch.testing.assert_close(basis @ basis.T, torch.eye(k, dtype=WIDE), rtol=0, atol=1e-9)
    torch.testing.assert_close((rows @ basis.T) @ basis, rows)


@pytest.mark.parametrize("law", [Rademacher(), Gaussian()], ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5])
def test_blocks_make_the_direction_that_whole_vectors_make(law: Law, alpha: float) -> None:
    net = Network(nn.Sequential(nn.Linear(300, 230), nn.Linear(230, 3))).double()  # more than a block
    recall = remembering(net)
    found = drawn_flat(net, bent(net, recall, alpha, law, 4))
    ray = Ray(KeyedDraws(0), law, "probe/0", 4)
    noise, inside = drawn_flat(net, ray), draw_inside(ray, torch.empty(0, dtype=WIDE))
    assert relative(found, Guided(alpha)(noise, inside, guides_of(net, recall))) < 1e-9
    assert found.norm().item() == pytest.approx(noise.norm().item())


def test_directions_have_the_covariance_that_is_claimed() -> None:
    """alpha I + (1 - alpha) Q Q^T before the norm is restored, which is that of the noise afterwards."""
    net, alpha, repeats = Network(nn.Linear(5, 2)).double(), 0.2, 3000
    recall = remembering(net)
    guides, found = guides_of(net, recall), torch.zeros(12, 12, dtype=WIDE)
    for sequence in range(repeats):
        direction = bent(net, recall, alpha, Rademacher(), sequence)
        z = drawn_flat(net, direction)
        assert z.square().sum().item() == pytest.approx(12)
        mixed = z * (alpha**0.5 / direction.factors[-1])
        found += mixed.outer(mixed) / repeats
    basis = orthonormal(guides @ guides.T) @ guides
    expected = alpha * torch.eye(12, dtype=WIDE) + (1 - alpha) * basis.T @ basis
    assert (found - expected).abs().max() < 0.04


def test_the_mean_estimate_of_a_linear_loss_is_the_covariance_times_the_gradient() -> None:
    g = torch.linspace(-1, 2, 12, dtype=WIDE)
    net, alpha = Network(nn.Linear(5, 2)).double(), 0.3
    recall = remembering(net)
    draws = torch.stack([drawn_flat(net, bent(net, recall, alpha, Rademacher(), n)) for n in range(3000)])
    mean, covariance = (draws * (draws @ g)[:, None]).mean(0), draws.T @ draws / len(draws)
    assert relative(mean, covariance @ g) < 1e-9
    basis = orthonormal(guides_of(net, recall) @ guides_of(net, recall).T) @ guides_of(net, recall)
    along, across = basis.T @ (basis @ mean), mean - basis.T @ (basis @ mean)
    inside = basis.T @ (basis @ g)
    assert along @ inside / (inside @ inside) > 1.5 * (across @ (g - inside)) / (g - inside).square().sum()


@pytest.mark.parametrize(("stencil", "twin"), [("antithetic", "mezo"), ("one-sided", "forward-difference")])
def test_alpha_one_is_the_rule_without_guides_to_the_bit(stencil: str, twin: str) -> None:
    options = {"eps": 0.05, "directions": 2, "law": "gaussian"}
    ways = {"name": "guided", "alpha": 1.0, "stencil": stencil, **options}, {"name": twin, **options}
    assert torch.equal(*(after(rule, 4) for rule in ways))


def guided(**options: Any) -> GuidedRule:
    rule = rules.build({"name": "guided", **options})
    assert isinstance(rule, GuidedRule)
    return rule


def after(rule: dict, updates: int) -> Tensor:
    """Weights after some updates by plain SGD."""
    net, (x, y), built = make("conv", torch.float32), data("conv", torch.float32), rules.build(rule)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for sequence in range(updates):
        stored(net, learn(net, built, x[0], y, sequence=sequence)[1])
        optimizer.step()
    return flat(net)


def test_the_first_mini_batch_has_no_guides() -> None:
    assert torch.equal(after({"name": "guided", "alpha": 0.0}, 1), after({"name": "mezo"}, 1))
    assert not torch.equal(after({"name": "guided", "alpha": 0.5}, 2), after({"name": "mezo"}, 2))


@pytest.mark.parametrize(("options", "rank"), [({}, 1), ({"momentum": 0.9}, 2), ({"weight_decay": 0.1}, 2)])
def test_estimate_and_update_are_remembered_whatever_made_the_update(options: dict, rank: int) -> None:
    net, (x, y) = make("mlp"), data("mlp")
    rule = guided(alpha=0.3)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, **options)
    gradient = before = flat(net)
    for sequence in range(3):
        before = flat(net)
        gradient = stored(net, learn(net, rule, x[0], y, sequence=sequence)[1])
        optimizer.step()
    view = rule.recall.view()
    seen = [view.guides(name, 0, p.detach().flatten()) for p, name in names_of(net).items()]
    estimate, update = torch.cat(seen, 1)
    assert torch.equal(estimate, gradient)
    assert torch.equal(update, flat(net) - before)
    ray = Ray(KeyedDraws(0), Rademacher(), "probe/0", 3)
    found = products(view, ray, names_of(net))
    assert len(orthonormal(found[:2, :2])) == rank


def test_alpha_zero_stays_in_the_span_of_the_guides() -> None:
    net, (x, y) = make("mlp"), data("mlp")
    rule = rules.build({"name": "guided", "alpha": 0.0})
    first, second = (stored(net, learn(net, rule, x[0], y, sequence=n)[1]) for n in range(2))
    cosine = first @ second / (first.norm() * second.norm())
    assert abs(float(cosine)) == pytest.approx(1)


def test_an_estimate_that_is_kept_does_not_change_with_the_next_one() -> None:
    net, (x, y), rule = make("mlp"), data("mlp"), rules.build("guided")
    drawn = learn(net, rule, x[0], y, sequence=0)[1]
    before = stored(net, drawn)
    learn(net, rule, x[0], y, sequence=1)
    assert torch.equal(stored(net, drawn), before)


def test_parameters_that_are_frozen_on_the_way_are_forgotten() -> None:
    net, (x, y), rule = make("mlp"), data("mlp"), guided()
    learn(net, rule, x[0], y, sequence=0)
    first = next(net.parameters()).requires_grad_(False)
    sink, drawn = GradSink(net), list[Drawn]()
    for sequence in (1, 2):
        run_sequence(
            net, rule, PerStep(CrossEntropy()), Static(x[0], 1), y, sink, draws=KeyedDraws(0), sequence=sequence
        )
        sink.flush(drawn.append)
    assert all(first not in gradient.names for gradient in drawn)
    assert rule.recall.estimate[first.numel() :].count_nonzero() > 0


def test_alpha_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"alpha = 1\.5 will not do"):
        rules.build({"name": "guided", "alpha": 1.5})
