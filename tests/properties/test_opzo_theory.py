"""The statistics behind OPZO: means and variances of its estimators, and when its direction descends.

Exact where an average over all sign vectors is possible, else Monte Carlo at 2e5 samples with the stated tolerance.
docs/reference/opzo-theorems.md lists every statement with its test.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import Tensor

from onward.core import CrossEntropy, KeyedDraws, Network, PerStep, RecordedDraws, Static
from onward.core.draws import Gaussian, Key, Law, Rademacher, Sphere
from properties.spatial_lab import (
    REFERENCE,
    Bench,
    Identity,
    Linear,
    dense,
    distance,
    jacobians,
    still,
    weights,
)

SAMPLES = 200_000
LAWS: dict[str, Law] = {"rademacher": Rademacher(), "gaussian": Gaussian(), "sphere": Sphere()}
SPREAD = {"rademacher": -1.0, "gaussian": 1.0, "sphere": -1.0}
"""beta - 1 of each law: E|z z^T J^T - J^T|^2 = (n + SPREAD) |J|^2; the sphere of radius sqrt(n) is as Rademacher's."""


def drawn(law: str, n: int, key: int = 0, samples: int = SAMPLES) -> Tensor:
    """Independent noise vectors ``[samples, n]``."""
    like = torch.zeros((), dtype=torch.float64)
    ids = torch.arange(samples)
    return KeyedDraws(7).draw(LAWS[law], Key("noise", f"{key}", 0), torch.zeros(1, dtype=torch.int64), ids, (n,), like)[
        0
    ]


def spread_of(a: Tensor, mean: Tensor) -> float:
    """E|A - mean|^2, Frobenius, over the first dimension."""
    return float((a - mean).square().flatten(1).sum(1).mean())


def square(x: Tensor) -> float:
    return float(x.square().sum())


def equal_inputs(net: Network, batch: int, steps: int) -> Static:
    """One input for all samples: the only randomness left is the noise."""
    one = still(1, len(weights(net)[0][0]), 1).x
    return Static(one.expand(batch, -1), steps)


@dataclass
class Points:
    """What a linear network did under noise: ``z[l]`` ``[T, B, n_l]``, readouts ``[T, B, m]``, ``clean`` ``[m]``."""

    z: list[Tensor]
    out: Tensor
    clean: Tensor
    bench: Bench


def observe(net: Network, law: str, schedule: str, alpha: float, steps: int, batch: int = SAMPLES) -> Points:
    """Runs the engine once on equal inputs."""
    spatial = {"name": "opzo", "law": law, "schedule": schedule, "alpha": alpha}
    bench = Bench(net, equal_inputs(net, batch, steps), {**spatial, "inverse_alpha": True, "correct_start": True})
    taught = bench.learn()
    clean = net(bench.x.chunk(0, 1)[:, :1])[0, 0]
    return Points([taught.noise(node) for node in net.hidden], taught.out, clean, bench)


def outer(z: Tensor, o: Tensor) -> Tensor:
    return z[:, :, None] * o[:, None, :]


# Single updates


