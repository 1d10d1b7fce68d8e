"""OPZO: what M estimates, of which shape it is, and where it lives.

Numbers T-.. are those of the project's specification of online training. Monte-Carlo tests are seeded and
state their tolerance; the rest holds to float64 rounding.
"""

from __future__ import annotations

from math import comb, exp, pi, sqrt

import pytest
import torch
from torch import Tensor, nn

from onward.core import KeyedDraws, Network, RecordedDraws, Residual, Static, evaluate
from onward.core.draws import Gaussian, Law, Rademacher, Sphere
from onward.core.errors import TopologyMismatch
from onward.core.interpret import Record
from onward.core.signal import dense as whole
from onward.credit.opzo import DENSE_UNITS
from onward.credit.perturbation import After, Codes, Pairs, Perturbation, sign_code
from onward.neurons import LI, LIF
from properties.spatial_lab import (
    SETTLED,
    Bench,
    Identity,
    conv_bench,
    dense,
    distance,
    jacobians,
    opzo,
    settled,
    still,
)

LAWS = ["rademacher", "gaussian", "sphere"]

# What M estimates


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("schedule", ["fresh", "pairs", "two-pass"])
def test_t28_m_is_the_transposed_jacobian_of_a_linear_network(law, schedule):
    """T-28: linear net, frozen weights, c = 1/alpha: the mean of z o^T / alpha is J^T, in every layer at once.

    1.2e5 draws; the standard error is below 2 % of |J|, the tolerance 5 %.
    """
    net = dense([5, 6, 4, 3], Identity, gain=1.0)
    bench = Bench(net, still(30_000, 5, 4, scale=0.3), settled(law=law, schedule=schedule))
    bench.learn()
    for layer, jacobian in enumerate(jacobians(net)):
        assert distance(bench.m(layer), jacobian.T) < 0.05


@pytest.mark.parametrize("position", ["before", "firing"])
def test_t28_noise_before_a_linear_neuron_is_noise_after_it(position):
    """T-28 at the other positions: an identity neuron passes alpha z on, so *before* gives J^T; *firing* refuses."""
    net = dense([5, 6, 4, 3], Identity, gain=1.0)
    x = still(30_000, 5, 4, scale=0.3)
    if position == "firing":
        with pytest.raises(TopologyMismatch, match="needs a neuron with a soft reset"):
            Bench(net, x, settled(position=position))
        return
    after, before = Bench(net, x, settled()), Bench(net, x, settled(position=position))
    after.learn()
    before.learn()
    assert torch.allclose(before.m(0), after.m(0), atol=1e-12)


def chain_scale(behind: int, decay: float, code: list[int], steps: int) -> float:
    """E[M] = scale * J^T behind leaky layers, when blocks of one z are signed by ``code``: echoes add up."""

    def read(t: int) -> float:
        start = t - t % len(code)
        lags = range(t - start + 1)
        echo = [comb(lag + behind - 1, lag) if behind else float(lag == 0) for lag in lags]
        signs = [code[t % len(code)] * code[(t - lag) % len(code)] for lag in lags]
        return sum(e * decay**lag * s for e, lag, s in zip(echo, lags, signs, strict=True))

    return sum(read(t) for t in range(steps)) / steps


LEAKY_CODES: dict[str, list[int]] = {
    "fresh": [1],
    "two-pass": [1],
    "pairs": [1, -1],
    "codes": list(sign_code(4, 0.5)),
    "hold": [1] * 8,
}


@pytest.mark.parametrize("schedule", LEAKY_CODES)
def test_t28b_pairs_are_biased_behind_leaky_layers_and_fresh_noise_is_not(schedule):
    """T-28b: leaky chain, d layers downstream: fresh and two-pass noise give J^T, pairs (1 - d lambda / 2) J^T.

    Codes and held noise follow from their autocorrelation. 3.2e5 draws, lambda 0.5; tolerance 0.04 on the scale.
    """
    torch.manual_seed(3)
    layers = [nn.Linear(4, 6), LI(decay=0.5), nn.Linear(6, 5), LI(decay=0.5), nn.Linear(5, 4), LI(decay=0.5)]
    net = Network(nn.Sequential(*layers, nn.Linear(4, 3))).double()
    bench = Bench(net, still(40_000, 4, 8, scale=0.2), settled(schedule=schedule))
    bench.learn()
    for layer, jacobian in enumerate(jacobians(net)):
        behind = 2 - layer
        scale = float((bench.m(layer) * jacobian.T).sum() / jacobian.square().sum())
        expected = chain_scale(behind, 0.5, LEAKY_CODES[schedule], 8)
        assert scale == pytest.approx(expected, abs=0.04)
        if schedule == "pairs":
            assert expected == pytest.approx(1 - behind * 0.25)
        if schedule in ("fresh", "two-pass"):
            assert expected == 1


