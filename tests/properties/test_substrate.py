"""Properties T-01 to T-07: surrogates, standardised weights, the membrane, the loss, the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onward.core import MSE, CrossEntropy, Frames, KeyedDraws, Mixed, PerStep, evaluate
from onward.models import models
from onward.neurons import LIF, neurons
from onward.surrogates import ATan, FastSigmoid, Gaussian, QuasiClamp, Rectangle, Sigmoid, Surrogate, Triangle
from onward.testing.harness import bound, relative, teach
from onward.testing.zoo import ZOO, data, make
from onward.weights import ACTIVATION_SCALE, standardize

SURROGATES: list[tuple[Surrogate, float, float]] = [
    (Sigmoid(4.0), 1.0, 1.0),
    (Triangle(1.0), 1.0, 1.0),
    (Rectangle(1.0), 1.0, 1.0),
    (Sigmoid(2.0), 0.5, 1.0),
    (Triangle(2.0), 2.0, 1.0),
    (Rectangle(0.5), 2.0, 1.0),
    (ATan(2.0), 1.0, 1.0),
    (ATan(3.0), 1.5, 1.0),
    (Gaussian(), 1.0, 1.0),
    (Gaussian(0.5), 1 / (0.5 * sqrt(2 * pi)), 1.0),
    (FastSigmoid(25.0), 1.0, 2 / 25),
    (QuasiClamp(1.0), 1.0, 2.0),
]


def integral(f: Callable[[Tensor], Tensor]) -> float:
    """Over the whole line, by the midpoint rule in x = tan(angle)."""
    n = 400_000
    angle = (torch.arange(n, dtype=torch.float64) + 0.5) * (pi / n) - pi / 2
    return float((f(angle.tan()) / angle.cos().square()).sum() * (pi / n))


def at(surrogate: Surrogate, x: float) -> float:
    return float(surrogate(torch.tensor(x, dtype=torch.float64)))


@pytest.mark.parametrize(("surrogate", "peak", "area"), SURROGATES, ids=lambda value: str(value))
def test_t01_surrogates_have_their_peak_and_area(surrogate: Surrogate, peak: float, area: float) -> None:
    """T-01: psi(0) = 1 and its integral is 1 for sigmoid(4), triangle(1), rectangle(1); the others as documented."""
    assert at(surrogate, 0.0) == pytest.approx(peak, rel=1e-12)
    assert integral(surrogate) == pytest.approx(area, rel=1e-4)


def test_t01_supports_are_exact() -> None:
    """T-01: triangle(k) lives on abs(x) <= 1/k, rectangle(w) on abs(x) <= w/2, the quasi-clamp on abs(x) <= a."""
    for surrogate, edge in ((Triangle(1.0), 1.0), (Triangle(4.0), 0.25), (Rectangle(1.0), 0.5), (QuasiClamp(2.0), 2.0)):
        for side in (-1, 1):
            assert at(surrogate, side * edge * (1 - 1e-9)) > 0
            assert at(surrogate, side * edge * (1 + 1e-9)) == 0


def test_t01_the_step_fires_at_zero_and_the_reset_subtracts_the_threshold() -> None:
    """T-01: H(0) = 1, and the reset leaves u - V."""
    drive = torch.tensor([0.999999, 1.0, 1.7], dtype=torch.float64).expand(1, 1, 3)
    for lif, fired in ((LIF(), [0.0, 1.0, 1.0]), (LIF(ties_fire=False), [0.0, 0.0, 1.0])):
        firing = lif.scan(drive, lif.start(drive[0]))
        assert firing.out.flatten().tolist() == fired
        assert torch.equal(firing.state[0], drive[0] - firing.out[0])


@pytest.mark.parametrize("module", [nn.Linear(9, 7), nn.Conv2d(4, 6, 3, groups=2), nn.Conv1d(3, 5, 4)], ids=str)
def test_t02_standardised_weights(module: nn.Module) -> None:
    """T-02: rows sum to 0; squared norm gamma^2 (F-1) var / (F var + 1e-4); invariance to w -> w + c."""
    module = module.double()
    raw = module.get_parameter("weight").detach().clone()
    standardize(module)
    gain = module.get_parameter("parametrizations.weight.0.gain")
    with torch.no_grad():
        gain.uniform_(0.5, 2.0)
    rows, raw_rows = module.weight.detach().flatten(1), raw.flatten(1)
    fan_in, var = raw_rows.shape[1], raw_rows.var(1)
    assert rows.sum(1).abs().max() < 1e-12
    norm = gain.detach().flatten() ** 2 * (fan_in - 1) * var / (fan_in * var + 1e-4)
    assert relative(rows.square().sum(1), norm) < 1e-10
    with torch.no_grad():
        module.get_parameter("parametrizations.weight.original").add_(3.7)
    assert relative(module.weight.detach().flatten(1), rows) < 1e-10


@pytest.mark.parametrize("detach", [True, False])
def test_t03_the_derivative_from_one_step_to_the_next(detach: bool) -> None:
    """T-03: du[t+1]/du[t] = lam (1 - V psi) with the reset in the graph, lam when it is detached."""
    lif = LIF(decay=0.7, threshold=1.3, detach_reset=detach)
    x = torch.rand(50, 1, 1, dtype=torch.float64) * 2
    for t in range(1, len(x)):
        u = lif.scan(x[:t], lif.start(x[0])).potential[-1]
        last = x[t - 1 : t].clone().requires_grad_()
        before = lif.scan(x[: t - 1], lif.start(x[0])).state if t > 1 else lif.start(x[0])
        _, (v,), _ = lif.unroll(last, before)
        (slope,) = torch.autograd.grad(0.7 * v.sum(), last)
        psi = 4 * torch.sigmoid(4 * (u - 1.3)) * torch.sigmoid(-4 * (u - 1.3))
        expected = torch.full_like(u, 0.7) if detach else 0.7 * (1 - 1.3 * psi)
        assert relative(slope[0], expected) < 1e-10


PARAMETERS = [
    ("vgg", (3, 32, 32), 10, 9_228_362),
    ("vgg", (3, 32, 32), 100, 9_274_532),
    ("vgg", (2, 48, 48), 10, 9_227_786),
    ("vgg", (2, 48, 48), 11, 9_228_299),
    ("vgg-f", (3, 32, 32), 10, 9_523_338),
    ({"name": "mlp", "bias": False}, (784,), 10, 784 * 800 + 800 * 800 + 800 * 10),
]


@pytest.mark.parametrize(("model", "features", "classes", "count"), PARAMETERS, ids=str)
def test_t04_parameter_counts(model: str | dict, features: tuple[int, ...], classes: int, count: int) -> None:
    """T-04: the parameter counts of section 8, biases and gains included."""
    net = models.build(model, features, classes, lambda: neurons.build("lif"))
    assert sum(p.numel() for p in net.parameters()) == count


def test_t04_the_activation_scale_restores_unit_variance() -> None:
    """T-04: 2.7371 = 1 / sqrt(p (1 - p)), p = 1 - Phi(1); 2.74 is its published rounding."""
    density = integral(lambda z: torch.exp(-z.square() / 2) * (z > 1)) / sqrt(2 * pi)
    exact = 1 / sqrt(density * (1 - density))
    assert exact == pytest.approx(2.7371, abs=5e-5)
    assert pytest.approx(exact, abs=5e-3) == ACTIVATION_SCALE


LOSSES = [
    CrossEntropy(),
    MSE(),
    MSE(1.0),
    Mixed(CrossEntropy(), MSE(), 0.05),
    Mixed(CrossEntropy(), MSE(1.0), 0.05),
]


def written_out(loss: object, o: Tensor, y: Tensor) -> Tensor:
    """The loss of one step from the library's own building blocks."""
    if isinstance(loss, Mixed):
        return (1 - loss.kappa) * written_out(loss.a, o, y) + loss.kappa * written_out(loss.b, o, y)
    if isinstance(loss, MSE):
        target = F.one_hot(y, o.shape[1]).to(o) if loss.constant is None else torch.full_like(o, loss.constant)
        return F.mse_loss(o, target)
    return F.cross_entropy(o, y)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_t05_closed_form_error(loss: CrossEntropy | MSE | Mixed) -> None:
    """T-05: e[t] in closed form equals autograd of the loss, for one-hot and constant targets."""
    o = (torch.randn(6, 5, 7, dtype=torch.float64) * 3).requires_grad_()
    y = torch.randint(7, (5,))
    total = torch.stack([written_out(loss, o_t, y) for o_t in o]).mean()
    (expected,) = torch.autograd.grad(total, o)
    objective = PerStep(loss)
    assert relative(objective.errors(o.detach(), y, 6, 5), expected) < 1e-10
    running = objective.step_losses(o.detach(), y, 6).sum(0)
    assert float(objective.total(o.detach().sum(0), running, y, 6)) == pytest.approx(total.item(), rel=1e-12)


