"""Properties D, I and S of rules that learn from rates, against plain loops in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conformance.harness import relative
from conformance.test_claims import Kept
from onward.core import CrossEntropy, Feedback, GradSink, KeyedDraws, Network, Static, run_sequence
from onward.core.errors import ObjectiveMismatch, TopologyMismatch
from onward.core.objective import PerStep, Readout, Weighted
from onward.core.run import Outcome
from onward.kernels.couples import Law, Memory, plain_couple
from onward.neurons import IF, LIF, Affine, Graded, GradedIF, GradedLIF, HardReset, SoftReset
from onward.rules import rules

SOLVED = {"name": "gmres", "tolerance": 1e-14, "steps": 200}
N, INPUTS, CLASSES, BATCH = 20, 9, 4, 5


def graded(kind: str, v: float, alpha: float) -> Graded:
    return (GradedIF(v, alpha) if kind == "if" else GradedLIF(v, alpha, tau=1.0, dt=0.05)).double()


def mean(x: Tensor, leak: float) -> Tensor:
    weights = torch.tensor([leak ** (len(x) - 1 - t) for t in range(len(x))], dtype=torch.float64)
    return torch.einsum("t,t...->...", weights / weights.sum(), x)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["if", "lif"]), steps=st.integers(1, 40), alpha=st.floats(0.1, 1), seed=st.integers(0, 10**6)
)
def test_d1_d2_the_books_of_a_neuron_balance(kind: str, steps: int, alpha: float, seed: int) -> None:
    x = torch.randn(steps, 2, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    node = graded(kind, 0.7, alpha)
    firing = node.simulate(x, node.start(x[0]))
    v, beta = firing.state[0], node.decay
    out, drive, weight = mean(firing.out, beta), mean(x, beta), sum(beta**t for t in range(steps))
    dt = 1.0 if kind == "if" else 0.05
    gain = 1.0 if kind == "if" else (1 - beta) / dt
    assert (out - (gain * drive - v / (dt * weight))).abs().max() < 1e-10


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7, 1.0])
def test_d3_the_error_of_constant_input_is_bounded_tightly(alpha: float) -> None:
    v, drive = 1.5, torch.linspace(0, 1.5, 40_001, dtype=torch.float64)[None]
    for steps in (1, 5, 20, 100, 1000):
        node = graded("if", v, alpha)
        error = (node.simulate(drive.expand(steps, 1, -1), node.start(drive)).out.mean(0) - drive).abs().max()
        bound = max(alpha, 1 - alpha) * v / steps
        assert 0.9 * bound <= error <= bound + 1e-12


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_d4_beyond_the_bounds_the_output_is_exact(steps: int) -> None:
    drive, node = torch.tensor([[-3.0, -1e-3, 1.5, 4.0]], dtype=torch.float64), graded("if", 1.5, 0.5)
    out = node.simulate(drive.expand(steps, 1, -1), node.start(drive)).out.mean(0)[0]
    assert torch.allclose(out, torch.tensor([0.0, 0.0, 1.5, 1.5], dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize(
    ("steps", "dt", "v", "worst"), [(20, 0.05, 0.3, 0.231), (400, 0.05, 0.3, 0.146), (2000, 0.005, 0.03, 0.015)]
)
def test_d5_the_error_of_leaky_neurons_stays(steps: int, dt: float, v: float, worst: float) -> None:
    node = GradedLIF(v, 0.5, tau=1.0, dt=dt, exact_slope=True).double()
    drive = torch.linspace(0, v / (1 - node.decay), 4001, dtype=torch.float64)[None]
    out = mean(node.simulate(drive.expand(steps, 1, -1), node.start(drive)).out, node.decay)
    assert float((out - node.rate_law(drive).detach()).abs().max()) == pytest.approx(worst, rel=0.05)


def test_d6_the_gradient_of_the_clamp_is_its_finite_difference_and_even_over_time() -> None:
    from onward.rules.dsr import Averaged

    for kind in ("if", "lif"):
        node = graded(kind, 0.8, 0.5)
        top = 0.8 if kind == "if" else 0.8 / 0.05
        x = (torch.rand(12, 3, 40, dtype=torch.float64) * 1.6 - 0.3) * top
        x.requires_grad_()
        firing = node.simulate(x.detach(), node.start(x[0]))
        g = torch.randn(1, 3, 40, dtype=torch.float64)
        (grad,) = torch.autograd.grad((Averaged(12, node.decay)(node.rate_law, x, firing.out) * g).sum(), x)
        drive, eps = mean(x.detach(), node.decay), 1e-6
        slope = ((drive + eps).clamp(0, top) - (drive - eps).clamp(0, top)) / (2 * eps)
        assert torch.equal(grad[0].expand_as(grad), grad)
        assert relative(grad.sum(0), 12 * g[0] * slope) < 1e-6


def taught(
    net: Network, rule: Any, x: Tensor, y: Tensor, steps: int, leak: float = 1.0
) -> tuple[Any, dict[str, Tensor], Outcome]:
    built = rule if isinstance(rule, nn.Module) else rules.build(rule)
    objective, sequence = Readout(CrossEntropy(), Weighted(leak)), Static(x, steps)
    built.bind(net, objective, sequence, KeyedDraws(0))
    net.zero_grad(set_to_none=True)
    sink = GradSink(net)
    outcome = run_sequence(net, built, objective, sequence, y, sink, draws=KeyedDraws(0))
    sink.flush()
    return built, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}, outcome


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(BATCH, INPUTS, generator=generator, dtype=torch.float64), torch.randint(
        CLASSES, (BATCH,), generator=generator
    )


def test_d9_the_threshold_learns_from_saturated_elements_alone() -> None:
    torch.manual_seed(1)
    for scale, factor in ((0.01, 1.0), (4.0, 1.0), (4.0, 0.25)):
        neuron = GradedIF(1.0, 0.5, grad_scale=factor)
        net = Network(nn.Sequential(nn.Linear(INPUTS, N), neuron, nn.Linear(N, CLASSES))).double()
        net.get_parameter("0.weight").data.mul_(scale)
        x, y = data()
        _, grads, _ = taught(net, "dsr", x, y, 40)
        drive, readout = net.get_submodule("0")(x), net.get_submodule("2")
        out = net(x.expand(40, *x.shape)).mean(0)
        credit = ((out.softmax(-1) - nn.functional.one_hot(y, CLASSES)) / BATCH) @ readout.weight
        expected = factor * (credit * (drive > 1)).sum()
        assert (grads["1.threshold"] - expected).abs() < 1e-12


def test_d10_the_height_of_spikes_folds_into_the_next_weights() -> None:
    x = torch.rand(15, 3, 6, dtype=torch.float64) * 2
    node, weight = graded("if", 0.8, 0.5), torch.randn(4, 6, dtype=torch.float64)
    plain = Affine(1.0, threshold=0.4, reset=SoftReset(2.0))
    sent, spikes = node.simulate(x, node.start(x[0])), plain.simulate(x, plain.start(x[0]))
    assert torch.equal(sent.out > 0, spikes.out > 0)
    assert torch.allclose(sent.out @ weight.T, spikes.out @ (0.8 * weight).T, atol=1e-12)


def loop_net(
    norm: float, layers: int, conv: bool = False, seed: int = 2, neuron: Any = lambda: IF(threshold=2.0)
) -> Network:
    """A feedback network whose loop, over what spikes cost (2), has about the given norm."""
    torch.manual_seed(seed)

    def synapse(into: int, out: int, bias: bool = True) -> nn.Module:
        return nn.Conv2d(into, out, 3, padding=1, bias=bias) if conv else nn.Linear(into, out, bias=bias)

    width = 3 if conv else N
    body = nn.Sequential(neuron())
    for _ in range(layers - 1):
        body.extend([synapse(width, width), neuron()])
    entry, back = synapse(1 if conv else INPUTS, width), synapse(width, width, bias=False)
    flat = width * 16 if conv else width
    net = Network(nn.Sequential(Feedback(entry, body, back), nn.Flatten(), nn.Linear(flat, CLASSES))).double()
    with torch.no_grad():
        for node in net.synapses[1:-1]:
            weight = node.module.get_parameter("weight")
            size = torch.linalg.matrix_norm(weight.flatten(1), 2) * (1.6 if conv else 1.0)
            weight.mul_(2 * norm ** (1 / layers) / size)
        net.synapses[0].module.get_parameter("weight").mul_(2.0)
        net.synapses[0].module.get_parameter("bias").fill_(0.5)
    return net


def inputs(conv: bool) -> tuple[Tensor, Tensor]:
    x, y = data()
    return (
        (torch.rand(BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2, y)
        if conv
        else (2 * x, y)
    )


def unrolled(
    net: Network, x: Tensor, y: Tensor, cost: float = 2.0, rounds: int = 300
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients by autograd through many rounds of the network of clamps, and its fixed point."""
    loop, readout = net.get_submodule("0"), net.get_submodule("2")
    chain = [module for module in loop.body if not isinstance(module, Affine)]  # type: ignore[attr-defined]
    entry, back = loop.get_submodule("entry"), loop.get_submodule("back")
    state = (torch.zeros_like(entry(x)) / cost).detach()
    for _ in range(rounds):
        state = ((entry(x) + back(state)) / cost).clamp(0, 1)
        for synapse in chain:
            state = (synapse(state) / cost).clamp(0, 1)
    loss = nn.functional.cross_entropy(readout(state.flatten(1)), y)
    grads = torch.autograd.grad(loss, list(net.parameters()))
    return {n: g for (n, _), g in zip(net.named_parameters(), grads, strict=True)}, state.detach()


