"""Properties ZL1 to ZL13 of LocalZO: estimates of the derivative of a spike function, and their mean."""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, exp, pi, sqrt

import pytest
import torch
from torch import Tensor, nn

from onward.core import Frames, GradSink, KeyedDraws, Network, PerStep, RecordedDraws, Static, evaluate, run_sequence
from onward.core.draws import Key
from onward.core.errors import OnwardError
from onward.core.neuron import Draw
from onward.core.objective import CrossEntropy
from onward.neurons import LIF, HardReset, neurons
from onward.rules import rules
from onward.surrogates import LocalZO, Surrogate, probes, surrogates
from onward.surrogates.localzo import windowed
from onward.surrogates.probes import Matched, Normal, Probe, Signs, largest
from onward.surrogates.shapes import ATan, FastSigmoid, Sigmoid, Triangle

DELTA = 0.4
N = 100_000
PLACES = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0], dtype=torch.float64) * DELTA
UNIT = ["normal", "uniform", "laplace", "rademacher", "student-t", "sigmoid"]
MATCHED = {
    "matched-atan": {"name": "matched", "surrogate": "atan"},
    "matched-sigmoid": {"name": "matched", "surrogate": {"name": "sigmoid", "slope": 3.0}},
    "matched-fast-sigmoid": {"name": "matched", "surrogate": {"name": "fast-sigmoid", "slope": 5.0}, "exponent": 0.0},
    "student-t-5": {"name": "student-t", "freedom": 5.0},
    "student-t-1.5": {"name": "student-t", "freedom": 1.5},
    "fast-sigmoid-25": {"name": "fast-sigmoid", "slope": 25.0},
}
LAWS: dict[str, Probe] = {
    **{name: probes.build(name) for name in probes.names()},
    **{name: probes.build(choice) for name, choice in MATCHED.items()},
}


def keyed(seed: int = 0) -> Draw:
    def draw(law, part: str, like: Tensor, start: int = 0) -> Tensor:
        steps = torch.arange(start, start + len(like))
        ids = torch.arange(like.shape[1])
        return KeyedDraws(seed).draw(law, Key(part, "n", 0), steps, ids, tuple(like.shape[2:]), like)

    return draw


def estimates(probe: Probe, x: Tensor, samples: int = 1, delta: float = DELTA, n: int = N) -> Tensor:
    """``[n, len(x)]`` independent estimates."""
    return LocalZO(delta, samples, probe).bound(keyed())(x.expand(1, n, len(x)))[0]


def tail(a: float) -> float:
    return erfc(a / sqrt(2)) / 2


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ZL1_the_forward_pass_is_the_step(strict: bool, dtype: torch.dtype) -> None:
    x = torch.randn(5, 400, 13, dtype=dtype)
    x[0, 0] = 1.0  # a tie
    found, plain = (
        LIF(tau=2.0, ties_fire=not strict, surrogate=psi).scan(x, (torch.zeros_like(x[0]),), keyed())
        for psi in (LocalZO(), Sigmoid())
    )
    assert torch.equal(found.out, plain.out)
    assert bool(found.out[0, 0].all()) is not strict


@pytest.mark.parametrize("name", LAWS)
def test_ZL2_the_mean_is_the_closed_form(name: str) -> None:
    found, mean = estimates(LAWS[name], PLACES), LAWS[name].mean(DELTA)(PLACES)
    error = 5 * found.std(0) / sqrt(N) + 1e-3 * mean.max()
    assert bool(((found.mean(0) - mean).abs() <= error).all())


def variance(a: float) -> float:
    phi = exp(-a * a / 2) / sqrt(2 * pi)
    return (a * phi + tail(a)) / (2 * DELTA**2) - phi**2 / DELTA**2


@pytest.mark.parametrize("samples", [1, 4])
def test_ZL3_the_variance_is_that_of_the_formula(samples: int) -> None:
    found = estimates(Normal(), PLACES, samples).var(0)
    wanted = torch.tensor([variance(float(abs(x)) / DELTA) / samples for x in PLACES], dtype=torch.float64)
    assert torch.allclose(found, wanted, rtol=0.05)