def test_over_all_sign_vectors_the_single_point_estimate_is_exact():
    """Averaged over all 2^n Rademacher vectors, M is J^T and E|A - J^T|^2 is n |o|^2 / alpha^2 + (n - 1) |J|^2, to
    rounding: no Monte Carlo is involved."""
    net, n, alpha = dense([3, 6, 4], Identity), 6, 0.3
    z = torch.tensor(list(product((-1.0, 1.0), repeat=n)), dtype=torch.float64)[None]
    spatial = {"name": "opzo", "schedule": "fresh", "alpha": alpha, "inverse_alpha": True, "correct_start": True}
    bench = Bench(net, equal_inputs(net, 2**n, 1), spatial, draws=RecordedDraws({("noise", "1"): z}))
    taught = bench.learn()
    j, o = jacobians(net)[0], net(bench.x.chunk(0, 1))[0, 0]
    assert torch.allclose(bench.m(0), j.T, atol=1e-13)
    found = spread_of(outer(z[0], taught.out[0]) / alpha, j.T)
    assert found == pytest.approx(n * square(o) / alpha**2 + (n - 1) * square(j), rel=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_t30_variance_of_a_single_point(law):
    """T-30: E|A - J^T|^2 = n |o|^2 / alpha^2 + (n - 1 + beta) |J|^2 (3 % at 2e5); M is the mean of the A's."""
    net, alpha = dense([3, 6, 4], Identity), 0.5
    points = observe(net, law, "fresh", alpha, 1)
    a = outer(points.z[0][0], points.out[0]) / alpha
    j = jacobians(net)[0]
    expected = 6 * square(points.clean) / alpha**2 + (6 + SPREAD[law]) * square(j)
    assert spread_of(a, j.T) == pytest.approx(expected, rel=0.03)
    assert torch.allclose(points.bench.m(0), a.mean(0), atol=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_t30_variance_of_an_antithetic_pair(law):
    """T-30: with a pair z (o+ - o-)^T / 2 alpha the baseline is gone: (n - 1 + beta) |J|^2 (3 % at 2e5)."""
    net, alpha = dense([3, 6, 4], Identity), 0.5
    points = observe(net, law, "pairs", alpha, 2)
    a = outer(points.z[0][0], points.out[0] - points.out[1]) / (2 * alpha)
    j = jacobians(net)[0]
    assert spread_of(a, j.T) == pytest.approx((6 + SPREAD[law]) * square(j), rel=0.03)


def test_t30_gaussian_noise_costs_two_jacobians_more_than_rademacher():
    """T-30: the gap between the laws is 2 |J|^2 for a pair (within 8 %), whatever n."""
    net, alpha = dense([3, 6, 4], Identity), 0.5
    j, found = jacobians(net)[0], {}
    for law in ("gaussian", "rademacher"):
        points = observe(net, law, "pairs", alpha, 2)
        found[law] = spread_of(outer(points.z[0][0], points.out[0] - points.out[1]) / (2 * alpha), j.T)
    assert (found["gaussian"] - found["rademacher"]) / square(j) == pytest.approx(2, rel=0.08)


@pytest.mark.parametrize("schedule", ["fresh", "pairs"])
def test_t30_noise_of_other_layers_adds_to_the_variance(schedule):
    """T-30: other noisy layers k add n_l sum_k |J_k|^2, single point and pair alike (3 % at 2e5)."""
    net, alpha = dense([3, 5, 6, 4], Identity), 0.5
    points = observe(net, "rademacher", schedule, alpha, 2)
    first, second = jacobians(net)
    single = schedule == "fresh"
    met = points.out[0] if single else (points.out[0] - points.out[1]) / 2
    for z, own, other in ((points.z[0], first, second), (points.z[1], second, first)):
        n = z.shape[-1]
        expected = (n - 1) * square(own) + n * square(other) + single * n * square(points.clean) / alpha**2
        assert spread_of(outer(z[0], met) / alpha, own.T) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("law", LAWS)
def test_t30_variance_of_single_point_zo(law):
    """T-30: on L = L0 + alpha g z, E|(L / alpha) z - g|^2 = n L0^2 / alpha^2 + (n - 1 + beta) |g|^2 (3 % at 2e5)."""
    net, alpha = dense([3, 6, 4], Identity), 0.5
    c = torch.randn(1, 4, dtype=torch.float64)
    spatial = {"name": "zo", "law": law, "schedule": "fresh", "alpha": alpha}
    bench = Bench(net, equal_inputs(net, SAMPLES, 1), spatial, objective=PerStep(Linear(c)))
    taught = bench.learn()
    z, losses = taught.noise(net.hidden[0])[0], taught.out[0] @ c[0]
    g, base = jacobians(net)[0].T @ c[0], float(net(bench.x.chunk(0, 1)[:, :1])[0, 0] @ c[0])
    a = losses[:, None] / alpha * z
    expected = 6 * base**2 / alpha**2 + (6 + SPREAD[law]) * square(g)
    assert spread_of(a, g) == pytest.approx(expected, rel=0.03)
    assert torch.allclose(taught.grads["0.bias"], a.mean(0), atol=1e-12), "the engine deposits the mean of A"


def test_t30_averaging_a_batch_divides_the_variance_by_its_size():
    """T-30: the mean of B = 16 samples has a sixteenth of the variance (3 % at 2e5)."""
    net, alpha = dense([3, 6, 4], Identity), 0.5
    points = observe(net, "rademacher", "pairs", alpha, 2)
    a = outer(points.z[0][0], points.out[0] - points.out[1]) / (2 * alpha)
    means = a.view(-1, 16, 6, 4).mean(1)
    j = jacobians(net)[0]
    assert spread_of(means, j.T) == pytest.approx(spread_of(a, j.T) / 16, rel=0.03)


# The running average


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("schedule", ["fresh", "pairs"])
def test_t30_stationary_variance_of_the_running_average(law, schedule):
    """T-30: the stationary EMA multiplies the variance of independent updates by (1 - rho) / (1 + rho); with +-z on
    consecutive updates it is [(n - 1 + beta) |J|^2 (1 - rho^2)^2 + n |o|^2 (1 - rho)^4 / alpha^2] / (1 - rho^4).

    8000 runs of 60 steps at rho 0.9; tolerance 5 %.
    """
    net, alpha, rho, n = dense([3, 6, 4], Identity), 0.5, 0.9, 6
    points = observe(net, law, schedule, alpha, 60, batch=8_000)
    j, o = jacobians(net)[0], points.clean
    m = torch.zeros(8_000, n, 4, dtype=torch.float64)
    for z, out in zip(points.z[0], points.out, strict=True):
        m = rho * m + (1 - rho) * outer(z, out) / alpha
    own, base = (n + SPREAD[law]) * square(j), n * square(o) / alpha**2
    expected = {
        "fresh": (own + base) * (1 - rho) / (1 + rho),
        "pairs": (own * (1 - rho**2) ** 2 + base * (1 - rho) ** 4) / (1 - rho**4),
    }
    assert spread_of(m, j.T * (1 - rho**60)) == pytest.approx(expected[schedule], rel=0.05)
    assert distance(m.mean(0), j.T) < 0.03


def test_t30_pairs_all_but_remove_the_baseline_from_the_running_average():
    """T-30: at rho 0.999 the baseline's share of the variance falls by (1 - rho)^2 and more against fresh noise."""
    rho, own, base = 0.999, 1.0, 100.0
    fresh = base * (1 - rho) / (1 + rho)
    pairs = base * (1 - rho) ** 4 / (1 - rho**4)
    assert pairs < fresh * (1 - rho) ** 2
    assert own * (1 - rho**2) ** 2 / (1 - rho**4) == pytest.approx(own * (1 - rho**2) / (1 + rho**2))


# Bias


def test_two_point_zo_is_unbiased_as_alpha_vanishes():
    """Lemma (two-point ZO): E[(L(o + alpha J z) - L(o)) z] / alpha -> g; exactly at every alpha for a quadratic, and
    with an error that falls as alpha^2 for cross-entropy. Averaged over all 64 sign vectors: no Monte Carlo."""
    z = torch.tensor(list(product((-1.0, 1.0), repeat=6)), dtype=torch.float64)
    j, o, y = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64), torch.tensor([2])
    loss = CrossEntropy()
    truth = j.T @ loss.gradient(o[None], y)[0]

    def error(alpha: float) -> float:
        lost = loss((o + alpha * z @ j.T)[:, None], y)[:, 0] - loss(o[None], y)
        return distance((lost[:, None] * z).mean(0) / alpha, truth)

    assert error(0.2) > 1e-4
    assert error(0.1) / error(0.2) == pytest.approx(1 / 4, rel=0.1)
    assert error(0.01) < 1e-3
    quadratic = ((o + 0.7 * z @ j.T).square() - o.square()).sum(1)
    assert torch.allclose((quadratic[:, None] * z).mean(0) / 0.7, 2 * j.T @ o, atol=1e-12)


def test_single_and_two_point_estimates_share_their_mean():
    """E[z] o^T = 0: over all sign vectors the single-point estimate of the Jacobian equals the two-point one."""
    z = torch.tensor(list(product((-1.0, 1.0), repeat=5)), dtype=torch.float64)
    j, o = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    noisy = torch.tanh(o + 0.4 * z @ j.T)
    single = outer(z, noisy).mean(0)
    double = outer(z, noisy - torch.tanh(o)).mean(0)
    assert torch.allclose(single, double, atol=1e-14)


# Proposition 4.1


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_proposition_variance_of_zo_grows_with_the_dimension(law):
    """Proposition 4.1, ZO: with gradients of entry-wise mean variance V_g and mean square S_g over the data, losses of
    V_L and S_L, one sample's variance per entry is (n + beta) V_g + (n + beta - 1) S_g + (V_L + S_L) / alpha^2.

    The specification quotes the first and last terms; the middle one is ours, derived. 3 % at 2e5.
    """
    n, alpha, beta = 8, 0.5, SPREAD[law] + 1
    torch.manual_seed(1)
    c, net = torch.randn(4, 4, dtype=torch.float64), dense([3, n, 4], Identity)
    y = torch.arange(SAMPLES) % 4
    spatial = {"name": "zo", "law": law, "schedule": "fresh", "alpha": alpha}
    bench = Bench(net, still(SAMPLES, 3, 1), spatial, objective=PerStep(Linear(c)))
    taught = bench.learn(y=y)
    a = (taught.out[0] * c[y]).sum(1)[:, None] / alpha * taught.noise(net.hidden[0])[0]
    g, losses = c[y] @ jacobians(net)[0], (net(bench.x.chunk(0, 1))[0] * c[y]).sum(1)
    v_g, s_g = float(g.var(0).mean()), float(g.mean(0).square().mean())
    v_l, s_l = float(losses.var()), float(losses.mean() ** 2)
    expected = (n + beta) * v_g + (n + beta - 1) * s_g + (v_l + s_l) / alpha**2
    assert float(a.var(0).mean()) == pytest.approx(expected, rel=0.03)
    assert float(a.var(0).mean()) > n * float(g.var(0).mean()), "at least n times back-propagation's"
    batches = a.view(-1, 16, n).mean(1)
    assert float(batches.var(0).mean()) == pytest.approx(expected / 16, rel=0.05)


def test_proposition_variance_of_pzo_grows_with_the_outputs_instead():
    """Proposition 4.1, PZO: with M = E[M] + entries of variance V_eps, independent of e, one sample's variance per
    entry is m V_eps (V_o + S_o) + V_{o,M}; a batch of B that shares M divides all but m V_eps S_o by B.

    V_o, S_o: mean variance and mean square of the entries of e; V_{o,M}: mean variance of E[M] e. 3 % at 2e5.
    """
    m, n, v_eps, batch = 5, 7, 0.04, 8
    torch.manual_seed(2)
    mean, spread = torch.randn(m, dtype=torch.float64), torch.randn(m, m, dtype=torch.float64)
    truth = torch.randn(n, m, dtype=torch.float64)
    noise = v_eps**0.5 * torch.randn(SAMPLES // batch, n, m, dtype=torch.float64)
    e = mean + torch.randn(SAMPLES // batch, batch, m, dtype=torch.float64) @ spread.T
    v_o, s_o = float(spread.square().sum(1).mean()), float(mean.square().mean())
    v_om = float((truth @ spread).square().sum(1).mean())
    single = torch.einsum("bnm,bm->bn", truth + noise, e[:, 0])
    assert float(single.var(0).mean()) == pytest.approx(m * v_eps * (v_o + s_o) + v_om, rel=0.03)
    shared = torch.einsum("bnm,bm->bn", truth + noise, e.mean(1))
    assert float(shared.var(0).mean()) == pytest.approx(m * v_eps * (v_o / batch + s_o) + v_om / batch, rel=0.03)


@dataclass
class Trained:
    """A small LIF network some epochs into training, and its task."""

    net: Network
    inputs: Tensor
    labels: Tensor

    def batch(self, k: int, size: int = 50) -> tuple[Static, Tensor, Tensor]:
        """Mini-batch number k, with its sample ids."""
        ids = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(k))[:size]
        return Static(self.inputs[ids], 6), self.labels[ids], ids


def trained() -> Trained:
    torch.manual_seed(0)
    centres = torch.randn(10, 32, dtype=torch.float64)
    labels = torch.arange(1000) % 10
    task = Trained(dense([32, 40, 40, 10]), centres[labels] + 0.8 * torch.randn(1000, 32, dtype=torch.float64), labels)
    x, y, _ = task.batch(0)
    bench = Bench(task.net, x, "bp", REFERENCE)
    adam = torch.optim.Adam(task.net.parameters(), lr=2e-3)
    for k in range(60):
        x, y, ids = task.batch(k)
        for name, grad in bench.learn(x, y, ids=ids).grads.items():
            task.net.get_parameter(name).grad = grad
        adam.step()
        adam.zero_grad()
    return task


def test_proposition_in_a_spiking_network_zo_is_orders_above_bp_and_opzo_level_with_it():
    """The paper's variance figure in small: a LIF net trained for 60 updates, weights frozen, M settled, 60 pairs of
    mini-batch and noise; per hidden layer sum_i Var[dW_i] of ZO exceeds BP's a hundredfold, OPZO's stays within
    a factor of 4 of it."""
    task = trained()
    opzo = {"name": "opzo", "alpha": 0.1, "rho": 0.998, "inverse_alpha": True, "correct_start": True, "warmup": 100}
    variances = {}
    for name, spatial in (("bp", "bp"), ("zo", {"name": "zo", "alpha": 0.1}), ("opzo", opzo)):
        bench = Bench(task.net, task.batch(0)[0], spatial, REFERENCE)
        for k in range(100 if name == "opzo" else 0):
            x, y, ids = task.batch(1000 + k)
            bench.learn(x, y, ids=ids)
        found = [bench.learn(x, y, ids=ids).grads for x, y, ids in map(task.batch, range(60))]
        for layer in ("0.weight", "2.weight"):
            variances[name, layer] = float(torch.stack([grads[layer] for grads in found]).var(0).mean())
    for layer in ("0.weight", "2.weight"):
        assert variances["zo", layer] > 100 * variances["bp", layer]
        assert 0.25 < variances["opzo", layer] / variances["bp", layer] < 4


# Descent


def test_t31_what_averaging_the_jacobian_leaves_out_is_a_covariance():
    """T-31: E[J^T e] - E[J]^T E[e] = 1/2 E_{x,x'}[(J(x) - J(x'))^T (e(x) - e(x'))], on random (J_i, e_i)."""
    j, e = torch.randn(40, 4, 6, dtype=torch.float64), torch.randn(40, 4, dtype=torch.float64)
    left = torch.einsum("bmn,bm->n", j, e) / 40 - j.mean(0).T @ e.mean(0)
    dj, de = j[:, None] - j[None], e[:, None] - e[None]
    right = torch.einsum("abmn,abm->n", dj, de) / (2 * 40**2)
    assert torch.allclose(left, right, atol=1e-13)


@dataclass
class Instance:
    """J(x) = J0 + sum_k x_k A_k and e(x) = e0 + C x on 50 points, and an estimate of E[J]^T that is off by eps."""

    truth: Tensor
    direction: Tensor
    bound: float


def instance(seed: int, curvature: float) -> Instance:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, a, c = normal(50, 3), curvature * normal(3, 4, 6), curvature * normal(4, 3)
    j, e = normal(4, 6) + torch.einsum("bk,kmn->bmn", x, a), normal(4) + x @ c.T
    estimate = j.mean(0).T + 0.05 * normal(6, 4)
    truth = torch.einsum("bmn,bm->n", j, e) / 50
    lipschitz_j = float(torch.linalg.matrix_norm(a.flatten(1), 2))
    lipschitz_e = float(torch.linalg.matrix_norm(c, 2))
    between = float((x[:, None] - x[None]).square().sum(-1).mean())
    error = float(((j.mean(0).T - estimate) @ e.mean(0)).norm())
    return Instance(truth, estimate @ e.mean(0), lipschitz_j * lipschitz_e * between / 2 + error)


def test_descent_condition_is_sufficient_and_needed():
    """Descent condition: if |E[J^T e]| > 1/2 L_J L_e E|x - x'|^2 + e_eps, the mean PZO direction E[M] E[e] has a
    positive product with the true gradient. Over 600 random instances of three curvatures: never violated, often
    met, and directions that ascend exist among those that do not meet it."""
    met, descends = [], []
    for curvature in (0.05, 0.3, 1.5):
        for seed in range(200):
            case = instance(seed, curvature)
            met.append(float(case.truth.norm()) > case.bound)
            descends.append(float(case.truth @ case.direction) > 0)
            assert float((case.truth - case.direction).norm()) <= case.bound + 1e-12
    assert sum(met) > 100
    assert all(good for good, condition in zip(descends, met, strict=True) if condition)
    assert not all(good for good, condition in zip(descends, met, strict=True) if not condition)