def test_codes_cancel_the_baseline_and_most_of_the_echo():
    """Balanced codes disturb their own reading less than pairs: |bias| 0.03 against 0.25 behind one leaky layer."""
    assert sum(sign_code(4, 0.5)) == sum(sign_code(8, 0.9)) == 0
    bias = {name: abs(1 - chain_scale(1, 0.5, LEAKY_CODES[name], 8)) for name in ("pairs", "codes", "hold")}
    assert bias["codes"] < 0.04 < 0.24 < bias["pairs"] < bias["hold"]


@pytest.mark.parametrize("per", ["sequence", "step"])
@pytest.mark.parametrize("factor", [False, True])
def test_t29_m_grows_from_zero_as_one_minus_rho_to_the_k(per, factor):
    """T-29: zero init: E[M_k] = (1 - rho^k) J^T with c = 1/alpha, alpha times that with c = 1.

    rho 0.9, k = 4 and 8, 5e4 samples; tolerance 4 %.
    """
    net = dense([5, 4, 3], Identity, gain=1.0)
    options = {"name": "opzo", "alpha": 0.5, "rho": 0.9, "per": per, "inverse_alpha": factor}
    bench = Bench(net, still(50_000, 5, 4, scale=0.1), options)
    for k in (4, 8):
        bench.learn()
        expected = (1 - 0.9**k) * (1 if factor else 0.5) * jacobians(net)[0].T
        assert distance(bench.m(0), expected) < 0.04


def test_t29_correct_start_undoes_the_growth():
    """T-29: divided by 1 - rho^k, M estimates J^T from the first sequence on."""
    net = dense([5, 4, 3], Identity, gain=1.0)
    bench = Bench(net, still(50_000, 5, 4, scale=0.1), settled(rho=0.9))
    for _ in range(2):
        bench.learn()
        assert distance(bench.m(0), jacobians(net)[0].T) < 0.04


class UnitSphere(Law):
    """Uniform on the sphere of radius 1: E[z z^T] = I / n, which is what T-29 warns of."""

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        return Sphere().sample(keys, n, dtype) / n**0.5


def test_t29_a_unit_sphere_estimates_a_jacobian_n_times_too_small():
    """T-29, negative control: noise on the unit sphere converges to J^T / n."""
    net = dense([5, 4, 3], Identity, gain=1.0)
    noise = Perturbation(UnitSphere(), After(), Pairs(), 0.5)
    bench = Bench(net, still(50_000, 5, 4, scale=0.1), opzo(noise, SETTLED))
    bench.learn()
    assert distance(bench.m(0), jacobians(net)[0].T / 4) < 0.04


def test_t33_noise_before_a_neuron_is_a_surrogate():
    """T-33: E[z s] / alpha is the density N(V - u; 0, alpha^2) for Gaussian noise on the membrane, and
    1 / (2 alpha) inside -alpha < u - V < alpha (0 outside) for Rademacher noise.

    2e5 samples a potential; five standard errors are 0.03.
    """
    alpha = 0.4
    for u in (0.3, 0.7, 0.95, 1.2, 1.5):
        gauss, coin = (_mean_of_z_s(u, alpha, law) for law in ("gaussian", "rademacher"))
        assert gauss == pytest.approx(exp(-(((1 - u) / alpha) ** 2) / 2) / (alpha * sqrt(2 * pi)), abs=0.03)
        assert coin == pytest.approx(1 / (2 * alpha) if abs(u - 1) < alpha else 0.0, abs=0.03)


def _mean_of_z_s(u: float, alpha: float, law: str) -> float:
    net = Network(nn.Sequential(nn.Linear(1, 1, bias=False), LIF(), nn.Linear(1, 1, bias=False))).double()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1.0)
    x = Static(torch.full((1, 1), u, dtype=torch.float64).expand(200_000, 1), 1)
    bench = Bench(net, x, settled(alpha=alpha, law=law, position="before", schedule="fresh"))
    bench.learn()
    return float(bench.m(0))


# Noise