CASES = [(1, False), (3, False), (1, True), (2, True)]


@pytest.mark.parametrize(("layers", "conv"), CASES)
def test_i4_the_implicit_gradient_is_that_of_the_unrolled_fixed_point(layers: int, conv: bool) -> None:
    """Relative error, at rates that are the fixed point itself: long runs of IF neurons, then extrapolated away."""
    from golden.equilibria import AtRest, solved

    net, (x, y) = loop_net(0.8, layers, conv), inputs(conv)
    expected, _ = unrolled(net, x, y)
    rule = AtRest(solved(SOLVED))
    grads = taught(net, rule, x, y, 3)[1]
    assert max(relative(grads[name], expected[name]) for name in expected) < 1e-9


@pytest.mark.parametrize(
    "solver", [None, {"name": "halved", "steps": 200, "tolerance": 1e-12}], ids=["no solve", "halved"]
)
def test_i7_without_the_solve_or_with_the_published_iteration_it_is_not(solver: dict | None) -> None:
    from golden.equilibria import AtRest, Remembering, solved

    class Dropped(Remembering):
        def solve(self, operator: Any, g: Tensor, start: Tensor | None = None) -> Any:
            from dataclasses import replace

            return replace(super().solve(operator, g, start), value=torch.zeros_like(g))

    net, (x, y) = loop_net(0.8, 1), inputs(False)
    expected, _ = unrolled(net, x, y)
    keeps = solved(SOLVED)
    rule = AtRest(Dropped(keeps.solver) if solver is None else solved(solver))
    grads = taught(net, rule, x, y, 3)[1]
    assert max(relative(grads[name], expected[name]) for name in expected) > 0.05


