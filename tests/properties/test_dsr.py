"""Properties D1 to D11 of DSR (docs of the methods, 1.9), against neurons and clamps in plain loops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from onward.core import CrossEntropy, Frames, Network, Static
from onward.core.objective import Readout, Weighted
from onward.neurons import Affine, Graded, GradedIF, GradedLIF, SoftReset
from onward.testing.harness import Taught, bound, relative, teach
from properties.equilibrium_lab import cosine, rates

ALPHAS = (0.3, 0.5, 0.7, 1.0)


@dataclass
class Fired:
    """Outputs ``[T, ...]`` and the last potential."""

    out: Tensor
    v: Tensor


def fire(x: Tensor, v_th: float, alpha: float, tau: float | None = None, dt: float = 1.0) -> Fired:
    """Section 1.1, one step after the other."""
    beta = 1.0 if tau is None else math.exp(-dt / tau)
    v, out = torch.zeros_like(x[0]), []
    for current in x:
        u = beta * v + (current if tau is None else (1 - beta) * current)
        z = (u >= alpha * v_th).to(u)
        v = u - v_th * z
        out.append((v_th if tau is None else v_th / dt) * z)
    return Fired(torch.stack(out), v)


def scanned(neuron: Graded, x: Tensor) -> Fired:
    firing = neuron.double().scan(x, neuron.start(x[0]))
    return Fired(firing.out, firing.state[0])


def drawn(seed: int, steps: int, scale: float) -> Tensor:
    """Time-varying input around a random mean, in places beyond both bounds."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(8, generator=generator, dtype=torch.float64) * 2 - 0.5
    return scale * (mean + torch.randn(steps, 8, generator=generator, dtype=torch.float64))


each_input = given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from(ALPHAS), st.floats(0.05, 8))


@each_input
def test_d1_if_identity(seed: int, steps: int, alpha: float, v_th: float) -> None:
    """D1: the mean output is the mean input less v_N / N, whatever the input; spikes are those of the loop."""
    x = drawn(seed, steps, v_th)
    found, expected = scanned(GradedIF(v_th, alpha), x), fire(x, float(torch.tensor(v_th)), alpha)
    assert torch.equal(found.out, expected.out)
    assert float((found.out.mean(0) - (x.mean(0) - found.v / steps)).abs().max()) < 1e-10


@each_input
def test_d2_lif_identity(seed: int, steps: int, alpha: float, v_th: float) -> None:
    """D2: weighted means: a = (1 - beta) / dt I - v_N / (dt sum w)."""
    tau, dt = 1.3, 0.1
    beta = math.exp(-dt / tau)
    x = drawn(seed, steps, v_th * tau / dt)
    found = scanned(GradedLIF(v_th, alpha, tau=tau, dt=dt), x)
    expected = fire(x, float(torch.tensor(v_th)), alpha, tau, dt)
    assert float((found.out - expected.out).abs().max()) < 1e-12 * v_th / dt
    weight = sum(beta**k for k in range(steps))
    mean = (1 - beta) / dt * rates(x, beta)[-1] - found.v / (dt * weight)
    assert float((rates(found.out, beta)[-1] - mean).abs().max()) < 1e-10 * v_th / dt


@pytest.mark.parametrize("alpha", ALPHAS)
def test_d3_the_error_of_a_constant_input_has_a_tight_bound(alpha: float) -> None:
    """D3: max(alpha, 1 - alpha) V / N, reached within 10 % at every N: the error falls as 1 / N."""
    grid = torch.linspace(0, 1, 4013, dtype=torch.float64) * 3.0  # every 1000th of it divided by 1003
    for steps in (1, 5, 20, 100, 1000):
        out = scanned(GradedIF(3.0, alpha), grid.expand(steps, -1)).out
        error, limit = float((out.mean(0) - grid).abs().max()), max(alpha, 1 - alpha) * 3.0 / steps
        assert 0.9 * limit < error <= limit + 1e-12


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_d4_beyond_the_bounds_the_output_is_exact(alpha: float, steps: int) -> None:
    """D4: exactly 0 for I < 0, exactly V for I >= V, at every N."""
    v_th = 0.75
    below = -torch.rand(100, dtype=torch.float64) - 1e-9
    above = v_th + torch.cat([torch.zeros(1, dtype=torch.float64), torch.rand(99, dtype=torch.float64)])
    x = torch.cat([below, above]).expand(steps, -1)
    out = scanned(GradedIF(v_th, alpha), x).out
    assert (out[:, :100] == 0).all()
    assert (out[:, 100:] == v_th).all()


