"""Spatial credit: direct feedback against back-propagation, locality, single-point ZO, late errors.

Numbers T-.. are those of the project's specification of online training; float64 throughout.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward.core import MSE, CrossEntropy, KeyedDraws, Network, PerStep, Static
from onward.core.errors import ConfigError, ObjectiveMismatch, UnknownName
from onward.core.objective import Mean, Readout
from onward.credit import spatials
from onward.neurons import LIF
from onward.rules import rules
from properties.opzo_by_hand import psi
from properties.spatial_lab import (
    REFERENCE,
    Bench,
    Identity,
    Linear,
    ThroughNoise,
    cosine,
    dense,
    distance,
    flat,
    still,
    weights,
)

LABELS = torch.tensor([0, 1, 2, 3, 1])
EXACT = {"name": "ottt", "fidelity": "exact"}
STILL_M = {"name": "opzo", "alpha": 0.0, "rho": 1.0}


def the_input(steps: int = 6) -> Static:
    return still(5, 9, steps, scale=1.5)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("spatial", ["dfa", STILL_M])
def test_t25_feedback_through_the_readout_s_transpose_is_back_propagation(spatial):
    """T-25: one hidden layer; DFA with B = (W^N)^T, and OPZO with M = (W^N)^T, alpha 0, rho 1, equal spatial BP."""
    net = dense([9, 8, 4])
    bp = Bench(net, the_input(), "bp", EXACT).learn(y=LABELS)
    direct = Bench(net, the_input(), spatial, EXACT)
    direct.force(0, weights(net)[-1].T)
    found = direct.learn(y=LABELS)
    assert found.grads.keys() == bp.grads.keys()
    assert distance(flat(found.grads), flat(bp.grads)) < 1e-12


def test_t25_fails_with_any_other_feedback():
    """T-25, negative control: random feedback gives another direction for the hidden layer and the same readout."""
    net = dense([9, 8, 4])
    bp = Bench(net, the_input(), "bp", EXACT).learn(y=LABELS).grads
    dfa = Bench(net, the_input(), "dfa", EXACT).learn(y=LABELS).grads
    assert torch.equal(dfa["2.weight"], bp["2.weight"])
    assert cosine(dfa["0.weight"], bp["0.weight"]) < 0.9


@pytest.mark.parametrize("position", ["after", "before"])
@pytest.mark.parametrize("schedule", ["fresh", "pairs", "codes", "hold"])
def test_t26_opzo_without_noise_and_with_a_still_m_is_dfa_bitwise(position, schedule):
    """T-26: alpha = 0, rho = 1, c = 1 make OPZO equal DFA with B = M, bit for bit."""
    net = dense([9, 8, 7, 4])
    dfa = Bench(net, the_input(), "dfa", REFERENCE)
    opzo = Bench(net, the_input(), {**STILL_M, "position": position, "schedule": schedule}, REFERENCE)
    for layer in (0, 1):
        b = getattr(dfa.rule.spatial, f"b{net.hidden[layer].index}_output")
        opzo.force(layer, b)
    for _ in range(2):
        a, b = dfa.learn(y=LABELS), opzo.learn(y=LABELS)
        assert same(a.grads, b.grads)
        assert torch.equal(a.out, b.out)


def test_t26_a_zero_alpha_cannot_be_divided_by():
    """T-26: c = 1/alpha refuses alpha = 0 instead of producing NaN."""
    with pytest.raises(ConfigError, match="inverse_alpha divides M by alpha, and alpha = 0"):
        rules.build({"name": "opzo", "spatial": {"alpha": 0.0, "inverse_alpha": True}})


LOCAL_RULES = ["dfa", {"name": "opzo", "schedule": "fresh"}, {"name": "opzo", "position": "before"}]


@pytest.mark.parametrize("spatial", LOCAL_RULES)
def test_t27_downstream_weights_do_not_reach_hidden_gradients(spatial):
    """T-27: for fixed (e, M), replacing any downstream weight leaves the gradients of a hidden layer untouched."""
    c = torch.randn(4, 4, dtype=torch.float64)
    first, second, third = (
        _hidden_gradients(spatial, PerStep(Linear(c)), replace) for replace in ([], ["4.weight"], ["2.weight"])
    )
    assert torch.equal(first["0.weight"], second["0.weight"])
    assert torch.equal(first["2.weight"], second["2.weight"])
    assert torch.equal(first["0.weight"], third["0.weight"])
    assert not torch.equal(first["2.weight"], third["2.weight"]), "the layer's own potential does count"


def test_t27_back_propagation_transports_weights():
    """T-27, negative control: with BP a hidden gradient follows the weights downstream."""
    c = torch.randn(4, 4, dtype=torch.float64)
    first, second = (_hidden_gradients("bp", PerStep(Linear(c)), replace) for replace in ([], ["4.weight"]))
    assert not torch.allclose(first["0.weight"], second["0.weight"])


def _hidden_gradients(spatial, objective, replace: list[str]) -> dict[str, Tensor]:
    net = dense([9, 8, 7, 4])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in replace:
            net.get_parameter(name).copy_(torch.randn(net.get_parameter(name).shape, generator=generator).double())
    bench = Bench(net, the_input(), spatial, REFERENCE, objective=objective)
    if spatial != "bp":
        for layer, size in ((0, 8), (1, 7)):
            bench.force(layer, torch.randn(size, 4, generator=torch.Generator().manual_seed(layer)).double())
    return bench.learn(y=LABELS).grads


@pytest.mark.parametrize("spatial", LOCAL_RULES)
def test_t27_a_hidden_update_is_made_of_local_values_and_the_error_vector(spatial):
    """T-27: dW^l = sum_t (M^l e[t]) psi(u^l[t] - V) a^{l-1}[t]^T: nothing but M^l, e, u^l and the trace enters."""
    net = dense([9, 8, 7, 4])
    bench = Bench(net, the_input(), spatial, REFERENCE)
    ms = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)).double() for n in (8, 7)]
    for layer, m in enumerate(ms):
        bench.force(layer, m)
    taught = bench.learn(y=LABELS)
    e = bench.objective.errors(taught.out, LABELS, 6, 5)
    (record,) = taught.records
    potentials = [record.firings[node.index].potential for node in net.hidden]
    spikes = record.firings[net.hidden[0].index].out
    remembered = torch.tensor([[0.5 ** (t - k) if k <= t else 0.0 for k in range(6)] for t in range(6)]).double()
    trace = torch.einsum("tk,kbi->tbi", remembered, spikes)
    pres = [the_input().chunk(0, 6), trace]
    for name, m, u, pre in zip(("0", "2"), ms, potentials, pres, strict=True):
        post = (e @ m.T) * psi(u - 1)
        assert torch.allclose(taught.grads[f"{name}.weight"], torch.einsum("tbi,tbj->ij", post, pre), atol=1e-14)
        assert torch.allclose(taught.grads[f"{name}.bias"], post.sum((0, 1)), atol=1e-14)


def test_direct_feedback_credit_is_b_times_e():
    """DFA by hand: g^l = B^l e with B ``[n_l, m]``; B's entries are N(0, scale^2 / m), keyed by the seed."""
    net = dense([9, 400, 300, 10], seed=4)
    bench = Bench(net, still(2, 9, 2), {"name": "dfa", "scale": 0.3})
    b = bench.rule.spatial.get_buffer(f"b{net.hidden[0].index}_output")
    assert b.shape == (400, 10)
    assert float(b.std()) == pytest.approx(0.3 / 10**0.5, rel=0.03)
    again = Bench(net, still(2, 9, 2), {"name": "dfa", "scale": 0.3})
    other = Bench(net, still(2, 9, 2), {"name": "dfa", "scale": 0.3}, draws=KeyedDraws(1))
    name = f"b{net.hidden[0].index}_output"
    assert torch.equal(again.rule.spatial.get_buffer(name), b)
    assert not torch.equal(other.rule.spatial.get_buffer(name), b)


