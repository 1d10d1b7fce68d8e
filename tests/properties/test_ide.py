"""Properties I1 to I13 of IDE (docs of the methods, 2.12), against simulation and iteration in plain loops.

I13 is in tests/unit/test_feedback_models.py; I9 in test_rate_memory.py.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from onward.core import Frames, Network, Static
from onward.rules import rules
from onward.rules.ide import IDE
from onward.solvers import Solution, Solver, solvers
from onward.solvers.base import Search
from onward.testing.harness import Taught, bound, teach
from properties.equilibrium_lab import (
    NETWORKS,
    ByHand,
    MakeNeuron,
    Settled,
    cosine,
    dense_loop,
    distance,
    integrates,
    leaks,
    objective,
    rates,
    spikes_of,
    still,
    symmetric,
)

SOLVED = {"name": "ide", "solver": {"name": "gmres", "tolerance": 1e-14, "steps": 200}}
CHARGE = 2.0
SETTLING = 100
"""Steps after which a weighted mean that halves is the fixed point to rounding."""

each_network = pytest.mark.parametrize("name", NETWORKS)


def settled(name: str, rule: Any) -> tuple[Taught, ByHand, Tensor, Tensor]:
    """What ``rule`` makes of a network whose measured rates are the fixed point to rounding."""
    torch.manual_seed(0)
    net = NETWORKS[name](Settled)
    x, y = still(net)
    return taught_at_rest(net, rule, x, y), ByHand(net, CHARGE, CHARGE), x, y


@cache
def unrolled(name: str) -> dict[str, Tensor]:
    """Gradients through 300 iterations of f, of the network that `settled` trains."""
    torch.manual_seed(0)
    net = NETWORKS[name](Settled)
    return ByHand(net, CHARGE, CHARGE).unrolled(*still(net))


def taught_at_rest(net: Network, rule: Any, x: Tensor, y: Tensor) -> Taught:
    sequence = Static(x, SETTLING)
    return teach(net, bound(rule, net, sequence, objective(0.5)), sequence, y, objective=objective(0.5))


def inside(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of weights that the solve matters to."""
    return {name: g for name, g in grads.items() if name.startswith("0.") and name.endswith("weight")}


NEURONS: dict[str, tuple[MakeNeuron, float, float]] = {
    "if": (integrates, 2.0, 1.0),
    "lif": (partial(leaks, decay=0.9), 2.0, 0.9),
    "symmetric": (symmetric, 1.0, 1.0),
}
"""Neurons, their threshold and their leak, all of charge 2."""


def mean_drives(hand: ByHand, x: Tensor, rate: list[Tensor], delayed: Tensor) -> list[Tensor]:
    """The mean drive of every layer up to each step, from the mean input and the mean rates up to there."""
    found = [torch.stack([hand.apply("0.entry", a) + hand.apply("0.back", r) for a, r in zip(x, delayed, strict=True)])]
    for name, below in zip(hand.body, rate, strict=False):
        found.append(torch.stack([hand.apply(name, r) for r in below]))
    return [drive.detach() for drive in found]


@pytest.mark.parametrize("neuron", NEURONS)
@each_network
def test_i1_rates_are_what_unrolling_says(name: str, neuron: str) -> None:
    """I1: a[t] = (mean drive - v[t] / sum w) / D at every t, for time-varying input; spikes equal the loops'."""
    make, threshold, leak = NEURONS[neuron]
    net = NETWORKS[name](make)
    frame, y = still(net, batch=3)
    x = frame * (0.5 + torch.rand(25, *[1] * frame.dim(), dtype=torch.float64))
    records = teach(net, "ide", Frames(x), y, objective=objective(leak)).records
    hand = ByHand(net, threshold, CHARGE, leak)
    spikes = [torch.cat([record.firings[node.index].out for record in records]) for node in net.neurons]
    held = [torch.stack([record.firings[node.index].state[0] for record in records]) for node in net.neurons]
    assert all(torch.equal(s, t) for s, t in zip(spikes, hand.simulate(x).spikes, strict=True))
    a = [rates(s, leak) for s in spikes]
    delayed = rates(torch.cat([torch.zeros_like(spikes[-1][:1]), spikes[-1][:-1]]), leak)
    drives = mean_drives(hand, rates(x, leak), a, delayed)
    weight = torch.tensor([sum(leak**k for k in range(t + 1)) for t in range(25)], dtype=torch.float64)
    for rate, drive, v in zip(a, drives, held, strict=True):
        residual = v / weight.view(-1, *[1] * (v.dim() - 1))
        assert float((rate - (drive - residual) / CHARGE).abs().max()) < 1e-10