def test_i2_rates_of_if_neurons_approach_the_fixed_point_as_one_over_t() -> None:
    net, (x, y) = loop_net(0.5, 1), inputs(False)
    _, rest = unrolled(net, x, y)
    scaled = [steps * float((rates(net, x, steps) - rest).abs().max()) for steps in (5, 20, 100, 500, 2000)]
    assert max(scaled) < 3
    assert scaled[-1] > 0.05


def test_i3_rates_of_leaky_neurons_stay_away_by_about_one_minus_the_leak() -> None:
    errors = []
    for leak in (0.95, 0.99):
        net, (x, y) = loop_net(0.5, 1, neuron=lambda leak=leak: LIF(decay=leak, threshold=2.0)), inputs(False)
        _, rest = unrolled(net, x, y)
        errors.append(float((rates(net, x, 1500, leak) - rest).abs().max()))
    assert 0.01 < errors[0] < 0.12
    assert 2.5 < errors[0] / errors[1] < 10


def rates(net: Network, x: Tensor, steps: int, leak: float = 1.0) -> Tensor:
    """Weighted rates of the first neuron, by a plain loop."""
    loop: Any = net.get_submodule("0")
    with torch.no_grad():
        drive, u, s, total = loop.entry(x), 0.0, None, 0.0
        for _ in range(steps):
            u = leak * u + drive + (0 if s is None else loop.back(s))
            s = (u >= 2.0).double()
            u, total = u - 2.0 * s, leak * total + s
        return total / sum(leak**t for t in range(steps))


def test_i8_at_the_measured_rates_the_gradient_points_the_same_way() -> None:
    net, (x, y) = loop_net(0.5, 1), inputs(False)
    expected, _ = unrolled(net, x, y)
    for steps, least in ((5, 0.9), (30, 0.99), (1000, 0.9999)):
        grads = taught(net, {"name": "ide", "solver": SOLVED}, x, y, steps)[1]
        a, b = (torch.cat([g[n].flatten() for n in expected]) for g in (grads, expected))
        assert nn.functional.cosine_similarity(a, b, dim=0) > least