def test_t37_single_point_zo_estimates_the_gradient_of_a_quadratic_sample_by_sample():
    """T-37: on a quadratic the mean of (L_b / alpha) z_b is the gradient; scrambling which loss meets which z gives 0.

    2e5 equal samples; the standard error of the estimate is 1 % of the gradient, the tolerance 5 %.
    """
    batch = 200_000
    net = dense([3, 4, 2], Identity, gain=0.5)
    bench = Bench(net, _repeated(3, batch), {"name": "zo", "alpha": 1.0}, objective=PerStep(MSE()))
    taught = bench.learn()
    o = taught.out[0, :1] - taught.noise(net.hidden[0])[0, :1] @ weights(net)[-1].T
    truth = (MSE().gradient(o, torch.zeros(1, dtype=torch.int64)) @ weights(net)[-1])[0]
    losses, z = MSE()(taught.out[0], torch.zeros(batch, dtype=torch.int64)), taught.noise(net.hidden[0])[0]
    assert torch.allclose(taught.grads["0.bias"], (losses[:, None] * z).mean(0), atol=1e-12)
    assert distance(taught.grads["0.bias"], truth) < 0.05
    scrambled = (losses.roll(1)[:, None] * z).mean(0)
    assert float(scrambled.norm() / truth.norm()) < 0.05