def toy(make: MakeNeuron, widths: tuple[int, ...] = (20,)) -> tuple[Network, ByHand, Tensor, Tensor]:
    """Random weights of norm 1, V = 2."""
    net = dense_loop(widths, make, norm=1.0)
    for node in net.synapses[1:-1]:
        weight = node.module.get_parameter("weight").data.normal_()
        weight.div_(torch.linalg.matrix_norm(weight, 2))
    x, y = still(net)
    return net, ByHand(net, CHARGE, CHARGE), x, y


@pytest.mark.parametrize("steps", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_i2_rates_of_if_neurons_converge_as_one_over_t(steps: int) -> None:
    """I2: T max|a_T - a*| is bounded for T from 5 to 10^4."""
    net, hand, x, y = toy(integrates)
    a = rates(spikes_of(net, Static(x, steps), y)[-1])
    target = hand.equilibrium(x)
    checked = [t for t in (5, 10, 30, 100, 300, 1000, 3000, 10_000) if t <= steps]
    scaled = {t: t * float((a[t - 1] - target).abs().max()) for t in checked}
    assert all(0.3 < value < 2 for value in scaled.values()), scaled


def test_i3_rates_of_leaky_neurons_keep_an_error_that_scales_with_the_leak() -> None:
    """I3: max|a_T - a*| does not shrink with T, and is proportional to 1 - lambda."""
    found = {}
    for leak in (0.95, 0.99):
        net, hand, x, y = toy(partial(leaks, decay=leak))
        a = rates(spikes_of(net, Static(x, 800), y)[-1], leak)
        errors = (a - hand.equilibrium(x)).abs().amax((1, 2))
        early, late = float(errors[400:600].max()), float(errors[-200:].max())
        assert late == pytest.approx(early, rel=0.5)
        found[leak] = late / (1 - leak)
    assert max(found.values()) < 2 * min(found.values()), found
    assert min(found.values()) > 0.5, "there is an error"


@each_network
def test_i4_gradients_equal_those_of_the_unrolled_fixed_point(name: str) -> None:
    """I4: relative error below 1e-10 for every parameter, where ||J|| >= 0.5."""
    taught, hand, x, _ = settled(name, SOLVED)
    assert (torch.linalg.matrix_norm(hand.jacobians(hand.equilibrium(x), x), 2) >= 0.5).all()
    expected = unrolled(name)
    assert set(taught.grads) == set(expected)
    errors = {key: distance(taught.grads[key], expected[key]) for key in expected}
    assert max(errors.values()) < 1e-10, errors


@each_network
def test_i4_holds_in_float32(name: str) -> None:
    """I4: relative error below 1e-4 with the default solver's tolerance, in float32."""
    net = NETWORKS[name](Settled)
    x, y = still(net)
    grads = taught_at_rest(net.float(), {"name": "ide", "solver": {"name": "gmres"}}, x.float(), y).grads
    errors = {key: distance(grads[key].double(), g) for key, g in unrolled(name).items()}
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("name", ["one layer", "convolutions"])
def test_i4_spiking_networks_come_close_with_time(name: str) -> None:
    """I4 with spikes in place of rates: the relative error of every gradient is below 5 % at T = 1000."""
    net = NETWORKS[name](integrates)
    x, y = still(net)
    grads = teach(net, SOLVED, Static(x, 1000), y).grads
    errors = {key: distance(grads[key], g) for key, g in unrolled(name).items()}
    assert max(errors.values()) < 0.05, errors


@pytest.mark.parametrize("neuron", NEURONS)
@each_network
def test_gradients_of_spiking_networks_are_those_at_the_measured_rate(name: str, neuron: str) -> None:
    """2.3: whatever the rate is that was measured, J is taken there; dense solve, simulation by loops."""
    make, threshold, leak = NEURONS[neuron]
    net = NETWORKS[name](make)
    frame, y = still(net)
    x = frame * (0.5 + torch.rand(20, *[1] * frame.dim(), dtype=torch.float64))
    hand = ByHand(net, threshold, CHARGE, leak)
    a = rates(hand.simulate(x).spikes[-1], leak)[-1]
    expected = hand.implicit(a, rates(x, leak)[-1], y)
    grads = teach(net, SOLVED, Frames(x), y, objective=objective(leak)).grads
    assert set(grads) == set(expected)
    assert max(distance(grads[key], expected[key]) for key in expected) < 1e-10


@pytest.mark.parametrize("widths", [(20,), (15, 12, 10)], ids=str)
def test_i5_errors_of_the_neumann_series_shrink_by_the_norm(widths: tuple[int, ...]) -> None:
    """I5: the gradient's relative error after k steps is below 2 ||J||^k."""
    net, hand, x, y = toy(Settled, widths)
    expected = inside(hand.unrolled(x, y))
    norm = float(torch.linalg.matrix_norm(hand.jacobians(hand.equilibrium(x), x), 2).max())
    for k in (2, 5, 10, 20):
        solver = {"name": "fixed-point", "steps": k, "tolerance": 1e-15}
        grads = taught_at_rest(net, {"name": "ide", "solver": solver}, x, y).grads
        assert max(distance(grads[key], g) for key, g in expected.items()) < 2 * norm**k + 1e-14


def test_i5_broyden_needs_few_steps() -> None:
    """I5: on the toy with three layers, Broyden's residual is below 1e-9 within 7 steps."""
    net, _, x, y = toy(Settled, (15, 12, 10))
    rule = rules.build({"name": "ide", "solver": {"name": "broyden", "tolerance": 1e-9}})
    taught_at_rest(net, rule, x, y)
    assert rule.metrics()["solver_residual"] < 1e-9
    assert rule.metrics()["solver_steps"] <= 7


@each_network
def test_i6_solvers_agree(name: str) -> None:
    """I6: gradients by Broyden, Anderson, GMRES and the Neumann series agree to 1e-6."""
    expected = settled(name, SOLVED)[0].grads
    for solver in ("broyden", "anderson", "fixed-point"):
        options = {"name": solver, "tolerance": 1e-10, "steps": 300}
        grads = settled(name, {"name": "ide", "solver": options})[0].grads
        assert max(distance(grads[key], expected[key]) for key in expected) < 1e-6


class Elsewhere(Solver):
    """A solver of ours from a start far away."""

    def __init__(self, inner: Solver):
        super().__init__()
        object.__setattr__(self, "inner", inner)

    def solve(self, operator: Any, g: Tensor, start: Tensor | None = None) -> Solution:
        return self.inner.solve(operator, g, torch.randn_like(g))  # type: ignore[attr-defined]

    def _run(self, search: Search) -> None:
        raise AssertionError


@pytest.mark.parametrize("solver", ["broyden", "gmres"])
def test_i6_the_start_does_not_matter(solver: str) -> None:
    """I6: the result is independent of the start value."""
    expected = settled("three layers", SOLVED)[0].grads
    inner = solvers.build({"name": solver, "tolerance": 1e-10, "steps": 300})
    grads = settled("three layers", IDE(Elsewhere(inner)))[0].grads
    assert max(distance(grads[key], expected[key]) for key in expected) < 1e-6


class Left(Solver):
    """Leaves the solve out: beta = g."""

    def solve(self, operator: Any, g: Tensor, start: Tensor | None = None) -> Solution:
        return Solution(torch.zeros_like(g), 1.0, 0, "limit", ())

    def _run(self, search: Search) -> None:
        raise AssertionError


@each_network
def test_i7_without_a_solve_or_with_the_halved_one_i4_fails(name: str) -> None:
    """I7: beta = g and the published "iter" solver are off by far more than I4 allows; the user hears of it."""
    halved = rules.build({"name": "ide", "solver": {"name": "halved", "steps": 60, "tolerance": 1e-14}})
    for rule, least in ((IDE(Left()), 0.15), (halved, 0.07)):
        grads = settled(name, rule)[0].grads
        errors = {key: distance(grads[key], g) for key, g in inside(unrolled(name)).items()}
        assert min(errors.values()) > least, errors
        assert "the gradient through the feedback 0.back is not exact" in rule.warnings()[0]


def test_i7_the_halved_solver_solves_with_half_the_feedback() -> None:
    """What `halved` makes of IDE: (I - J^T / 2)^-1 g, twice the published (2 I - J^T)^-1 g."""
    rule = {"name": "ide", "solver": {"name": "halved", "steps": 60, "tolerance": 1e-14}}
    taught, hand, x, y = settled("one layer", rule)
    a = hand.equilibrium(x)
    leaf = a.clone().requires_grad_()
    g = torch.autograd.grad(hand.loss(leaf, y), leaf)[0]
    j = hand.jacobians(a, x)
    published = torch.linalg.solve(2 * torch.eye(20, dtype=torch.float64) - j.mT, g)
    expected = hand.grads(hand.f(a, x), 2 * published)
    assert max(distance(taught.grads[key], expected[key]) for key in expected) < 1e-10


def test_i8_the_measured_state_is_good_enough() -> None:
    """I8: cosine with the exact gradient above 0.98 at T = 5 and 0.999 at T = 30, on the toy."""
    net, hand, x, y = toy(integrates)
    expected = inside(hand.unrolled(x, y))
    for steps, least in ((5, 0.98), (30, 0.999)):
        grads = teach(net, SOLVED, Static(x, steps), y).grads
        found = {key: cosine(grads[key], g) for key, g in expected.items()}
        assert min(found.values()) > least, found
