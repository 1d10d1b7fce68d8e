"""WZ1 to WZ12: weights that are moved, in closed form and against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward.core import CrossEntropy, GradSink, KeyedDraws, Network, PerStep, Static, evaluate, run_sequence
from onward.core.drawn import Drawn, Ray, descend, names_of
from onward.core.errors import ConfigError, NonFiniteError
from onward.core.objective import MSE
from onward.kernels.compiled import Use, using
from onward.neurons import LIF
from onward.optim import parameter_groups
from onward.rules import rules
from onward.rules.spsa import Antithetic, OnePoint, OneSided, Ranked, Residual, Stencil
from onward.testing.harness import teach
from onward.testing.zoo import data, make
from onward.train.memory import Allocations
from onward.train.replay import Note, replay
from properties.weight_lab import (
    LAWS,
    Cosines,
    Units,
    digits,
    digits_net,
    flat,
    learn,
    rate_loss,
    samples,
    slopes_of,
    stored,
)

each_law = pytest.mark.parametrize("law", ["rademacher", "gaussian"])


def noise(net: nn.Module, law: str = "rademacher", number: int = 0, sequence: int = 0) -> Tensor:
    """The direction that the engine draws, flat."""
    ray = Ray(KeyedDraws(0), LAWS[law], f"probe/{number}", sequence)
    return torch.cat([ray.block(name, 0, p.detach().flatten()) for p, name in names_of(net).items()])


@each_law
@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_wz1_on_a_quadratic_the_antithetic_estimate_is_exact(law: str, eps: float) -> None:
    torch.manual_seed(0)
    net, x, y = Network(nn.Linear(6, 1)).double(), torch.rand(5, 6, dtype=torch.float64), torch.zeros(5).long()
    rule = rules.build({"name": "mezo", "eps": eps, "law": law})
    found = stored(net, learn(net, rule, x, y, objective=PerStep(MSE(0.3)))[1])
    weight, bias = (p.detach() for p in net.parameters())
    errors = 2 * (x @ weight.T + bias - 0.3) / len(x)
    exact, z = torch.cat([(errors * x).sum(0), errors.sum(0)]), noise(net, law)
    assert (found - z * (z @ exact)).abs().max() < 1e-9


@pytest.mark.parametrize("stencil", [Antithetic(0.5), OneSided(0.5), OnePoint(0.5)], ids=lambda s: type(s).__name__)
def test_wz2_estimates_agree_in_the_mean_with_the_gradient_of_the_smoothed_loss(stencil: Stencil) -> None:
    theta = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    z = samples("gaussian", 400_000, 3)
    estimate = (slopes_of(stencil, lambda t: t.cos().sum(1), theta, z)[:, None] * z).mean(0)
    assert (estimate + torch.exp(torch.tensor(-(0.5**2) / 2)) * theta.sin()).abs().max() < 0.02


def test_wz2_the_engine_takes_the_same_slopes_as_the_formula() -> None:
    net = Network(nn.Linear(1, 4, bias=False)).double()
    theta, one = flat(net), torch.ones(1, 1, dtype=torch.float64)
    for name, stencil in {"mezo": Antithetic(0.5), "forward-difference": OneSided(0.5)}.items():
        rule = rules.build({"name": name, "eps": 0.5, "directions": 3, "law": "gaussian"})
        drawn = learn(net, rule, one, torch.zeros(1).long(), objective=PerStep(Cosines()))[1]
        z = torch.stack([noise(net, "gaussian", number) for number in range(3)])
        expected = slopes_of(stencil, lambda t: t.cos().sum(1), theta, z)
        assert torch.allclose(torch.tensor([3 * t.coefficient for t in drawn[0].terms]).double(), expected)


@pytest.mark.parametrize(("law", "extra"), [("gaussian", 1), ("rademacher", -1)])
@pytest.mark.parametrize("n", [1, 4])
def test_wz3_second_moments(law: str, extra: int, n: int) -> None:
    d, repeats = 50, 20_000
    g = torch.linspace(-1, 1, d, dtype=torch.float64)
    z = samples(law, n * repeats, d)
    slopes = slopes_of(Antithetic(0.1), lambda t: t @ g, torch.zeros(d, dtype=torch.float64), z)
    estimates = (slopes[:, None] * z).view(repeats, n, d).mean(1)
    factor = float(estimates.square().sum(1).mean() / g.square().sum())
    assert factor == pytest.approx((d + n + extra) / n, rel=0.03)


def test_wz4_a_constant_added_to_the_loss_changes_one_point_alone() -> None:
    d, c, eps = 20, 3.0, 0.1
    g, theta = torch.linspace(-1, 1, d, dtype=torch.float64), torch.full((d,), 0.2, dtype=torch.float64)
    z = samples("gaussian", 50_000, d)
    before = torch.linspace(0, 1, len(z), dtype=torch.float64)
    for stencil in (Antithetic(eps), OneSided(eps)):
        plain = slopes_of(stencil, lambda t: 1 + t @ g, theta, z)
        assert torch.allclose(slopes_of(stencil, lambda t: 1 + c + t @ g, theta, z), plain, atol=1e-12)
    plain = slopes_of(Residual(eps), lambda t: 1 + t @ g, theta, z, before)
    assert torch.allclose(slopes_of(Residual(eps), lambda t: 1 + c + t @ g, theta, z, before + c), plain, atol=1e-12)
    moments = [
        (slopes_of(OnePoint(eps), lambda t, k=k: k + t @ g, theta, z)[:, None] * z).square().sum(1).mean()
        for k in (1.0, 1.0 + c)
    ]
    here = float(theta @ g)
    expected = d * ((1 + c + here) ** 2 - (1 + here) ** 2) / eps**2
    assert float(moments[1] - moments[0]) == pytest.approx(expected, rel=0.02)


def test_residual_feedback_starts_at_nothing_and_subtracts_the_loss_before() -> None:
    losses = torch.tensor([2.0, 3.0], dtype=torch.float64)
    first = Residual(0.5).slopes(losses, torch.full((2,), torch.nan, dtype=torch.float64))
    assert first.tolist() == [0, 0]
    assert Residual(0.5).slopes(losses, losses - 1).tolist() == [2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mezo", "forward-difference", "one-point", "guided", "forward-gradient"])
def test_wz5_a_hundred_probes_leave_weights_bit_identical(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), LIF(learn_threshold=True), nn.Linear(10, 5)))
    net = net.to(dtype)
    x, y, before, rule = torch.rand(4, 12).to(dtype), torch.arange(4), flat(net), rules.build(name)
    groups = [{"params": list(net.parameters()), "lr": 0.0, "weight_decay": 0.0}]
    for sequence in range(100):
        descend(learn(net, rule, x, y, sequence=sequence)[1], groups)
    assert torch.equal(flat(net).view(torch.uint8), before.view(torch.uint8))


def test_what_rounding_swallows_is_not_learned_from() -> None:
    """The distance between the points that were tried, not the one that was meant: 0 for weights too coarse to move."""
    ray, w = Ray(KeyedDraws(0), LAWS["rademacher"], "probe/0", 0), torch.tensor([1.0, 2**-9]).bfloat16()
    z, chord = ray.block("w", 0, w), Antithetic(2**-10).direction(ray).block("w", 0, w)
    assert chord[0] == 0
    assert chord[1] == z[1]


def test_weights_are_whole_again_after_an_error() -> None:
    net, (x, y) = make("mlp", torch.float32), data("mlp", torch.float32)
    before = flat(net)
    with pytest.raises(NonFiniteError):
        learn(net, rules.build("mezo"), x[0] * torch.inf, y)
    assert torch.equal(flat(net), before)
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())


def _peak(depth: int, steps: int, width: int = 768) -> tuple[int, int]:
    """Most bytes that inference, and that a step of MeZO with its update, take beyond what stands."""
    torch.manual_seed(0)
    layers = [module for _ in range(depth) for module in (nn.Linear(width, width), LIF())]
    net = Network(nn.Sequential(*layers, nn.Linear(width, 10)))
    x, y, rule, objective = (
        Static(torch.rand(4, width), steps),
        torch.arange(4),
        rules.build("mezo"),
        PerStep(CrossEntropy()),
    )
    rule.bind(net, objective, x, KeyedDraws(0))
    sink, groups = GradSink(net), parameter_groups(net, rule, 0.01, False)
    for group in groups:
        group["lr"] = 0.01

    def train() -> None:
        run_sequence(net, rule, objective, x, y, sink, draws=KeyedDraws(0), chunk=2)
        drawn: list[Drawn] = []
        sink.flush(drawn.append)
        descend(drawn, groups)

    with using(Use.NEVER):  # measuring which kernel is fastest takes memory of its own
        with Allocations() as inference:
            evaluate(net, objective, x, y, chunk=2)
        with Allocations() as training:
            train()
    return inference.peak_bytes, training.peak_bytes


def test_wz6_training_takes_the_memory_of_inference_and_the_largest_layer() -> None:
    """Whatever depth and the number of steps, and about nine numbers of a block of noise."""
    for depth, steps in ((1, 4), (3, 4), (3, 12)):
        inference, training = _peak(depth, steps)
        largest, states, block = 4 * 768 * 769, depth * 4 * 4 * 768, 9 * 2**16
        assert largest < training - inference <= largest + states + block


@pytest.mark.parametrize("name", ["mezo", "es", "forward-gradient"])
def test_wz7_two_numbers_an_update_replay_a_run(name: str) -> None:
    torch.manual_seed(0)
    options = {"name": name, "directions": 2, "law": "gaussian"} | ({} if name == "forward-gradient" else {"eps": 0.1})
    net, again = (make("conv", torch.float32) for _ in range(2))
    (x, y), notes, rule = data("conv", torch.float32), [], rules.build(options)
    groups = parameter_groups(net, rule, 0.05, False)
    for sequence in range(5):
        (drawn,) = learn(net, rule, x[0], y, sequence=sequence)[1]
        notes.append(Note.of(drawn, sequence, 0.01 / (1 + sequence)))
        descend([drawn], [{**group, "lr": notes[-1].lr} for group in groups])
    assert not torch.equal(flat(net), flat(again))
    replay(again, rule, KeyedDraws(0), notes, weight_decay=0.05)
    assert torch.equal(flat(net), flat(again))


def test_wz7_a_rule_that_cannot_be_replayed_is_refused() -> None:
    with pytest.raises(ConfigError, match="PseudoZO cannot be replayed"):
        replay(make("mlp"), rules.build("pseudo-zo"), KeyedDraws(0), [])


def _two_points(net: Network, x: Tensor, y: Tensor, z: Tensor, eps: float) -> Tensor:
    """Losses with all weights moved at once."""
    theta, losses = flat(net), []
    for strength in (eps, -eps):
        nn.utils.vector_to_parameters(theta + strength * z, net.parameters())
        losses.append(evaluate(net, PerStep(CrossEntropy()), Static(x, 5), y).loss)
    nn.utils.vector_to_parameters(theta, net.parameters())
    return torch.stack(losses)


@each_law
@pytest.mark.parametrize(
    "name", ["mlp", "conv", "recurrent", "feedback", "learned-threshold", "standardized", "series"]
)
def test_wz8_mezo_is_one_spsa_step_written_out(name: str, law: str) -> None:
    net, (x, y) = make(name), data(name)
    rule = rules.build({"name": "mezo", "eps": 0.05, "law": law})
    drawn = learn(net, rule, x[0], y, steps=5, chunk=2)[1]
    before, z = flat(net), noise(net, law)
    ahead, behind = _two_points(net, x[0], y, z, 0.05)
    descend(drawn, [{"params": list(net.parameters()), "lr": 0.1, "weight_decay": 0.2}])
    expected = before - 0.1 * ((ahead - behind) / 0.1 * z + 0.2 * before)
    assert (flat(net) - expected).abs().max() < 1e-10


def test_wz9_a_population_of_two_without_ranks_is_spsa() -> None:
    net, (x, y) = make("mlp"), data("mlp")
    es = rules.build({"name": "es", "directions": 1, "shaping": "none", "eps": 0.1})
    found = [stored(net, learn(net, rule, x[0], y)[1]) for rule in (es, rules.build({"name": "mezo", "eps": 0.1}))]
    assert torch.equal(*found)


def test_wz9_ranks_do_not_change_under_monotone_maps() -> None:
    losses = torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranked = Ranked(0.1)
    expected = ranked.slopes(losses, losses)
    for mapped in (losses.exp(), 3 * losses + 2):
        assert torch.equal(ranked.slopes(mapped, losses), expected)
    assert Ranked(0.1).slopes(torch.ones(4), losses).abs().max() == 0


@pytest.mark.parametrize("name", ["mlp", "conv", "recurrent", "batchnorm", "adaptive-lif", "all-knobs", "cuba-lif"])
def test_wz10_unit_directions_give_the_surrogate_gradient(name: str) -> None:
    """All unit vectors times sqrt(d) are directions whose mean of v v^T is exactly the identity."""
    net, (x, y) = make(name), data(name)
    exact = torch.cat([g.flatten() for g in teach(make(name), "bptt", x, y).grads.values()])
    some = torch.randperm(len(exact), generator=torch.Generator().manual_seed(0))[:8].tolist()
    for i in [*some, int(exact.abs().argmax())]:
        grads = teach(net, {"name": "forward-gradient"}, x, y, draws=Units(net, first=i), chunk=2).grads
        found = torch.cat([g.flatten() for g in grads.values()])
        assert abs(float(found[i] - exact[i])) < 1e-10
        assert found.count_nonzero() <= 1


def test_wz10_the_mean_over_directions_is_the_surrogate_gradient() -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(12, 3), LIF(), nn.Linear(3, 5))).double()
    x, y = data("mlp")
    exact = torch.cat([g.flatten() for g in teach(net, "bptt", x, y).grads.values()])
    d = len(exact)
    grads = teach(net, {"name": "forward-gradient", "directions": d}, x, y, draws=Units(net, d**0.5)).grads
    assert (torch.cat([g.flatten() for g in grads.values()]) - exact).abs().max() < 1e-10


ALL = ["mezo", "forward-difference", "one-point", "es", "guided", "forward-gradient", "pseudo-zo"]


@pytest.mark.parametrize("name", ALL)
def test_wz11_the_global_generator_is_left_alone(name: str) -> None:
    net, (x, y), before = make("dropout", torch.float32), data("dropout", torch.float32), torch.get_rng_state()
    teach(net, name, x, y)
    assert torch.equal(torch.get_rng_state(), before)


def _digits_after(updates: int, lr: float, steps: int, batch: int) -> tuple[float, float]:
    """CE of output spikes, and accuracy, on test digits."""
    (x, y), (x_test, y_test) = digits()
    net = digits_net()
    rule, objective = rules.build({"name": "mezo", "eps": 0.03}), rate_loss()
    groups = [{"params": list(net.parameters()), "lr": lr, "weight_decay": 0.0}]
    generator = torch.Generator().manual_seed(0)
    for sequence in range(updates):
        rows = torch.randint(len(x), (batch,), generator=generator)
        descend(learn(net, rule, x[rows], y[rows], steps=steps, objective=objective, sequence=sequence)[1], groups)
    outcome = evaluate(net, objective, Static(x_test, steps), y_test)
    return float(outcome.loss), float((objective.predict(outcome.evidence) == y_test).float().mean())


def test_wz12_mezo_learns_digits_in_a_few_hundred_steps() -> None:
    loss, accuracy = _digits_after(400, 0.03, 10, 64)
    assert loss < 2.25
    assert accuracy > 0.3


@pytest.mark.slow
def test_wz12_mezo_learns_digits() -> None:
    loss, accuracy = _digits_after(5000, 0.01, 25, 128)
    assert loss < 1.80
    assert accuracy > 0.70