@pytest.mark.parametrize(("rule", "net"), [("ide", 1), ("spide", 2), ("dsr", 0)])
def test_i9_s10_memory_does_not_grow_with_time(rule: str, net: int) -> None:
    """What graphs hold at the peak, 30 and 500 steps."""
    network = (
        loop_net(0.5, net)
        if net
        else Network(nn.Sequential(nn.Linear(INPUTS, N), IF(), nn.Linear(N, CLASSES))).double()
    )
    peaks = []
    for steps in (30, 500):
        kept = Kept()
        with kept.hooks():
            taught(network, {"name": rule, **({"steps": 5} if rule == "spide" else {})}, *inputs(False), steps)
        peaks.append(kept.peak)
    assert peaks[0] == pytest.approx(peaks[1], rel=0.05)


def spide_errors(net: Network, x: Tensor, y: Tensor, scale: float, longs: tuple[int, ...]) -> list[float]:
    """Largest relative error of SPIDE's gradients against the exact solution with the same rates and masks."""
    from golden.couples import Solved

    exact = taught(net, Solved(scale, 1), x, y, 200)[1]
    found = [taught(net, {"name": "spide", "scale": scale, "steps": t}, x, y, 200)[1] for t in longs]
    return [max(relative(grads[name], exact[name]) for name in exact) for grads in found]


def test_s4_s5_couples_approach_the_solution_as_one_over_t_until_they_saturate() -> None:
    net, (x, y) = loop_net(0.5, 2), inputs(False)
    longs = (50, 200, 800, 3200)
    within = spide_errors(net, x, y, 10.0, longs)
    scaled = [t * error for t, error in zip(longs, within, strict=True)]
    assert max(scaled) < 12 * max(1.0, min(scaled))
    assert within[-1] < 0.02
    beyond = spide_errors(net, x, y, 3000.0, longs)
    assert min(beyond) > 0.2


def test_s6_the_scale_is_undone() -> None:
    net, (x, y) = loop_net(0.5, 2), inputs(False)
    one, two = (taught(net, {"name": "spide", "scale": s, "steps": 2000}, x, y, 50)[1] for s in (5.0, 10.0))
    assert max(relative(one[name], two[name]) for name in one) < 0.03


@settings(max_examples=50, deadline=None)
@given(c=st.floats(-1, 1), steps=st.integers(1, 200))
def test_s2_a_couple_tells_its_input_to_half_a_step_and_is_odd(c: float, steps: int) -> None:
    found = []
    for sign in (1, -1):
        memory = Memory(*(torch.zeros(1, dtype=torch.float64) for _ in range(3)))
        current = torch.full((1,), sign * c, dtype=torch.float64)
        for _ in range(steps):
            plain_couple(current, memory, Law(1.0, 0.5, 1.0), torch.ones(1, dtype=torch.float64), 1.0)
        found.append(float(memory.total) / steps)
    assert abs(found[0] - c) <= 0.5 / steps + 1e-12
    assert found[0] == -found[1]