def _repeated(features: int, batch: int) -> Static:
    return Static(torch.ones(1, features, dtype=torch.float64).expand(batch, features), 1)


@pytest.mark.parametrize("schedule", ["fresh", "pairs", "codes", "hold"])
@pytest.mark.parametrize("position", ["after", "before"])
def test_single_point_zo_by_hand(schedule, position):
    """g^l[t] = (L_b[t] / alpha) z^l[t] with the per-sample share L_b of the loss, at every layer and step."""
    net = dense([9, 8, 7, 4])
    bench = Bench(net, the_input(), {"name": "zo", "alpha": 0.3, "schedule": schedule, "position": position}, "sltt")
    taught = bench.learn(y=LABELS)
    (record,) = taught.records
    losses = CrossEntropy()(taught.out, LABELS) / (6 * 5)
    for node, name in zip(net.hidden, ("0", "2"), strict=True):
        g = losses[..., None] / 0.3 * record.noise[node.index].dense()
        post = g * psi(record.firings[node.index].potential - 1)
        assert torch.allclose(taught.grads[f"{name}.bias"], post.sum((0, 1)), atol=1e-13)


def test_single_point_zo_refuses_what_it_cannot_divide_or_mirror():
    """ZO divides by alpha and has one forward pass."""
    with pytest.raises(ConfigError, match="single-point ZO divides by alpha"):
        rules.build({"name": "zo", "spatial": {"alpha": 0.0}})
    with pytest.raises(ConfigError, match="one forward pass"):
        rules.build({"name": "zo", "spatial": {"schedule": "two-pass"}})


@pytest.mark.parametrize("spatial", ["bp", "dfa", "dkp", "zo", "opzo", "feedback-alignment", "sign-symmetric"])
def test_t40_errors_may_come_late(spatial):
    """T-40: delay 0 is the baseline; a delay of T steps leaves the hidden layers without any update."""
    net = dense([9, 8, 7, 4])
    start = Bench(net, the_input(), spatial, REFERENCE, chunk=4)
    _mirror_noise(start)
    baseline = start.learn(y=LABELS).grads
    prompt, late, never = (_delayed(net, spatial, delay) for delay in (0, 2, 6))
    assert same(prompt, baseline)
    assert torch.equal(late["4.weight"], baseline["4.weight"]), "the readout learns from the error of now"
    assert not torch.allclose(late["0.weight"], baseline["0.weight"])
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert float(baseline[name].abs().sum()) > 0
        assert name not in never or not never[name].any()
    assert torch.equal(never["4.weight"], baseline["4.weight"])


def _delayed(net: Network, spatial, delay: int) -> dict[str, Tensor]:
    bench = Bench(net, the_input(), spatial, REFERENCE, options={"error_delay": delay}, chunk=4)
    _mirror_noise(bench)
    return bench.learn(y=LABELS).grads


def _mirror_noise(bench: Bench) -> None:
    """Gives OPZO an M that is not zero."""
    if bench.spatial == "opzo":
        for layer, size in ((0, 8), (1, 7)):
            bench.force(layer, torch.randn(size, 4, generator=torch.Generator().manual_seed(layer)).double())


@pytest.mark.parametrize(("delay", "said"), [(0, False), (5, False), (6, True)])
def test_t40_errors_that_never_arrive_are_told_of(delay, said):
    """T-40: with a delay of T steps or more the hidden layers learn nothing, which a warning says."""
    bench = Bench(dense([9, 8, 4]), the_input(), "dfa", REFERENCE, options={"error_delay": delay})
    assert any("hidden layers learn nothing" in text for text in bench.rule.warnings()) is said