def test_t06_below_rheobase_the_membrane_follows_its_closed_form() -> None:
    """T-06: constant x < V (1 - lam) never fires and u[t] = x (1 - lam^t) / (1 - lam)."""
    for lam in (0.3, 0.5, 0.9):
        lif, x = LIF(decay=lam), 0.999 * (1 - lam)
        drive = torch.full((200, 1, 1), x, dtype=torch.float64)
        firing = lif.scan(drive, lif.start(drive[0]))
        t = torch.arange(1, 201, dtype=torch.float64).view(-1, 1, 1)
        assert firing.out.sum() == 0
        assert relative(firing.potential, x * (1 - lam**t) / (1 - lam)) < 1e-10


def test_t06_a_drive_at_threshold_fires_every_step() -> None:
    """T-06: x = V fires at every step and leaves v = 0."""
    lif = LIF(decay=0.5)
    drive = torch.ones(20, 1, 1, dtype=torch.float64)
    firing = lif.scan(drive, lif.start(drive[0]))
    assert firing.out.sum() == 20
    assert lif.after_reset(firing).abs().max() == 0


LEARNS_OTHERWISE = ("dropout", "disturbed", "batchnorm")
"""Networks that do something else in training than in evaluation."""


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("delayed-layer", *LEARNS_OTHERWISE)])
def test_t07_every_mode_sees_the_same_forward_pass(name: str) -> None:
    """T-07: at equal chunk, spikes and outputs are bit-identical between BPTT, OTTT, SLTT, training and evaluation."""
    x, y = data(name)
    runs = [teach(make(name), rule, x, y, chunk=3) for rule in ("bptt", "ottt", "sltt")]
    watched: list[Tensor] = []
    evaluate(make(name), PerStep(CrossEntropy()), Frames(x), y, chunk=3, watch=lambda r: watched.append(r.out))
    assert all(torch.equal(run.outs, torch.cat(watched)) for run in runs)
    for records in zip(*(run.records for run in runs), strict=True):
        for index, firing in records[0].firings.items():
            assert all(torch.equal(firing.out, other.firings[index].out) for other in records[1:])
            assert all(torch.equal(firing.potential, other.firings[index].potential) for other in records[1:])


def test_t22_feedback_learned_like_the_readout_converges_to_it() -> None:
    """T-22: same SGD (no momentum) on W^N and B^{N-1}: ||W^N - B^T|| shrinks by exactly (1 - eta wd) a step."""
    for temporal in ("sltt", {"name": "ottt", "fidelity": "reference"}, {"name": "ottt", "fidelity": "exact"}):
        net = make("mlp")
        rule = bound({"name": "online", "temporal": temporal, "spatial": "dkp"}, net, data("mlp")[0])
        b = rule.get_parameter(f"spatial.b{net.hidden[-1].index}_output")
        w, eta, decay = net.get_parameter("4.weight"), 0.1, 0.3
        optimizer = torch.optim.SGD([w, b], lr=eta, weight_decay=decay)
        for n in range(5):
            distance = (w - b.T).norm().item()
            x, y = torch.rand(6, 4, 12, dtype=torch.float64) * 2, torch.randint(5, (4,))
            teach(net, rule, x, y, sequence=n, draws=KeyedDraws(n))
            assert w.grad is not None
            assert w.grad.norm() > 1e-3
            optimizer.step()
            assert (w - b.T).norm().item() == pytest.approx(distance * (1 - eta * decay), rel=1e-10)