def test_s3_a_couple_is_two_binary_neurons_with_mirrored_input() -> None:
    currents = torch.randn(300, 50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    memory = Memory(*(torch.zeros(50, dtype=torch.float64) for _ in range(3)))
    plus, minus = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    for current in currents:
        r = plain_couple(current, memory, Law(1.0, 0.5, 1.0), torch.ones(50, dtype=torch.float64), 1.0)
        plus, minus = plus + current, minus - current
        q = (plus >= 0.5).double() - (minus >= 0.5).double()
        plus, minus = plus - q, minus + q
        assert torch.equal(r, q)


def test_s8_without_feedback_stage_two_is_back_propagation_through_clamps() -> None:
    torch.manual_seed(4)
    make = lambda: nn.Sequential(nn.Linear(INPUTS, N), IF(), nn.Linear(N, N), IF(), nn.Linear(N, CLASSES))  # noqa: E731
    net, (x, y) = Network(make()).double(), inputs(False)
    exact = taught(net, "dsr", x, y, 400)[1]
    found = taught(net, {"name": "spide", "scale": 10.0, "steps": 4000}, x, y, 400)[1]
    cosine = [nn.functional.cosine_similarity(found[n].flatten(), exact[n].flatten(), dim=0) for n in exact]
    assert min(cosine) > 0.99


def test_s12_masked_neurons_learn_nothing() -> None:
    net, (x, y) = loop_net(0.5, 1), inputs(False)
    with torch.no_grad():
        net.get_parameter("0.entry.bias")[0] = -50.0  # silent
        net.get_parameter("0.entry.bias")[1] = 50.0  # fires at every step
    grads = taught(net, {"name": "spide", "scale": 10.0}, x, y, 30)[1]
    assert grads["0.entry.weight"][:2].abs().max() == 0
    assert grads["0.back.weight"][:2].abs().max() == 0
    assert grads["0.entry.weight"][2:].abs().max() > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("recurrent", [False, True])
def test_ottt_shares_a_descent_direction_with_the_gradient_of_rates(recurrent: bool, seed: int) -> None:
    """Inner product above 0 for every weight that spikes reach, on input that stands still."""
    torch.manual_seed(seed)
    if recurrent:
        net = loop_net(0.5, 1, seed=seed, neuron=lambda: LIF(decay=0.99, threshold=2.0))
    else:
        body = nn.Sequential(
            nn.Linear(INPUTS, N), LIF(decay=0.99), nn.Linear(N, N), LIF(decay=0.99), nn.Linear(N, CLASSES)
        )
        net = Network(body).double()
    x, y = 2 * data(seed)[0], data(seed)[1]
    ours = taught(net, "ide" if recurrent else "dsr", x, y, 200, 0.99)[1]
    objective, sink = PerStep(CrossEntropy()), GradSink(net)
    rule = rules.build({"name": "online", "temporal": {"name": "ottt", "fidelity": "exact"}})
    rule.bind(net, objective, Static(x, 200), KeyedDraws(0))
    net.zero_grad(set_to_none=True)
    run_sequence(net, rule, objective, Static(x, 200), y, sink, draws=KeyedDraws(0))
    sink.flush()
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad is not None
            assert (parameter.grad * ours[name]).sum() > 0, name


def test_a_strong_feedback_and_an_unsolved_gradient_are_told_with_layer_number_and_remedy() -> None:
    net, (x, y) = loop_net(3.0, 1), inputs(False)
    rule = taught(net, {"name": "ide", "solver": {"name": "fixed-point", "steps": 3}}, x, y, 20)[0]
    unsolved, strong = rule.warnings()
    assert "feedback 0.back is not exact: after 3 steps" in unsolved
    assert "--rule.solver gmres" in unsolved
    assert "the feedback 0.back has norm 6.0" in strong
    assert "--model.restriction spectral" in strong


def test_saturated_and_silent_couples_are_told_with_the_scale_to_choose() -> None:
    net, (x, y) = loop_net(0.5, 1), inputs(False)
    (loud,) = taught(net, {"name": "spide", "scale": 1e4}, x, y, 20)[0].warnings()
    assert "of the backward couples of 0.body.0 are saturated" in loud
    assert "lower --rule.scale, now 10000" in loud
    (quiet,) = taught(net, {"name": "spide", "scale": 1e-4}, x, y, 20)[0].warnings()
    assert "are silent (100.0% never fire)" in quiet
    assert "raise --rule.scale" in quiet


@pytest.mark.parametrize(
    ("layers", "objective", "kind", "words"),
    [
        ([nn.Linear(3, 2), IF()], PerStep(CrossEntropy()), ObjectiveMismatch, "largest|looks at every step|weighted"),
        (
            [nn.Linear(3, 2), LIF(decay=0.9)],
            Readout(CrossEntropy(), Weighted(0.5)),
            ObjectiveMismatch,
            "--objective.decay 0.9",
        ),
        (
            [nn.Linear(3, 2), LIF(reset=HardReset())],
            Readout(CrossEntropy(), Weighted(0.5)),
            TopologyMismatch,
            "fixed charge",
        ),
        (
            [nn.Linear(3, 2), IF(), nn.Linear(2, 2), LIF()],
            Readout(CrossEntropy(), Weighted(1.0)),
            TopologyMismatch,
            "one leak",
        ),
    ],
)
@pytest.mark.parametrize("rule", ["dsr", "ide", "spide"])
def test_what_has_no_rates_is_refused_in_words(
    rule: str, layers: list, objective: Any, kind: type[Exception], words: str
) -> None:
    net = Network(nn.Sequential(*layers))
    with pytest.raises(kind, match=words):
        rules.build(rule).bind(net, objective, Static(torch.zeros(1, 3), 4), KeyedDraws(0))


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