@pytest.mark.parametrize(
    ("dt", "v_th", "steps", "expected"), [(0.05, 0.3, 20, 0.231), (0.05, 0.3, 400, 0.146), (0.005, 0.03, 2000, 0.0150)]
)
def test_d5_the_error_of_leaky_neurons_falls_with_the_step_alone(
    dt: float, v_th: float, steps: int, expected: float
) -> None:
    """D5: bound of 1.4; the error stays at fixed dt however long one waits, and falls with dt (full scale 6)."""
    beta = math.exp(-dt)
    grid = torch.linspace(0, v_th / (1 - beta), 4001, dtype=torch.float64)
    out = scanned(GradedLIF(v_th, 0.5, tau=1.0, dt=dt), grid.expand(steps, -1)).out
    error = float((rates(out, beta)[-1] - ((1 - beta) / dt * grid).clamp(0, v_th / dt)).abs().max())
    assert error <= 0.5 * v_th / (dt * sum(beta**k for k in range(steps))) + 1e-9
    assert error == pytest.approx(expected, rel=0.03)


NEURONS = {
    "if": (lambda **o: GradedIF(1.0, 0.5, **o), 1.0, None, 1.0),
    "lif": (lambda **o: GradedLIF(0.25, 0.5, tau=1.0, dt=0.125, **o), 0.25, 1.0, 0.125),
}
"""Neurons, with threshold, tau and dt."""


def leak_of(tau: float | None, dt: float) -> float:
    return 1.0 if tau is None else math.exp(-dt / tau)


def one_layer(name: str, scale: float = 1.0, **options: Any) -> tuple[Network, float]:
    """6 inputs, 7 graded neurons, which are the output; the layer's leak."""
    make, v_th, tau, dt = NEURONS[name]
    net = Network(nn.Sequential(nn.Linear(6, 7), make(**options))).double()
    top = v_th if tau is None else tau * v_th / dt
    net.get_parameter("0.weight").data.mul_(scale * 5 * top)
    net.get_parameter("0.bias").data.fill_(0.3 * top)
    return net, leak_of(tau, dt)


