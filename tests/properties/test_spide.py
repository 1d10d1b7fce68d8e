"""Properties S1 to S12 of SPIDE (docs of the methods, 3.11), against couples and dense solves in plain loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from onward.core import Feedback, Network, Static
from onward.core.signal import dense
from onward.neurons import IF
from onward.rules.spide import SPIDE, Couples, CutWalk
from onward.testing.harness import bound, teach
from properties.equilibrium_lab import (
    CLASSES,
    NETWORKS,
    ByHand,
    MakeNeuron,
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

D = 2.0


class Watched(SPIDE):
    """Keeps what stage 2 was given, so that it can be run again with other errors."""

    walk: CutWalk
    given: Tensor

    def spike_back(self, walk: CutWalk, errors: Tensor) -> dict[int, Couples]:
        self.walk, self.given = walk, errors
        return super().spike_back(walk, errors)

    def again(self, errors: Tensor, steps: int | None = None) -> dict[int, Couples]:
        """Stage 2 for other ``errors`` at the output, and perhaps for more steps."""
        self.steps = steps or self.steps
        return super().spike_back(self.walk, errors)


class Dense(Watched):
    """Solves (I - J^T) beta = g densely where SPIDE lets couples fire."""

    betas: list[Tensor]

    def __init__(self, hand: ByHand, **options: Any):
        super().__init__(steps=1, **options)
        self.hand = hand

    def spike_back(self, walk: CutWalk, errors: Tensor) -> dict[int, Couples]:
        couples = super().spike_back(walk, errors)
        hand, last = self.hand, max(couples)
        g = F.linear(errors[0], hand.p[f"{hand.head}.weight"].T).view_as(couples[last].beta()[0])
        self.betas = hand_betas(hand, masks(couples), g)
        for couple, beta in zip(couples.values(), self.betas, strict=True):
            couple.memory = couple.memory._replace(total=beta[None] * self.steps)
        return couples


def masks(couples: dict[int, Couples]) -> list[Tensor]:
    """m of every layer."""
    return [couple.mask[0] for couple in couples.values()]


def along(hand: ByHand, mask: list[Tensor], a: Tensor) -> list[Tensor]:
    """The derivative of all layers' rates along a change ``a`` of the last one's, where ``mask`` is."""
    names, found = ["0.back", *hand.body], []
    for name, m in zip(names, mask, strict=True):
        zero = torch.zeros_like(a)
        a = m * (hand.apply(name, a) - hand.apply(name, zero)) / hand.charge
        found.append(a)
    return found


def hand_betas(hand: ByHand, mask: list[Tensor], g: Tensor) -> list[Tensor]:
    """beta of every layer: dense solve for the last, (1/D) W^T (m beta) for the others."""
    n = g[0].numel()
    eye = torch.eye(n, dtype=g.dtype).view(n, 1, *g.shape[1:])
    columns = [along(hand, mask, e.expand_as(g))[-1].flatten(1) for e in eye]
    j = torch.stack(columns, 2)
    betas = [torch.linalg.solve(torch.eye(n, dtype=g.dtype) - j.mT, g.flatten(1)).view_as(g)]
    for layer in range(len(mask) - 1, 0, -1):
        like = torch.zeros_like(mask[layer - 1]).requires_grad_()
        current = hand.apply(hand.body[layer - 1], like)
        betas.append(torch.autograd.grad(current, like, mask[layer] * betas[-1] / hand.charge)[0])
    return [beta.detach() for beta in betas[::-1]]


def hand_grads(hand: ByHand, a: list[Tensor], x: Tensor, mask: list[Tensor], betas: list[Tensor]) -> dict[str, Tensor]:
    """3.4: delta = (1/D) m beta; each synapse's gradient is that of its map at its input's rate."""
    found: dict[str, Tensor] = {}
    inputs = [[("0.entry", x), ("0.back", a[-1])], *([(name, r)] for name, r in zip(hand.body, a, strict=False))]
    for read, m, beta in zip(inputs, mask, betas, strict=True):
        for name, seen in read:
            found |= hand.grads(hand.apply(name, seen), m * beta / hand.charge)
    return found


def taught_by(rule: SPIDE, net: Network, x: Tensor, y: Tensor, steps: int = 40, leak: float = 1.0) -> dict[str, Tensor]:
    sequence = Static(x, steps)
    return teach(net, bound(rule, net, sequence, objective(leak)), sequence, y, objective=objective(leak)).grads


def watched(net: Network, x: Tensor, y: Tensor, steps: int = 40, **options: Any) -> Watched:
    rule = Watched(**options)
    taught_by(rule, net, x, y, steps)
    return rule


@pytest.mark.parametrize("name", ["one layer", "convolutions"])
def test_s1_rates_converge_to_the_fixed_point_with_d(name: str) -> None:
    """S1: T max|a_T - a*| is bounded, a* = clamp((W a* + F x) / D), for neurons that rest at -V."""
    net = NETWORKS[name](symmetric)
    x, y = still(net)
    hand = ByHand(net, 1.0, D)
    errors = (rates(spikes_of(net, Static(x, 500), y)[-1]) - hand.equilibrium(x)).abs()
    scaled = {t: t * float(errors[t - 1].max()) for t in (10, 50, 200, 500)}
    assert max(scaled.values()) < 6, scaled


def test_s1_a_symmetric_reset_has_no_bias() -> None:
    """S1: |mean error| is at least 5 times smaller than with u_rest = 0, the same map and the same T."""
    biases = {}
    for make, threshold in ((symmetric, 1.0), (integrates, 2.0)):
        torch.manual_seed(0)
        net = dense_loop([20], make, norm=1.0)
        x, y = still(net, batch=200)
        error = spikes_of(net, Static(x, 30), y)[-1].mean(0) - ByHand(net, threshold, D).equilibrium(x)
        biases[threshold] = abs(float(error.mean()))
    assert 5 * biases[1.0] < biases[2.0]


def open_layer(n: int, batch: int) -> tuple[Network, Tensor, Tensor]:
    """One layer without feedback whose outputs are read as they are: errors at the output are the couples' current."""
    net = Network(nn.Sequential(nn.Linear(6, n), IF(threshold=D), nn.Linear(n, n, bias=False))).double()
    net.get_parameter("0.bias").data.fill_(0.5 * D)
    net.get_parameter("2.weight").data.copy_(torch.eye(n))
    x = torch.rand(batch, 6, dtype=torch.float64) - 0.5
    return net, x, torch.zeros(batch, dtype=torch.int64)


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 100])
def test_s2_couples_tell_a_constant_to_v_over_t(steps: int) -> None:
    """S2: |beta - c| <= V_b / T_b for |c| <= D_b = 2 V_b, tight; beta(-c) = -beta(c) exactly."""
    net, x, y = open_layer(50, 20)
    rule = watched(net, x, y, steps=steps)
    c = torch.linspace(-1, 1, 1000, dtype=torch.float64).view(1, 20, 50)
    (couple,) = rule.again(c, steps).values()
    (mirrored,) = rule.again(-c, steps).values()
    error = (couple.beta() - c).abs()
    assert float(error.max()) <= 0.5 / steps + 1e-12
    assert float(error.max()) > 0.9 * 0.5 / steps
    assert torch.equal(mirrored.beta(), -couple.beta())