@pytest.mark.parametrize("samples", [1, 3])
def test_ZL4_signs_give_a_box_without_variance(samples: int) -> None:
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)
    found = estimates(Signs(), x, samples, n=7)
    assert torch.allclose(found, ((x.abs() < DELTA).double() / (2 * DELTA)).expand_as(found), atol=1e-12)


@pytest.mark.parametrize("name", UNIT)
@pytest.mark.parametrize("delta", [0.05, 1.3])
def test_ZL5_the_closed_form_has_the_area_of_the_second_moment(name: str, delta: float) -> None:
    t = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    z = t / (1 - t)  # all of [0, infinity)
    area = 2 * (LAWS[name].mean(delta)(delta * z) * delta / (1 - t) ** 2).mean()
    assert float(area) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("samples", [1, 5])
def test_ZL6_estimates_are_even_and_not_zero_within_reach_alone(samples: int) -> None:
    x = torch.rand(1, 5000, 6, dtype=torch.float64) * 3 * DELTA
    psi, z = LocalZO(DELTA, samples).bound(keyed()), [keyed()(Normal().law(1), f"slope {k}", x) for k in range(samples)]
    found = psi(x)
    assert bool((found >= 0).all())
    assert torch.equal(found, psi(-x))
    assert torch.equal(found > 0, torch.stack([x < DELTA * draw.abs() for draw in z]).any(0))
    for a in (0.5, 1.5):
        share = float((estimates(Normal(), torch.tensor([a * DELTA]), samples) > 0).float().mean())
        assert share == pytest.approx(1 - (1 - 2 * tail(a)) ** samples, abs=0.005)