def frames(steps: int, batch: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(steps, batch, 6, dtype=torch.float64) * 0.5, torch.arange(batch) % 7


def error_at(mean: Tensor, y: Tensor) -> Tensor:
    """d cross-entropy / d mean output."""
    return (mean.softmax(1) - torch.eye(mean.shape[1], dtype=mean.dtype)[y]) / len(y)


def whole(net: Network, leak: float, rule: dict[str, Any], x: Tensor, y: Tensor) -> Taught:
    return teach(net, {"name": "dsr", **rule}, Frames(x), y, objective=Readout(CrossEntropy(), Weighted(leak)))


@pytest.mark.parametrize("name", NEURONS)
def test_d6_the_gradient_is_that_of_the_mapping(name: str) -> None:
    """D6: summed over time it is the finite difference of the clamp; it is the same at all steps; 0 outside."""
    net, leak = one_layer(name)
    _, v_th, tau, dt = NEURONS[name]
    steps, (x, y) = 9, frames(9)
    summed = whole(net, leak, {}, x, y).posts("0")
    spread = whole(net, leak, {"collapse": "weighted"}, x, y)
    drive = torch.nn.functional.linear(x, net.get_parameter("0.weight"), net.get_parameter("0.bias")).detach()
    mean = rates(drive, leak)[-1]
    slope, top = (1.0, v_th) if tau is None else (1 / tau, v_th / dt)
    eps = 1e-6
    difference = ((slope * (mean + eps)).clamp(0, top) - (slope * (mean - eps)).clamp(0, top)) / (2 * eps)
    assert 0.2 < float((difference == 0).double().mean()) < 0.9
    g = error_at(rates(fire(drive, v_th, 0.5, tau, dt).out, leak)[-1], y)
    expected = difference * g
    assert relative(summed.sum(0), expected) < 1e-8
    weights = torch.tensor([leak ** (steps - 1 - t) for t in range(steps)], dtype=torch.float64)
    gain = steps * float((weights**2).sum() / weights.sum() ** 2)
    for step in spread.posts("0"):
        assert relative(step, gain * expected / steps) < 1e-8
    assert (summed.sum(0)[difference == 0] == 0).all()


def test_d7_one_layer_is_autograd_of_the_clamp_with_the_measured_value() -> None:
    """D7: IF, constant input, loss on the mean output: to 1e-12."""
    net, _ = one_layer("if")
    x, y = frames(1)
    grads = teach(net, "dsr", Static(x[0], 15), y, objective=Readout(CrossEntropy(), Weighted(1.0))).grads
    weight, bias = (net.get_parameter(f"0.{k}").detach().clone().requires_grad_() for k in ("weight", "bias"))
    drive = x[0] @ weight.T + bias
    clamp = drive.clamp(0, 1)
    measured = fire(drive.detach().expand(15, -1, -1), 1.0, 0.5).out.mean(0)
    loss = torch.nn.functional.cross_entropy(measured + clamp - clamp.detach(), y)
    for name, expected in zip(("weight", "bias"), torch.autograd.grad(loss, [weight, bias]), strict=True):
        assert relative(grads[f"0.{name}"], expected) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_d8_two_layers_come_near_the_clamp_network(seed: int) -> None:
    """D8: cosine with its gradient above .95 at T = 5, .98 at T = 20, .9999 at T = 100, for both layers, alpha = .5.

    On samples none of whose drives lies within 0.02 of a bound: others may lie on the wrong side of it at T = 100.
    """
    torch.manual_seed(seed)
    net = Network(nn.Sequential(nn.Linear(20, 30), GradedIF(1.0), nn.Linear(30, 10), GradedIF(1.0))).double()
    for node, bias in zip(net.synapses, (0.3, 0.5), strict=True):
        node.module.get_parameter("bias").data.fill_(bias)
    p = {name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()}
    x = torch.rand(1000, 20, dtype=torch.float64) * 2 - 1
    drives = [x @ p["0.weight"].T + p["0.bias"]]
    drives.append(drives[0].clamp(0, 1) @ p["2.weight"].T + p["2.bias"])
    clear = torch.cat(drives, 1).detach()
    clear = ((clear.abs() > 0.02) & ((clear - 1).abs() > 0.02)).all(1)
    assert clear.sum() > 100
    x, out = x[clear], drives[1][clear].clamp(0, 1)
    y = (x @ torch.randn(20, 10, dtype=torch.float64)).argmax(1)
    names = ["0.weight", "2.weight"]
    expected = torch.autograd.grad(nn.functional.cross_entropy(out, y), [p[name] for name in names])
    for steps, least in ((5, 0.95), (20, 0.98), (100, 0.9999)):
        grads = teach(net, "dsr", Static(x, steps), y, objective=Readout(CrossEntropy(), Weighted(1.0))).grads
        found = {name: cosine(grads[name], g) for name, g in zip(names, expected, strict=True)}
        assert min(found.values()) > least, found


@pytest.mark.parametrize("name", NEURONS)
def test_d9_thresholds_learn_from_what_saturates(name: str) -> None:
    """D9: the sum of G over saturated elements, times 1 / dt and the scale; the default is dt^2; 0 if none is."""
    _, v_th, tau, dt = NEURONS[name]
    x, y = frames(9)
    nets = [one_layer(name, grad_scale=scale)[0] for scale in (1.0, 0.5, None)]
    leak = leak_of(tau, dt)
    for other in nets[1:]:
        other.load_state_dict(nets[0].state_dict())
    g = [whole(net, leak, {}, x, y).grads["1.threshold"] for net in nets]
    drive = torch.nn.functional.linear(x, nets[0].get_parameter("0.weight"), nets[0].get_parameter("0.bias")).detach()
    mean, top = rates(drive, leak)[-1], v_th if tau is None else tau * v_th / dt
    out = rates(fire(drive, v_th, 0.5, tau, dt).out, leak)[-1]
    expected = (error_at(out, y) * (mean > top)).sum() / dt
    assert (mean > top).any()
    assert relative(g[0], expected) < 1e-10
    assert relative(g[1], 0.5 * expected) < 1e-10
    assert relative(g[2], (1.0 if tau is None else dt**2) * expected) < 1e-10
    calm, _ = one_layer(name, scale=0.01)
    assert float(whole(calm, leak, {}, x, y).grads["1.threshold"].abs()) < 1e-12


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("v_th", [0.25, 0.3])
def test_d10_the_height_of_spikes_folds_into_the_next_weights(name: str, v_th: float) -> None:
    """D10: binary spikes and the next weights times V (or V / dt) leave all membranes as they were."""
    tau, dt = (None, 1.0) if name == "if" else (1.0, 0.125)
    beta, alpha = leak_of(tau, dt), 0.5

    def make(height: float | None) -> Graded | Affine:
        graded = GradedIF(v_th, alpha) if tau is None else GradedLIF(v_th, alpha, tau=tau, dt=dt)
        if height is None:
            return graded
        binary = Affine(beta, gain=graded.gain, threshold=v_th, height=height, reset=SoftReset())
        binary.level_share = alpha
        return binary

    def build(height: float | None) -> Network:
        torch.manual_seed(0)
        return Network(nn.Sequential(nn.Linear(6, 9), make(height), nn.Linear(9, 7), make(height))).double()

    published, folded = build(None), build(1.0)
    published.get_parameter("1.threshold").data.fill_(v_th)
    published.get_parameter("3.threshold").data.fill_(v_th)
    folded.get_parameter("2.weight").data.mul_(v_th / dt)
    x, y = torch.rand(30, 4, 6, dtype=torch.float64) * 6 / dt * v_th, torch.zeros(4, dtype=torch.int64)
    a, b = (whole(net, beta, {}, x, y).records for net in (published, folded))
    for node in published.neurons:
        traces = [torch.cat([r.firings[node.index].potential for r in records]) for records in (a, b)]
        spikes = [torch.cat([r.firings[node.index].out for r in records]) for records in (a, b)]
        assert relative(traces[0], traces[1]) < 1e-10
        assert relative(spikes[0], spikes[1] * v_th / dt) < 1e-10
        assert 0.02 < float(spikes[1].mean()) < 0.98


def nodes_below(outputs: Any) -> int:
    """How many autograd nodes hang below ``outputs``."""
    frontier = [out.grad_fn for out in ([outputs] if isinstance(outputs, Tensor) else outputs)]
    seen: set[Any] = set()
    while frontier:
        fn = frontier.pop()
        if fn is not None and fn not in seen:
            seen.add(fn)
            frontier += [below for below, _ in fn.next_functions]
    return len(seen)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of all graphs that gradients are taken through."""
    sizes: list[int] = []
    grad = torch.autograd.grad

    def watched(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(nodes_below(outputs))
        return grad(outputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", watched)
    return iter([sizes])


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", NEURONS)
def test_d11_the_graph_does_not_grow_with_time(name: str, norm: bool, graphs: Iterator[list[int]]) -> None:
    """D11: the number of autograd nodes is the same for T = 5 and T = 80, with normalisation over time too."""
    sizes, make, (_, _, tau, dt) = next(graphs), NEURONS[name][0], NEURONS[name]
    found = {}
    for steps in (5, 80):
        sizes.clear()
        norms = [nn.BatchNorm1d(10)] if norm else []
        net = Network(nn.Sequential(nn.Linear(6, 10), *norms, make(), nn.Linear(10, 7), make())).double()
        whole(net, leak_of(tau, dt), {}, *frames(steps))
        found[steps] = (len(sizes), sum(sizes))
    assert found[5] == found[80]
    assert found[5][0] == 1


def test_spread_is_what_the_gradient_of_a_leaky_layer_meets() -> None:
    """1.8: even spreading, as published, meets plain means of the input, weighted spreading the weighted ones."""
    net, leak = one_layer("lif")
    x, y = frames(9)
    even, weighted = (whole(net, leak, {"spread": spread}, x, y) for spread in ("even", "weighted"))
    delta = even.posts("0").sum(0)
    assert relative(even.grads["0.weight"], delta.T @ x.mean(0)) < 1e-12
    assert relative(weighted.grads["0.weight"], delta.T @ rates(x, leak)[-1]) < 1e-12
    assert bound("dsr", net, Frames(x), Readout(CrossEntropy(), Weighted(leak))).traits.memory == "O(1)"
