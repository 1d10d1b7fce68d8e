"""Learned optimisers beside meta-training: the linear filter that they come to, inputs, safeguards, directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from onward.core.errors import ConfigError
from onward.optim import (
    Architecture,
    Guided,
    ImpulseResponse,
    LearnedDivergence,
    LSTMOptimizer,
    QueryRNN,
    Watch,
    dc_gain,
    impulse_response,
    initial_cell,
    spectral_radius,
)
from onward.optim.features import inputs
from properties.learned_lab import STILL, exact_sgd, gradients, updates, wide


@pytest.mark.parametrize("options", [{}, {"layers": 3, "scale": 0.1}, {"momenta": [0.5, 0.9], "hidden": 4}])
def test_the_impulse_response_is_what_small_gradients_see(options: dict[str, Any]) -> None:
    cell, eps = wide(**options), 1e-5
    taps = impulse_response(cell, 400)
    g = torch.zeros(400, 1, dtype=torch.float64)
    g[0] = eps
    torch.testing.assert_close(updates(cell, g)[:, 0] / eps, taps, rtol=1e-3, atol=1e-6)
    assert spectral_radius(cell) < 1
    assert taps.sum().item() == pytest.approx(dc_gain(cell).item(), abs=1e-9)


def test_the_filter_moves_as_the_lstm_does_for_small_gradients() -> None:
    cell, g = wide(), 1e-5 * gradients(30, 5)
    one, other = nn.Parameter(torch.ones(5, dtype=torch.float64)), nn.Parameter(torch.ones(5, dtype=torch.float64))
    learned, control = LSTMOptimizer([one], cell), ImpulseResponse([other], impulse_response(cell, 30))
    for row in g:
        one.grad, other.grad = row.clone(), row.clone()
        learned.step()
        control.step()
    torch.testing.assert_close(one - 1, other - 1, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("options", [{"biases": True}, {"input": "log"}, {"input": "normalised"}])
def test_what_is_no_filter_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="only a learned optimiser without biases"):
        impulse_response(wide(**options))


def test_a_response_that_grows_has_no_gain() -> None:
    cell = exact_sgd(0.1)
    with torch.no_grad():
        cell.core.rnn[0].get_parameter("weight_hh")[20:30] = 3 * torch.eye(10, dtype=torch.float64)
    with pytest.raises(ConfigError, match="does not fade"):
        dc_gain(cell)


def test_normalised_input_sees_no_scale_and_the_log_sees_little_of_it() -> None:
    g = gradients(6, 20)
    plain, scaled = (updates(wide(input="normalised"), factor * g) for factor in (1, 1e3))
    torch.testing.assert_close(plain, scaled, rtol=1e-9, atol=1e-12)
    smooth, branched = (inputs.build(name)(g[0], {}) for name in ("log", "log-branched"))
    assert smooth.abs().max() <= 1
    assert torch.equal(branched[:, 1].sign(), g[0].sign())


def test_the_clamp_bounds_every_tensor_by_its_own_norm() -> None:
    parameters = [nn.Parameter(torch.full((4,), size)) for size in (1.0, 1e-3, 0.0)]
    optimizer = LSTMOptimizer(parameters, wide(), clamp=0.01, watch=STILL)
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = torch.full((4,), 2.0)
    optimizer.step()
    moved = [(p.detach() - old).norm() / old.norm() for p, old in zip(parameters, before, strict=True)]
    assert moved[0] == pytest.approx(0.01, rel=1e-3)
    assert moved[1] == pytest.approx(0.01, rel=1e-3)
    assert (parameters[2] != 0).all()


@pytest.mark.parametrize(("watch", "said"), [(Watch(0.5, None), "an update has"), (Watch(None, 2.0), "have grown to")])
def test_divergence_is_refused_before_anything_changes(watch: Watch, said: str) -> None:
    cell = exact_sgd(-400.0)
    theta = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer, before = LSTMOptimizer([theta], cell, watch=watch), theta.detach().clone()
    with pytest.raises(LearnedDivergence, match=said):  # noqa: PT012
        for _ in range(20):
            before = theta.detach().clone()
            theta.grad = torch.full((3,), 1e-2, dtype=torch.float64)
            optimizer.step()
    assert torch.equal(theta, before)


def test_weight_decay_and_the_factor_stand_apart_from_the_cell() -> None:
    theta = nn.Parameter(torch.tensor([2.0, -4.0]))
    optimizer = LSTMOptimizer([theta], initial_cell(Architecture(), 0), lr=0.5, weight_decay=0.1)
    theta.grad = torch.zeros(2)
    optimizer.step()
    assert theta.tolist() == pytest.approx([1.9, -3.8])


def test_a_closure_is_called_with_gradients_on() -> None:
    for make in (
        lambda p: LSTMOptimizer([p], initial_cell(Architecture(), 0)),
        lambda p: ImpulseResponse([p], torch.tensor([-0.1])),
    ):
        theta = nn.Parameter(torch.ones(2))

        def closure(theta: nn.Parameter = theta) -> float:
            loss = theta.square().sum()
            loss.backward()
            return loss.item()

        assert make(theta).step(closure) == 2.0
        assert (theta != 1).all()


def test_the_query_network_spreads_directions_over_a_sphere_and_guides_bend_them() -> None:
    query = QueryRNN().to(torch.float64)
    g, update = gradients(2, 30)
    state = query.rest(g)
    std, penalty = query(g, update, state)
    assert std.norm().item() == pytest.approx(30**0.5)
    out = query.core(torch.stack([g, update], 1), *[torch.zeros(1, 30, 10, dtype=torch.float64)] * 2)[0]
    assert penalty.item() == pytest.approx(0.005 * out.square().sum().item())
    normal, inside = torch.randn(30, dtype=torch.float64), torch.tensor([0.5, -2.0], dtype=torch.float64)
    guides = torch.stack([g, update])
    bent = Guided(0.0)(normal, inside, guides)
    assert bent.norm().item() == pytest.approx(normal.norm().item())
    within = torch.linalg.lstsq(guides.T, bent[:, None]).solution
    torch.testing.assert_close(guides.T @ within, bent[:, None])
    torch.testing.assert_close(Guided(1.0)(normal, inside, guides), normal)
    assert torch.equal(Guided()(normal, inside, torch.zeros(2, 30, dtype=torch.float64)), normal)
    once, twice = (Guided()(normal, inside, torch.stack(rows)) for rows in ([g, 2 * g], [g, 0 * g]))
    torch.testing.assert_close(once, twice)
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        Guided(1.5)