@pytest.mark.parametrize("law", LAWS)
def test_every_law_has_unit_covariance(law):
    """E[z] = 0 and E[z z^T] = I for 2e5 draws of 7 numbers (tolerance 0.02); each law keeps its own support."""
    net = dense([3, 7, 2], Identity)
    noise = {"name": "opzo", "law": law, "schedule": "fresh"}
    z = Bench(net, still(200_000, 3, 1), noise).learn().noise(net.hidden[0])[0]
    assert float(z.mean(0).abs().max()) < 0.02
    assert float((z.T @ z / len(z) - torch.eye(7)).abs().max()) < 0.02
    supports = {
        "rademacher": bool((z.abs() == 1).all()),
        "gaussian": float(z.abs().max()) > 4,
        "sphere": torch.allclose(z.norm(dim=1), torch.tensor(7.0**0.5, dtype=torch.float64)),
    }
    assert supports[law]


def test_t32_a_pair_from_the_same_state_tells_nothing_of_a_layer_the_readout_ignores():
    """T-32: if o does not depend on layer l and no other noise reaches it, a two-pass pair's increment of M^l is
    exactly 0; a single point's is not."""
    net = dense([5, 6, 4, 3])
    with torch.no_grad():
        net.get_parameter("4.weight").zero_()
    for schedule, silent in (("two-pass", True), ("fresh", False)):
        bench = Bench(net, still(8, 5, 4), {"name": "opzo", "schedule": schedule})
        bench.learn()
        for layer in (0, 1):
            assert (not bench.m(layer).any()) is silent


def test_t32_noise_of_other_layers_spoils_the_cancellation():
    """T-32 holds only if no other layer's noise reaches the readout: here layer 0's does, past a deaf branch."""
    torch.manual_seed(0)
    branch = nn.Sequential(nn.Linear(6, 6), LIF(), nn.Linear(6, 6), LIF())
    net = Network(nn.Sequential(nn.Linear(5, 6), LIF(), Residual(branch), nn.Linear(6, 3))).double()
    with torch.no_grad():
        net.get_parameter("2.body.2.weight").zero_()
    bench = Bench(net, still(8, 5, 4), {"name": "opzo", "schedule": "two-pass"})
    bench.learn()
    assert bench.m(1).any()


def test_t32_noise_is_antithetic_in_pairs_and_fresh_for_every_pair_sample_and_layer():
    """T-32: z[2k+1] = -z[2k] bitwise; no two pairs, samples or layers share a z; nor do two sequences."""
    net = dense([5, 64, 64, 3])
    bench = Bench(net, still(3, 5, 6), "opzo")
    first, second = bench.learn(), bench.learn()
    z, other_layer, other_sequence = (
        first.noise(net.hidden[0]),
        first.noise(net.hidden[1]),
        second.noise(net.hidden[0]),
    )
    assert torch.equal(z[1::2], -z[0::2])
    distinct = [*z[0::2].flatten(0, 1), *other_layer[0::2].flatten(0, 1), *other_sequence[0::2].flatten(0, 1)]
    assert len({tuple(row.tolist()) for row in distinct}) == 3 * 3 * 3
    assert len({tuple(row.abs().tolist()) for row in distinct}) == 1, "Rademacher noise is +1 or -1"


@pytest.mark.parametrize(
    ("schedule", "signs", "blocks"),
    [
        ("fresh", [1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]),
        ("two-pass", [1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]),
        ("pairs", [1, -1, 1, -1, 1, -1], [0, 0, 1, 1, 2, 2]),
        ("codes", [1, 1, -1, -1, 1, 1], [0, 0, 0, 0, 1, 1]),
        ("hold", [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]),
    ],
)
def test_schedules_say_which_z_and_which_sign(schedule, signs, blocks):
    """z[t] = sign[t] * z'[block[t]], whatever the chunk."""
    net = dense([5, 32, 3])
    recorded = torch.randn(6, 2, 32, dtype=torch.float64)
    for chunk in (1, 4, 6):
        draws = RecordedDraws({("noise", "1"): recorded})
        bench = Bench(net, still(2, 5, 6), {"name": "opzo", "schedule": schedule}, draws=draws, chunk=chunk)
        z = bench.learn().noise(net.hidden[0])
        expected = torch.stack([sign * recorded[block] for sign, block in zip(signs, blocks, strict=True)])
        assert torch.equal(z, expected)


def test_codes_of_other_lengths_stay_balanced():
    """Every even length from 2 to 12 has a balanced code that starts with +1; length 2 is the antithetic pair."""
    assert sign_code(2, 0.5) == (1, -1)
    for length in range(2, 13, 2):
        code = sign_code(length, 0.5)
        assert (len(code), sum(code), code[0]) == (length, 0, 1)
    blocks, signs = Codes(6).plan(torch.arange(8), 0.5)
    assert blocks.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert signs.tolist() == [*sign_code(6, 0.5), *sign_code(6, 0.5)[:2]]


