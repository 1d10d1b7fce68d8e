"""Neurons: forward values and gradients against a step-by-step retelling; charge, slopes, chunks, options."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from onward.core.draws import Law
from onward.core.errors import ConfigError
from onward.neurons import (
    IF,
    LI,
    LIF,
    AdaptiveLIF,
    Affine,
    CubaLIF,
    Graded,
    HardReset,
    Neuron,
    SoftReset,
    neurons,
    resets,
)
from onward.surrogates import Rectangle, Triangle, surrogates
from onward.testing.harness import relative
from reference.plain import Simulation

VARIANTS: dict[str, Callable[[bool], Neuron]] = {
    "soft": lambda d: LIF(decay=0.6, detach_reset=d),
    "hard": lambda d: LIF(decay=0.6, reset=HardReset(0.2), initial=0.2, detach_reset=d),
    "delayed": lambda d: LIF(decay=0.6, reset=SoftReset(1 / 0.6), detach_reset=d),
    "decay-input": lambda d: LIF(tau=3.0, decay_input=True, detach_reset=d),
    "threshold": lambda d: LIF(decay=0.6, threshold=0.7, learn_threshold=True, detach_reset=d),
    "hard-threshold": lambda d: LIF(decay=0.6, reset=HardReset(-0.1), learn_threshold=True, detach_reset=d),
    "triangle": lambda d: IF(surrogate=Triangle(), detach_reset=d),
    "rectangle": lambda d: LIF(decay=0.6, surrogate=Rectangle(2.0), ties_fire=False, detach_reset=d),
    "all-knobs": lambda d: Affine(0.7, 0.9, 0.05, 0.8, 1.3, initial=0.1, detach_reset=d, learn_threshold=True),
    "cuba": lambda d: CubaLIF(LIF(decay=0.6, learn_threshold=True, detach_reset=d), 0.4),
    "adaptive": lambda d: AdaptiveLIF(LIF(decay=0.6, learn_threshold=True, detach_reset=d), 0.3, 0.8),
    "adaptive-knobs": lambda d: AdaptiveLIF(Affine(0.7, 0.9, 0.05, 0.8, 1.3, detach_reset=d), 0.3, 0.8),
    "li": lambda d: LI(decay=0.8),
    "li-decay-input": lambda d: LI(tau=4.0, decay_input=True),
}
each_variant = pytest.mark.parametrize("name", list(VARIANTS))
each_detach = pytest.mark.parametrize("detach", [True, False])


def drives(steps: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(steps, 3, 7, generator=generator, dtype=torch.float64) * 0.9 + 0.3


def plainly(neuron: Neuron, x: Tensor) -> Tensor:
    simulation = Simulation(neuron, across_time=True)
    return torch.stack([simulation.step(frame) for frame in x])


@each_variant
@each_detach
def test_gradients_through_time_equal_plain_autograd(name: str, detach: bool) -> None:
    """Input, parameter and surrogate gradients of the unrolled neuron, for every reset, detached or not."""
    neuron = VARIANTS[name](detach).double()
    weights = torch.randn(12, 3, 7, dtype=torch.float64)
    found = []
    for run in (lambda x: neuron.unroll(x, neuron.start(x[0]))[0], lambda x: plainly(neuron, x)):
        x = drives().requires_grad_()
        out = run(x)
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *neuron.parameters()])])
    assert all(relative(a, b) < 1e-10 for a, b in zip(*found, strict=True))
    assert not neuron.spiking or 0 < found[0][0].count_nonzero() < found[0][0].numel()


@each_variant
def test_the_state_after_a_chunk_is_in_the_graph(name: str) -> None:
    """Gradients through two chunks of an unrolled neuron equal those through one."""
    neuron = VARIANTS[name](False).double()
    found = []
    for cut in (12, 5):
        x = drives().requires_grad_()
        state, outs = neuron.start(x[0]), []
        for part in x.split([cut, 12 - cut]) if cut < 12 else [x]:
            out, state, _ = neuron.unroll(part, state)
            outs.append(out)
        loss = torch.cat(outs).square().sum() + sum(s.sum() for s in state)
        found.append(torch.autograd.grad(loss, [x, *neuron.parameters()]))
    assert all(relative(a, b) < 1e-10 for a, b in zip(*found, strict=True))


@each_variant
def test_scan_and_unroll_fire_alike(name: str) -> None:
    neuron, x = VARIANTS[name](True).double(), drives()
    firing = neuron.scan(x, neuron.start(x[0]))
    out, state, potential = neuron.unroll(x, neuron.start(x[0]))
    assert torch.equal(firing.out, out)
    assert torch.equal(firing.potential, potential)
    assert all(torch.equal(a, b) for a, b in zip(firing.state, state, strict=True))
    assert not any(value.requires_grad for value in (firing.out, firing.slope, firing.potential, *firing.state))


@each_variant
@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_chunks_change_nothing(name: str, chunk: int) -> None:
    neuron, x = VARIANTS[name](True).double(), drives()
    whole, state, parts = neuron.scan(x, neuron.start(x[0])), neuron.start(x[0]), []
    for part in x.split(chunk):
        parts.append(neuron.scan(part, state))
        state = parts[-1].state
    for field in ("out", "slope", "potential"):
        assert relative(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field)) < 1e-12
    assert all(relative(a, b) < 1e-12 for a, b in zip(state, whole.state, strict=True))


@each_variant
def test_the_slope_is_the_derivative_within_a_step(name: str) -> None:
    """slope = d out / d drive with the past held fixed; never negative."""
    neuron, x = VARIANTS[name](False).double(), drives()
    firing, state = neuron.scan(x, neuron.start(x[0])), neuron.start(x[0])
    for t in range(len(x)):
        now = x[t : t + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(neuron.unroll(now, state)[0].sum(), now)
        assert relative(firing.slope[t], slope[0]) < 1e-10
        state = neuron.scan(x[t : t + 1], state).state
    assert firing.slope.min() >= 0


@pytest.mark.parametrize("name", ["threshold", "hard-threshold", "all-knobs", "cuba", "adaptive"])
def test_parameter_gradients_within_a_step(name: str) -> None:
    """`parameter_grads` = autograd with the past held fixed, summed over steps."""
    neuron, x = VARIANTS[name](False).double(), drives()
    credit, firing, state = torch.randn_like(x), neuron.scan(x, neuron.start(x[0])), neuron.start(x[0])
    expected = torch.zeros((), dtype=torch.float64)
    for t in range(len(x)):
        out = neuron.unroll(x[t : t + 1], state)[0]
        (grad,) = torch.autograd.grad((out * credit[t]).sum(), list(neuron.parameters()))
        expected, state = expected + grad, neuron.scan(x[t : t + 1], state).state
    ((key, given),) = neuron.parameter_grads(credit, firing).items()
    assert [key] == [name for name, _ in neuron.named_parameters()]
    assert relative(given, expected) < 1e-10


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_a_soft_reset_conserves_charge(decay: float) -> None:
    """V[T] = sum_t decay^(T-t) (x[t] - theta s[t]): every spike takes one threshold, nothing is lost."""
    neuron, x = LIF(decay=decay, threshold=0.8), drives(30)
    firing = neuron.scan(x, neuron.start(x[0]))
    age = torch.arange(29, -1, -1, dtype=torch.float64).view(-1, 1, 1)
    assert relative(((x - 0.8 * firing.out) * decay**age).sum(0), firing.state[0]) < 1e-10


def test_an_integrate_and_fire_neuron_fires_at_the_rate_of_its_drive() -> None:
    x = torch.linspace(0.05, 0.95, 10, dtype=torch.float64).expand(1000, 1, 10)
    firing = IF().scan(x, IF().start(x[0]))
    assert (firing.out.mean(0) - x[0]).abs().max() < 2e-3


def test_a_delayed_reset_is_an_ordinary_one_of_another_amount() -> None:
    """Subtracting theta one step late, unleaked, is subtracting theta / decay at once."""
    x, lam = drives(), 0.6
    firing = LIF(decay=lam, reset=resets.build("delayed", lam, 1.0)).scan(x, (torch.zeros(3, 7).double(),))
    u, s = torch.zeros(3, 7).double(), torch.zeros(3, 7).double()
    for t in range(len(x)):
        u = lam * u + x[t] - s
        s = (u >= 1).double()
        assert relative(firing.potential[t], u) < 1e-10
        assert torch.equal(firing.out[t], s)


@pytest.mark.parametrize("name", ["lif", "cuba-lif", "adaptive-lif"])
def test_a_leak_may_be_named_in_place_of_a_time_constant(name: str) -> None:
    x = torch.rand(6, 2, 3, dtype=torch.float64) * 2
    for decay_input in (False, True):
        by_tau = neurons.build({"name": name, "tau": 4.0, "decay_input": decay_input})
        by_decay = neurons.build({"name": name, "decay": 0.75, "decay_input": decay_input})
        assert by_decay.decay == by_tau.decay == 0.75
        found = [n.scan(x, n.start(x[0])).potential for n in (by_tau, by_decay)]
        assert torch.equal(*found)


def test_a_hard_reset_leaks_towards_its_own_value() -> None:
    neuron = LIF(decay=0.5, reset=HardReset(-0.4), initial=-0.4)
    silence = torch.zeros(5, 1, 1, dtype=torch.float64)
    firing = neuron.scan(silence, neuron.start(silence[0]))
    assert relative(firing.potential, torch.full_like(silence, -0.4)) < 1e-12


@each_variant
def test_after_reset_is_the_state(name: str) -> None:
    neuron, x = VARIANTS[name](True).double(), drives()
    firing = neuron.scan(x, neuron.start(x[0]))
    membrane = firing.state[1] if isinstance(neuron, CubaLIF) else firing.state[0]
    assert torch.equal(neuron.after_reset(firing)[-1], membrane)


def normal(law: Law, part: str, like: Tensor, start: int = 0) -> Tensor:  # noqa: ARG001
    return torch.randn_like(like)


def test_every_named_neuron_can_be_built_and_run() -> None:
    x = drives()
    for name in neurons.names():
        for surrogate in surrogates.names():
            has_one = "surrogate" in neurons.entry(name).config.model_fields
            neuron = neurons.build({"name": name, **({"surrogate": surrogate} if has_one else {})})
            assert neuron.scan(x, neuron.start(x[0]), normal).slope.isfinite().all()
    assert neurons.build({"name": "lif", "tau": 4.0}).decay == 0.75


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LIF(tau=0.5), r"0\.5 steps was given; expected tau >= 1"),
        (lambda: LIF(tau=2.0, decay=0.5), "either tau or decay"),
        (lambda: LIF(decay=1.5), r"leak of 1\.5 per step was given; expected 0 <= decay <= 1"),
        (lambda: LIF(threshold=0.0), "threshold of 0.0 was given; expected a positive number"),
        (lambda: neurons.build({"name": "lif", "tau": 0.2}), "tau"),
        (lambda: neurons.build({"name": "lif", "surrogate": {"name": "sigmoid", "slope": -1}}), "slope"),
    ],
)
def test_impossible_neurons_are_refused_in_words(build: Callable[[], Neuron], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("detach", [True, False])
def test_back_propagation_through_time_knows_graded_spikes(detach: bool) -> None:
    """The threshold of a graded neuron is its firing level, its reset and its spikes' height at once."""
    neuron = Graded(0.8, 0.5, tau=1.0, dt=0.5, grad_scale=1.0).double()
    neuron.detach_reset = detach
    x = torch.rand(9, 2, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64).requires_grad_()
    g = torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    v, level = neuron.threshold, torch.zeros(2, 5, dtype=torch.float64)
    outs = []
    for x_t in x:
        h = neuron.decay * level + neuron.gain * x_t
        above = h - 0.5 * v
        s = (above >= 0).double() + neuron.surrogate(above.detach()) * (above - above.detach())
        level = h - (s.detach() if detach else s) * v
        outs.append(s * v / 0.5)
    expected = torch.autograd.grad((torch.stack(outs) * g).sum(), [x, v])
    out, _, _ = neuron.unroll(x, neuron.start(x[0].detach()))
    found = torch.autograd.grad((out * g).sum(), [x, v])
    assert all(relative(a, b) < 1e-10 for a, b in zip(found, expected, strict=True))