@pytest.mark.parametrize(
    ("surrogate", "exponent", "factor"),
    [
        (Sigmoid(1 / (sqrt(0.42628) * DELTA)), 1.0, 1.0),
        (FastSigmoid(10.0), -1.0, 2 / 10),
        (ATan(2 / (pi * DELTA)), 1.0, 1.0),
        (Triangle(2.0), 0.0, 2 * DELTA * 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ZL7_a_law_made_for_a_surrogate_gives_it_back(surrogate: Surrogate, exponent: float, factor: float) -> None:
    probe = Matched(surrogate, exponent)
    assert probe.factor(DELTA) == pytest.approx(factor, rel=1e-3)
    found, mean = estimates(probe, PLACES), surrogate(PLACES)
    assert bool(((found.mean(0) - mean).abs() <= 5 * found.std(0) / sqrt(N) + 2e-3 * mean.max()).all())


def test_ZL8_the_mean_is_the_derivative_of_the_smoothed_step() -> None:
    def smoothed(x: Tensor) -> Tensor:
        return torch.special.ndtr(x / DELTA)

    slope = (smoothed(PLACES + 1e-5) - smoothed(PLACES - 1e-5)) / 2e-5
    assert torch.allclose(Normal().mean(DELTA)(PLACES), slope, atol=1e-8)


def network(surrogate: Surrogate, detach: bool, hard: bool) -> Network:
    torch.manual_seed(1)
    neuron = LIF(
        decay=0.7,
        reset=HardReset(0.0) if hard else None,
        surrogate=surrogate,
        detach_reset=detach,
        ties_fire=False,
    )
    layers = [nn.Linear(4, 6), neuron, nn.Linear(6, 5), type(neuron)(**copied(neuron)), nn.Linear(5, 3)]
    return Network(nn.Sequential(*layers)).double()


def copied(neuron) -> dict:
    names = ("reset", "surrogate", "detach_reset", "ties_fire")
    return {"decay": neuron.decay, **{name: getattr(neuron, name) for name in names}}


def gradients(net: Network, x, y: Tensor, rule: str = "bptt", ids: Tensor | None = None, draws=None) -> list[Tensor]:
    built, sink, draws = rules.build(rule), GradSink(net), draws or KeyedDraws(3)
    objective = PerStep(CrossEntropy())
    built.bind(net, objective, x, draws)
    run_sequence(net, built, objective, x, y, sink, draws=draws, ids=ids)
    sink.flush()
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(("detach", "hard"), [(True, False), (False, True)])
def test_ZL10_the_mean_gradient_of_a_network_is_that_of_the_mean_surrogate(detach: bool, hard: bool) -> None:
    copies, batch = 60, 200
    x, y = torch.rand(4, 1, 4, dtype=torch.float64) * 3, torch.tensor([2])
    many, labels = Frames(x.expand(4, batch, 4)), y.expand(batch)
    sampled, mean = network(LocalZO(0.5, 1), detach, hard), network(Normal().mean(0.5), detach, hard)
    runs = [
        torch.cat([g.flatten() for g in gradients(sampled, many, labels, ids=torch.arange(batch) + batch * k)])
        for k in range(copies)
    ]
    found, wanted = torch.stack(runs), torch.cat([g.flatten() for g in gradients(mean, Frames(x), y)])
    assert bool(((found.mean(0) - wanted).abs() <= 5 * found.std(0) / sqrt(copies) + 1e-6 * wanted.abs().max()).all())
    assert float((found.std(0) > 1e-3 * wanted.abs().max()).double().mean()) > 0.3


@pytest.mark.parametrize("rule", ["bptt", "sltt", "ottt"])
def test_ZL11_only_the_size_of_the_noise_matters(rule: str) -> None:
    net, x, y = network(LocalZO(0.5, 2), True, False), torch.rand(4, 8, 4, dtype=torch.float64) * 3, torch.arange(8) % 3
    names = [node.name for node in net.neurons]
    z = {
        (f"slope {k}", name): torch.randn(4, 8, n, dtype=torch.float64)
        for k in range(2)
        for name, n in zip(names, (6, 5), strict=True)
    }
    flipped = {key: value * torch.randint_like(value, 2).mul(2).sub(1) for key, value in z.items()}
    found = [gradients(net, Frames(x), y, rule, draws=RecordedDraws(noise)) for noise in (z, flipped)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_ZL12_the_estimate_scales_with_the_unit_of_the_potential() -> None:
    x = torch.randn(3, 50, 7, dtype=torch.float64)
    one, scaled = LocalZO(DELTA, 3).bound(keyed()), LocalZO(2.5 * DELTA, 3).bound(keyed())
    assert torch.allclose(scaled(2.5 * x), one(x) / 2.5, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("name", ["normal", "uniform", "laplace", "rademacher"])
def test_ZL13_a_window_touches_as_many_neurons(name: str, samples: int) -> None:
    x = (torch.rand(1, 2000, 100, dtype=torch.float64) * 2 - 1) * 5 * DELTA
    sampled = LocalZO(DELTA, samples, LAWS[name]).bound(keyed())(x).count_nonzero()
    window = windowed(DELTA, samples, LAWS[name])(x).count_nonzero()
    assert float(window) == pytest.approx(float(sampled), rel=0.05)


@pytest.mark.parametrize(
    ("name", "one", "five"), [("normal", 0.7979, 1.569), ("uniform", 0.8660, 1.443), ("laplace", 0.7071, 1.615)]
)
def test_the_largest_draw_has_the_tabulated_mean(name: str, one: float, five: float) -> None:
    assert largest(LAWS[name], DELTA, 1) == pytest.approx(one, rel=1e-3)
    assert largest(LAWS[name], DELTA, 5) == pytest.approx(five, rel=1e-3)


@pytest.mark.parametrize("rule", ["bptt", "sltt", "ottt"])
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("neuron", ["lif", "cuba-lif", "adaptive-lif"])
def test_chunks_change_no_draw(rule: str, chunk: int, neuron: str) -> None:
    x, y = Frames(torch.rand(6, 5, 4, dtype=torch.float64) * 3), torch.arange(5) % 3
    options = {"name": neuron, "surrogate": {"name": "localzo", "samples": 2}}

    def learned(chunk: int) -> list[Tensor]:
        torch.manual_seed(2)
        net = Network(nn.Sequential(nn.Linear(4, 8), neurons.build(options), nn.Linear(8, 3))).double()
        built, sink, objective = rules.build(rule), GradSink(net), PerStep(CrossEntropy())
        built.bind(net, objective, x, KeyedDraws(0))
        run_sequence(net, built, objective, x, y, sink, draws=KeyedDraws(0), chunk=chunk)
        sink.flush()
        return [p.grad for p in net.parameters() if p.grad is not None]

    for a, b in zip(learned(chunk), learned(6), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_activity_is_counted_where_slopes_are_used() -> None:
    surrogate = LocalZO(DELTA, 1)
    neuron = LIF(tau=2.0, surrogate=surrogate)
    assert neuron.active() is None
    x = torch.rand(4, 50, 20, dtype=torch.float64) * 2
    firing = neuron.scan(x, neuron.start(x[0]), keyed())
    assert neuron.active() == pytest.approx(float((firing.slope != 0).double().mean()))
    assert neuron.active() is None


@pytest.mark.parametrize("name", surrogates.names())
def test_a_surrogate_says_whether_it_vanishes_away_from_the_threshold(name: str) -> None:
    surrogate, away = surrogates.build(name), torch.tensor([[[-4.0, 4.0]]], dtype=torch.float64)
    assert surrogate.exact_zeros is not bool(surrogate.bound(keyed())(away).any())


@pytest.mark.parametrize(
    ("law", "form", "vanishes"),
    [("normal", "mean", False), ("uniform", "mean", True), ("rademacher", "mean", True), ("normal", "window", True)],
)
def test_so_do_means_and_windows_of_estimates(law: str, form: str, vanishes: bool) -> None:
    assert surrogates.build({"name": "localzo", "law": law, "form": form}).exact_zeros is vanishes


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LocalZO(delta=0.0), "delta 0.0 was given; LocalZO divides by it"),
        (lambda: LocalZO(samples=0), "0 samples were given"),
        (lambda: surrogates.build({"name": "localzo", "delta": 0}), "delta = 0"),
        (lambda: surrogates.build({"name": "localzo", "samples": 0}), "samples = 0"),
        (lambda: probes.build({"name": "student-t", "freedom": 1.0}), "do not|does not exist"),
        (lambda: LocalZO(probe=Matched(Triangle())), "has no value; choose"),
        (lambda: LocalZO(probe=Matched(FastSigmoid())), "has no value; choose"),
        (lambda: surrogates.build({"name": "localzo", "law": "fast-sigmoid", "form": "window"}), "infinite"),
        (lambda: surrogates.build({"name": "localzo", "law": "gauss"}), "gauss"),
        (lambda: LocalZO()(torch.zeros(1)), "draws random numbers"),
    ],
)
def test_what_cannot_be_is_refused_in_words(build: Callable[[], object], message: str) -> None:
    with pytest.raises(OnwardError, match=message):
        build()


def test_a_tail_so_heavy_that_its_mean_is_infinite_is_legal_in_its_own_family() -> None:
    found = estimates(LAWS["fast-sigmoid-25"], PLACES)
    assert found.isfinite().all()


def test_evaluation_draws_nothing() -> None:
    x, y = Static(torch.rand(5, 4, dtype=torch.float64), 4), torch.arange(5) % 3
    for name in ("lif", "adaptive-lif"):
        neuron = neurons.build({"name": name, "surrogate": "localzo"})
        net = Network(nn.Sequential(nn.Linear(4, 3), neuron)).double()
        assert torch.equal(*(evaluate(net, PerStep(CrossEntropy()), x, y).evidence for _ in range(2)))