@given(st.integers(0, 2**31), st.sampled_from([0.25, 0.5, 1.0]), st.floats(-2, 0), st.sampled_from([0.9, 1.0]))
def test_s3_a_couple_is_two_neurons_that_reset_each_other(
    seed: int, threshold: float, rest: float, leak: float
) -> None:
    """S3: two binary neurons with mirrored currents and a joint reset emit the same q, bit by bit."""
    net, x, y = open_layer(5, 3)
    rule = watched(net, x, y, threshold=threshold, rest=rest, leak=leak)
    couple = Couples(rule.walk, net.neurons[0], rule)
    couple.mask, couple.gain = torch.ones_like(couple.mask), 1.0
    charge = threshold - rest
    plus, minus = torch.zeros(1, 3, 5, dtype=torch.float64), torch.zeros(1, 3, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(12):
        current = torch.randn(1, 3, 5, generator=generator, dtype=torch.float64)
        plus, minus = leak * plus + current, leak * minus - current
        up, down = (plus >= threshold).double(), (minus >= threshold).double()
        assert torch.equal(couple.spike(current) / charge, up - down)
        plus, minus = plus - charge * up + charge * down, minus - charge * down + charge * up


def stage_two(name: str) -> tuple[Watched, ByHand, Tensor, list[Tensor]]:
    """Stage 2 of a network, ready to be run again; g at the last layer and errors of size 1 that give it."""
    torch.manual_seed(0)
    net = NETWORKS[name](symmetric)
    x, y = still(net)
    rule = watched(net, x, y)
    hand = ByHand(net, 1.0, D)
    couples = rule.again(rule.given, 1)
    e = torch.randn(1, len(x), CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shape = couples[max(couples)].mask[0].shape
    g = F.linear(e[0], hand.p[f"{hand.head}.weight"].detach().T).view(shape)
    return rule, hand, e, hand_betas(hand, masks(couples), g)


def largest(betas: list[Tensor]) -> float:
    return max(float(beta.abs().max()) for beta in betas)


def worst(couples: dict[int, Couples], betas: list[Tensor], factor: float) -> float:
    """max |beta - beta*| over all layers."""
    return max(float((c.beta()[0] - factor * b).abs().max()) for c, b in zip(couples.values(), betas, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_s4_beta_converges_to_the_solution(name: str) -> None:
    """S4: T_b max|beta - beta*| is bounded while max|beta*| < D_b; the first couples' transient included."""
    rule, _, e, betas = stage_two(name)
    factor = 0.6 / largest(betas)
    scaled = {t: t * worst(rule.again(factor * e, t), betas, factor) for t in (10, 30, 100, 300)}
    assert max(scaled.values()) < 3, scaled


@pytest.mark.parametrize("name", NETWORKS)
def test_s5_beyond_saturation_the_error_stays(name: str) -> None:
    """S5: with max|beta*| = 2 D_b the error does not shrink with T_b; the rule says so, and what to do about it."""
    rule, _, e, betas = stage_two(name)
    factor = 2 / largest(betas)
    errors = [worst(rule.again(factor * e, t), betas, factor) for t in (50, 200)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert errors[1] > 0.3


def test_s6_the_scale_does_not_matter() -> None:
    """S6: between dead and saturated, gradients with S and 2 S agree to O(1 / (S T_b))."""
    net = NETWORKS["one layer"](symmetric)
    x, y = still(net)
    scale = 0.4 / largest(exact_betas(net, x, y))
    for steps in (50, 200, 800):
        one, two = (taught_by(SPIDE(scale=s, steps=steps), net, x, y) for s in (scale, 2 * scale))
        difference = max(float((one[key] - two[key]).abs().max()) for key in one)
        assert 0 < scale * steps * difference < 3


def exact_betas(net: Network, x: Tensor, y: Tensor) -> list[Tensor]:
    """The solution for the errors of the network's own loss."""
    rule = Dense(ByHand(net, 1.0, D), scale=1.0)
    taught_by(rule, net, x, y)
    return rule.betas


NEURONS: dict[str, tuple[MakeNeuron, float, float]] = {
    "symmetric": (symmetric, 1.0, 1.0),
    "if": (integrates, 2.0, 1.0),
    "lif": (partial(leaks, decay=0.9), 2.0, 0.9),
}


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_s7_with_the_exact_solver_gradients_are_those_of_ide(name: str, neuron: str) -> None:
    """S7: with a dense solve in the place of stage 2, gradients are IDE's with the same rates and masks, to 1e-12."""
    make, threshold, leak = NEURONS[neuron]
    net = NETWORKS[name](make)
    x, y = still(net)
    hand = ByHand(net, threshold, D, leak)
    rule = Dense(hand)
    grads = taught_by(rule, net, x, y, leak=leak)
    spikes = hand.simulate(x.expand(40, *x.shape)).spikes
    a = [rates(s, leak)[-1] for s in spikes]
    mask = [((s.mean(0) > 0) & (s.mean(0) < 1)).double() for s in spikes]
    leaf = a[-1].clone().requires_grad_()
    g = torch.autograd.grad(hand.loss(leaf, y), leaf)[0]
    expected = hand_grads(hand, a, x, mask, hand_betas(hand, mask, g))
    expected |= hand.grads(hand.loss(a[-1], y))
    assert set(grads) == set(expected)
    assert max(distance(grads[key], expected[key]) for key in expected) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_s7_spikes_give_the_direction(name: str) -> None:
    """S7: cosine with the exact solver's gradient above 0.995 at T_b = 100, 0.999 at 250, at a sensible S."""
    net = NETWORKS[name](symmetric)
    x, y = still(net)
    exact = taught_by(Dense(ByHand(net, 1.0, D)), net, x, y)
    scale = 0.6 / largest(exact_betas(net, x, y))
    for steps, least in ((100, 0.995), (250, 0.999)):
        grads = taught_by(SPIDE(scale=scale, steps=steps), net, x, y)
        found = {key: cosine(grads[key], g) for key, g in exact.items()}
        assert min(found.values()) > least, found


def test_s7_the_same_holds_against_the_rule_ide() -> None:
    """S7: `ide` and SPIDE with the exact solver give one gradient where no rate is on a bound."""
    net = dense_loop([20], symmetric, norm=0.5)
    x, y = still(net)
    x = 0.5 * x
    spikes = spikes_of(net, Static(x, 40), y)[-1].mean(0)
    assert ((spikes > 0) & (spikes < 1)).all()
    solver = {"name": "gmres", "tolerance": 1e-14}
    expected = teach(net, {"name": "ide", "solver": solver}, Static(x, 40), y).grads
    grads = taught_by(Dense(ByHand(net, 1.0, D)), net, x, y)
    assert max(distance(grads[key], g) for key, g in expected.items()) < 1e-12


def chain() -> Network:
    """Three layers, one after the other."""
    layers: list[nn.Module] = []
    for fan_in, units in ((6, 12), (12, 10), (10, 8)):
        layers += [nn.Linear(fan_in, units), symmetric(D)]
    net = Network(nn.Sequential(*layers, nn.Linear(8, CLASSES))).double()
    for node in net.synapses[:-1]:
        nn.init.orthogonal_(node.module.get_parameter("weight"), 1.6)
        node.module.get_parameter("bias").data.fill_(0.3 * D)
    return net


def test_s8_without_feedback_stage_two_is_back_propagation_through_the_clamps() -> None:
    """S8: at T_b = 500, gradients equal those of the clamp network at the measured rates, to 1 %."""
    net = chain()
    x, y = still(net)
    weights = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    rule = bound(SPIDE(scale=10, steps=500), net, Static(x, 40))
    taught = teach(net, rule, Static(x, 40), y)
    a = x
    for layer, node in enumerate(net.neurons):
        spikes = torch.cat([record.firings[node.index].out for record in taught.records])
        rate = spikes.mean(0)
        mask = ((rate > 0) & (rate < 1)).double()
        z = F.linear(a, weights[f"{2 * layer}.weight"], weights[f"{2 * layer}.bias"]) / D
        a = rate + mask * (z - z.detach())
    loss = F.cross_entropy(F.linear(a, weights["6.weight"], weights["6.bias"]), y)
    expected = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    errors = {key: distance(taught.grads[key], g) for key, g in expected.items()}
    assert max(errors.values()) < 0.01, errors


def pooled() -> Network:
    """Strided and grouped convolutions, pooling, a transposed convolution, and feedback."""
    body = [IF(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), IF()]
    back = nn.ConvTranspose2d(6, 4, 3, stride=4, padding=1, output_padding=3, bias=False)
    net = nn.Sequential(
        Feedback(nn.Conv2d(2, 4, 3, padding=1), nn.Sequential(*body), back),
        nn.ConvTranspose2d(6, 3, 2, stride=2),
        IF(),
        nn.Flatten(),
        nn.Linear(48, 5),
        IF(),
        nn.Linear(5, CLASSES),
    )
    return Network(net).double()


def test_s9_what_travels_back_is_the_adjoint_of_what_travelled_forward() -> None:
    """S9: <W x, y> = <x, W^T y> for strided, grouped and transposed convolutions, pooling and linear layers."""
    net = pooled()
    x, y = torch.rand(3, 2, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    walk = watched(net, x, y, steps=10).walk
    w = {name: p.detach() for name, p in net.named_parameters()}
    first, second, third, fourth = (node.index for node in net.neurons)
    (closing,) = (node.index for node in net.closing)
    maps: list[tuple[int, int, Callable[[Tensor], Tensor]]] = [
        (first, second, lambda v: F.conv2d(F.avg_pool2d(v, 2), w["0.body.2.weight"], None, 2, 1, 1, 2)),
        (second, third, lambda v: F.conv_transpose2d(v, w["1.weight"], None, 2)),
        (third, fourth, lambda v: F.linear(v.flatten(1), w["4.weight"])),
        (closing, first, lambda v: F.conv_transpose2d(v, w["0.back.weight"], None, 4, 1, 3)),
    ]
    for source, target, forward in maps:
        rate, drive = torch.randn_like(dense(walk.leaves[source].sent)), walk.record.inputs[target]
        post = torch.randn_like(drive)
        back = walk.pull(drive, post)[source]
        assert float((forward(rate[0]) * post[0]).sum()) == pytest.approx(float((rate * back).sum()), rel=1e-10)


def test_s10_only_three_values_travel_in_stage_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """S10: what couples transmit (times 1 / D) is -D_b, 0 or D_b, and nothing else reaches the layers below."""
    sent: list[Tensor] = []
    spike = Couples.spike

    def watched_spike(self: Couples, current: Tensor) -> Tensor:
        sent.append(spike(self, current))
        return sent[-1]

    monkeypatch.setattr(Couples, "spike", watched_spike)
    net = NETWORKS["three layers"](symmetric)
    taught_by(SPIDE(scale=10, steps=30, threshold=0.25, rest=-0.5), net, *still(net))
    assert len(sent) == 3 * 30
    assert (D * torch.cat([r.flatten() for r in sent])).unique().tolist() == [-0.75, 0, 0.75]


@pytest.mark.parametrize("make", [symmetric, integrates])
def test_s12_masked_units_learn_nothing(make: MakeNeuron) -> None:
    """S12: a neuron whose rate is 0 or 1 in all samples has gradients of exactly 0, others have not."""
    net = NETWORKS["three layers"](make)
    x, y = still(net)
    with torch.no_grad():
        for name, unit, value in (
            ("0.entry", 0, -9.0),
            ("0.entry", 1, 9.0),
            ("0.body.1", 2, -9.0),
            ("0.body.3", 3, 9.0),
        ):
            net.get_parameter(f"{name}.bias")[unit] = value
    rates_of = [
        s.mean(0) for s in ByHand(net, 1.0 if make is symmetric else 2.0, D).simulate(x.expand(40, *x.shape)).spikes
    ]
    rule = SPIDE(scale=10, steps=100)
    grads = taught_by(rule, net, x, y)
    for name, rate in zip(("0.entry", "0.body.1", "0.body.3"), rates_of, strict=True):
        masked = ((rate == 0) | (rate == 1)).all(0)
        assert masked.any()
        assert (grads[f"{name}.weight"][masked] == 0).all()
        assert (grads[f"{name}.bias"][masked] == 0).all()
        assert (grads[f"{name}.weight"][~masked] != 0).any(1).double().mean() > 0.8