def test_t40_a_late_error_meets_the_trace_and_slope_of_its_arrival():
    """T-40: dW = sum_t (B e[t - D]) psi(u[t] - V) a[t]^T, by hand for D = 2, in chunks of any size."""
    net = dense([9, 8, 4])
    found = [
        Bench(net, the_input(), "dfa", "sltt", options={"error_delay": 2}, chunk=chunk).learn(y=LABELS)
        for chunk in (1, 4, 6)
    ]
    bench = Bench(net, the_input(), "dfa", "sltt")
    b = bench.rule.spatial.get_buffer(f"b{net.hidden[0].index}_output").double()
    e = bench.objective.errors(found[2].out, LABELS, 6, 5)
    u = found[2].records[0].firings[net.hidden[0].index].potential
    post = (e[:4] @ b.T) * psi(u[2:] - 1)
    expected = torch.einsum("tbi,bj->ij", post, the_input().x)
    for taught in found:
        assert torch.allclose(taught.grads["0.weight"], expected, atol=1e-14)


def test_a_late_single_point_error_keeps_its_own_noise():
    """With single-point ZO the loss of step t - D travels with the z of step t - D."""
    net = dense([9, 8, 4])
    options = {"error_delay": 2}
    taught = Bench(net, the_input(), {"name": "zo", "alpha": 0.3}, "sltt", options=options, chunk=4).learn(y=LABELS)
    losses = CrossEntropy()(taught.out, LABELS) / (6 * 5)
    z = taught.noise(net.hidden[0])
    u = torch.cat([record.firings[net.hidden[0].index].potential for record in taught.records])
    post = losses[:4, :, None] / 0.3 * z[:4] * psi(u[2:] - 1)
    assert torch.allclose(taught.grads["0.bias"], post.sum((0, 1)), atol=1e-14)


def test_back_propagation_through_the_noisy_pass_is_the_limit_of_bp():
    """The tests' yardstick: BP on OPZO's own noisy pass is BP itself at alpha 0, and sees the same outputs as OPZO."""
    net = dense([9, 8, 7, 4])
    options = spatials.parse({"name": "opzo", "alpha": 0.0}).perturbation()  # type: ignore[attr-defined]
    quiet = Bench(net, the_input(), ThroughNoise(options), REFERENCE).learn(y=LABELS)
    bp = Bench(net, the_input(), "bp", REFERENCE).learn(y=LABELS)
    assert distance(flat(quiet.grads), flat(bp.grads)) < 1e-12
    noisy = spatials.parse("opzo").perturbation()  # type: ignore[attr-defined]
    a = Bench(net, the_input(), ThroughNoise(noisy), REFERENCE).learn(y=LABELS)
    b = Bench(net, the_input(), "opzo", REFERENCE).learn(y=LABELS)
    assert torch.equal(a.out, b.out)
    assert torch.equal(a.grads["4.weight"], b.grads["4.weight"])


def test_every_spatial_choice_refuses_a_readout_objective():
    """An objective that has an error only at the end cannot serve a rule that needs one at every step."""
    for name in spatials.names():
        with pytest.raises(ObjectiveMismatch, match="choose objective 'per-step'"):
            Bench(dense([9, 8, 4]), the_input(), name, objective=Readout(CrossEntropy(), Mean()))


def test_an_unknown_spatial_choice_names_its_neighbours():
    """A typing error is answered with the nearest names."""
    with pytest.raises(UnknownName, match="unknown spatial credit 'opz'; did you mean 'opzo'"):
        rules.build({"name": "online", "spatial": "opz"})


def test_a_network_without_hidden_neurons_trains_its_readout_alone():
    """With nothing to send errors to, every spatial choice gives the delta rule of the readout."""
    x, net = the_input(), Network(nn.Sequential(nn.Linear(9, 4))).double()
    grads = [Bench(net, x, name).learn(y=LABELS).grads for name in spatials.names()]
    for found in grads[1:]:
        assert torch.allclose(found["0.weight"], grads[0]["0.weight"], atol=1e-14)


def test_spiking_layers_beyond_the_readout_are_not_perturbed():
    """A neuron at the output is no hidden layer: it gets no noise, no feedback matrix, and the exact error."""
    net = dense([9, 8, 4, 4])
    out = Network(nn.Sequential(*list(net.children())[:4]))
    bench = Bench(out, the_input(), "opzo")
    taught = bench.learn(y=LABELS)
    assert [node.name for node in out.hidden] == ["1"]
    assert set(taught.records[0].noise) == {out.hidden[0].index}
    assert isinstance(out.nodes[out.output].module, type(LIF()))