@pytest.mark.parametrize("law", [Rademacher(), Gaussian(), Sphere()])
def test_noise_does_not_depend_on_how_a_batch_is_split(law):
    """Noise is keyed by sample id: a part of the batch, in any order, sees the numbers it would see in the whole."""
    names = {Rademacher: "rademacher", Gaussian: "gaussian", Sphere: "sphere"}
    net = dense([5, 6, 3])
    x = still(6, 5, 4)
    ids = torch.tensor([4, 1, 3])
    whole = Bench(net, x, {"name": "opzo", "law": names[type(law)]}).learn().noise(net.hidden[0])
    part = Bench(net, Static(x.x[ids], 4), {"name": "opzo", "law": names[type(law)]}).learn(ids=ids)
    assert torch.equal(part.noise(net.hidden[0]), whole[:, ids])
    other = Bench(net, x, {"name": "opzo", "law": names[type(law)]}, draws=KeyedDraws(1)).learn()
    assert not torch.equal(other.noise(net.hidden[0]), whole)


# Shapes of M


def test_t36_noise_at_one_place_raises_one_row_of_m():
    """T-36: M of a spike map is flattened as C, H, W: noise at (c, h, w) alone moves row (c H + h) W + w alone."""
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), LIF(), nn.Flatten(), nn.Linear(60, 4))).double()
    x = Static(torch.randn(2, 2, 4, 5, dtype=torch.float64), 2)
    for c, h, w in ((0, 0, 0), (1, 2, 3), (2, 3, 4)):
        z = torch.zeros(2, 2, 3, 4, 5, dtype=torch.float64)
        z[:, :, c, h, w] = 1.0
        bench = Bench(net, x, {"name": "opzo", "schedule": "fresh"}, draws=RecordedDraws({("noise", "1"): z}))
        bench.learn()
        assert bench.m(0).shape == (60, 4)
        assert bench.m(0).any(1).nonzero().flatten().tolist() == [(c * 4 + h) * 5 + w]


def test_t36_a_row_of_m_teaches_one_place():
    """T-36: with one row (c, h, w) of M set, only channel c learns, from the patch of the input around (h, w)."""
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), Identity(), nn.Flatten(), nn.Linear(60, 4))).double()
    x = Static(torch.randn(1, 2, 4, 5, dtype=torch.float64), 1)
    bench = Bench(net, x, {"name": "opzo", "alpha": 0.0, "rho": 1.0})
    m = torch.zeros(60, 4, dtype=torch.float64)
    m[(1 * 4 + 2) * 5 + 3] = torch.tensor([1.0, -2.0, 0.5, 3.0])
    bench.force(0, m)
    taught = bench.learn()
    g = float(bench.objective.errors(taught.out, torch.zeros(1, dtype=torch.int64), 1, 1)[0, 0] @ m[33])
    expected = torch.zeros_like(taught.grads["0.weight"])
    expected[1] = g * x.x[0, :, 1:4, 2:5]
    assert torch.allclose(taught.grads["0.weight"], expected, atol=1e-14)
    assert torch.allclose(taught.grads["0.bias"], torch.tensor([0.0, g, 0.0], dtype=torch.float64), atol=1e-14)


def test_channel_sharing_is_the_mean_of_the_dense_matrix_over_positions():
    """M ``[C, m]`` is the dense M averaged over positions, and every position receives its channel's credit."""
    dense_m, shared = (conv_bench({"name": "opzo", "sharing": name}) for name in ("dense", "channel"))
    dense_m.learn()
    shared.learn()
    assert dense_m.m(0).shape == (60, 4)
    assert torch.allclose(shared.m(0), dense_m.m(0).view(3, 20, 4).mean(1), atol=1e-15)
    spread = shared.m(0)[:, None].expand(3, 20, 4).reshape(60, 4)
    dense_m.force(0, spread)
    assert torch.allclose(dense_m.learn().grads["0.weight"], shared.learn().grads["0.weight"], atol=1e-14)


def test_auto_shares_only_above_a_million_neurons():
    """`auto` keeps M dense up to a million neurons a layer; fully connected layers are never shared."""
    torch.manual_seed(0)
    side = 501
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for channels, rows in ((3, 3 * side * side), (4, 4)):
        body = [nn.Conv2d(1, channels, 1), LIF(), *tail, nn.Linear(channels, 2)]
        bench = Bench(Network(nn.Sequential(*body)), Static(torch.zeros(1, 1, side, side), 2), "opzo")
        assert (channels * side * side > DENSE_UNITS) is (rows == 4)
        assert bench.m(0).shape == (rows, 2)
    assert Bench(dense([5, 6, 3]), still(2, 5, 2), {"name": "opzo", "sharing": "channel"}).m(0).shape == (6, 3)


# Where M lives


def test_t34_m_is_a_buffer_that_only_training_moves():
    """T-34: M survives the reset between sequences, evaluation and optimiser steps (weight decay included); it
    takes no autograd and is no parameter; a checkpoint restores it and the run goes on bit for bit."""
    bench = conv_bench({"name": "opzo", "correct_start": True, "baseline": "mean"})
    bench.learn()
    m = bench.m(0)
    assert m.any()
    held = dict(bench.rule.named_buffers())
    assert not any(buffer.requires_grad for buffer in held.values())
    assert not list(bench.rule.parameters())
    evaluate(bench.net, bench.objective, bench.x, torch.zeros(6, dtype=torch.int64))
    sgd = torch.optim.SGD([*bench.net.parameters(), *bench.rule.parameters()], lr=1.0, weight_decay=0.5)
    for p in bench.net.parameters():
        p.grad = torch.ones_like(p)
    sgd.step()
    sgd.zero_grad()
    assert torch.equal(bench.m(0), m)

    saved = {name: value.clone() for name, value in bench.rule.state_dict().items()}
    other = conv_bench({"name": "opzo", "correct_start": True, "baseline": "mean"})
    other.net.load_state_dict(bench.net.state_dict())
    other.rule.load_state_dict(saved)
    other.sequences = bench.sequences
    assert torch.equal(other.m(0), m)
    a, b = bench.learn(), other.learn()
    assert torch.equal(a.grads["0.weight"], b.grads["0.weight"])
    assert torch.equal(bench.m(0), other.m(0))


def test_binding_again_starts_m_anew():
    """A second bind forgets M and its counters: the run equals that of a fresh rule."""
    bench, fresh = (conv_bench({"name": "opzo", "correct_start": True, "warmup": 1}) for _ in range(2))
    bench.learn()
    bench.rule.bind(bench.net, bench.objective, bench.x, bench.draws)
    bench.sequences = 0
    for _ in range(2):
        a, b = bench.learn(), fresh.learn()
        assert a.grads.keys() == b.grads.keys()
        assert torch.equal(bench.m(0), fresh.m(0))


def test_m_is_kept_in_single_precision_below_half():
    """Increments of 1 - rho would underflow in half precision, so M stays float32 for bfloat16 weights."""
    net = dense([5, 6, 3]).to(torch.bfloat16)
    bench = Bench(net, Static(torch.randn(4, 5, dtype=torch.bfloat16), 4), "opzo")
    taught = bench.learn()
    assert bench.m(0).dtype == torch.float32
    assert bench.m(0).any()
    assert taught.grads["0.weight"].dtype == torch.bfloat16


def test_t35_evaluation_is_noise_free_and_deterministic():
    """T-35: evaluation sees the network itself, twice the same, whatever the rule did before."""
    bench = conv_bench("opzo")
    y = torch.zeros(6, dtype=torch.int64)
    before = evaluate(bench.net, bench.objective, bench.x, y)
    noisy = bench.learn()
    assert not torch.allclose(noisy.out, bench.net(bench.x.chunk(0, 6)))
    after = evaluate(bench.net, bench.objective, bench.x, y)
    assert torch.equal(before.evidence, after.evidence)
    assert torch.equal(before.loss, after.loss)
    quiet = Bench(bench.net, bench.x, "dfa", chunk=1).learn()
    assert torch.equal(quiet.outcome.evidence, after.evidence)


@pytest.mark.parametrize(("position", "binary"), [("after", False), ("before", True), ("firing", True)])
def test_t35_noise_before_the_neuron_keeps_signals_binary(position, binary):
    """T-35: *before* and *firing* send spikes only; *after* sends spikes + alpha z, while traces see clean spikes."""
    bench = conv_bench({"name": "opzo", "position": position})
    seen: list[Record] = bench.learn().records
    index = bench.net.hidden[0].index
    sent = torch.cat([whole(record.sent[index]) for record in seen])
    clean = torch.cat([record.spikes[index] for record in seen])
    assert bool(torch.isin(sent, torch.tensor([0.0, 1.0])).all()) is binary
    assert torch.isin(clean, torch.tensor([0.0, 1.0])).all()
