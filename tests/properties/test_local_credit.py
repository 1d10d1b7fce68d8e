"""Local credit: readouts of hidden layers (LL), and those that teach the layers below them (IGL).

Numbers T-.. are those of the project's specification of online training; float64 throughout.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward.core import MSE, CrossEntropy, KeyedDraws, Network, PerStep, RecordedDraws, Static
from onward.core.errors import ConfigError, TopologyMismatch
from onward.core.signal import dense as whole
from onward.credit import spatials
from onward.credit.local import IntermediateGlobal, LocalLearning
from onward.neurons import LIF
from onward.rules import rules
from properties.opzo_by_hand import psi
from properties.spatial_lab import REFERENCE, Bench, Identity, dense, still, weights

LABELS = torch.tensor([0, 1, 2, 3, 1])
SPATIALS = spatials.names()
DIRECT = ["dfa", "dkp", "opzo"]


def the_input(steps: int = 4) -> Static:
    return still(5, 9, steps, scale=1.5)


def probes(bench: Bench) -> LocalLearning:
    local = bench.rule.local
    return local.ll if isinstance(local, IntermediateGlobal) else _checked(local)


def _checked(local: Any) -> LocalLearning:
    assert isinstance(local, LocalLearning)
    return local


def network_only(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: grad for name, grad in grads.items() if name[0].isdigit()}


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-14) for name in a)


@pytest.mark.parametrize("spatial", SPATIALS)
@pytest.mark.parametrize("layer", [0, 1])
def test_t38_a_local_loss_reaches_its_own_layer_alone(spatial, layer):
    """T-38: scaling the local readout of layer l changes the gradient of W^l and of R^l, of no other weight, nor M."""
    net = dense([9, 8, 7, 6, 4])
    one, other = (Bench(net, the_input(), spatial, REFERENCE, "ll") for _ in range(2))
    with torch.no_grad():
        probes(other).probe(net.hidden[layer]).weight.mul_(-2.0)
    a, b = one.learn(y=LABELS).grads, other.learn(y=LABELS).grads
    own = {f"{2 * layer}.weight", f"{2 * layer}.bias"}
    probe = f"local.probes.{net.hidden[layer].index}"
    assert a.keys() == b.keys()
    for name in a:
        changed = name in own or name.startswith(probe)
        assert torch.allclose(a[name], b[name], atol=1e-15) is not changed, name
    if spatial == "opzo":
        assert all(torch.equal(one.m(i), other.m(i)) for i in range(3))


@pytest.mark.parametrize("spatial", SPATIALS)
@pytest.mark.parametrize("local", ["ll", "ll-igl"])
def test_t38_a_weight_of_zero_is_no_local_learning(spatial, local):
    """T-38: eta = 0 equals no local credit, for every spatial choice, IGL included; the readouts still learn."""
    net = dense([9, 8, 7, 6, 4])
    plain = Bench(net, the_input(), spatial, REFERENCE)
    silent = Bench(net, the_input(), spatial, REFERENCE, {"name": local, "weight": 0.0})
    for _ in range(2):
        a, b = plain.learn(y=LABELS).grads, silent.learn(y=LABELS).grads
        assert close(network_only(a), network_only(b))
        assert any(name.endswith("weight") and grad.any() for name, grad in b.items() if "probes" in name)


@pytest.mark.parametrize("objective", [PerStep(CrossEntropy()), PerStep(MSE(1.0))], ids=["ce", "mse"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_local_learning_by_hand(objective, weight):
    """g_loc = eta R^T e_loc with r = R s + c on clean spikes; dR = sum e_loc s^T and dc = sum e_loc."""
    net = dense([9, 8, 7, 4])
    still_m = {"name": "opzo", "rho": 1.0}
    bench = Bench(net, the_input(), still_m, "sltt", {"name": "ll", "weight": weight}, objective=objective)
    taught = bench.learn(y=LABELS)
    (record,) = taught.records
    for node, name in zip(net.hidden, ("0", "2"), strict=True):
        probe, firing = probes(bench).probe(node), record.firings[node.index]
        r = firing.out @ probe.weight.T + probe.bias
        e = objective.errors(r, LABELS, 4, 5)
        post = weight * (e @ probe.weight) * psi(firing.potential - 1)
        held = f"local.probes.{node.index}"
        assert torch.allclose(taught.grads[f"{name}.bias"], post.sum((0, 1)), atol=1e-14)
        assert torch.allclose(taught.grads[f"{held}.weight"], torch.einsum("tbi,tbj->ij", e, firing.out), atol=1e-14)
        assert torch.allclose(taught.grads[f"{held}.bias"], e.sum((0, 1)), atol=1e-14)


def test_local_credit_adds_to_global_credit():
    """The gradient with LL is the one without, plus the one of LL on still feedback."""
    net = dense([9, 8, 7, 4])
    total = Bench(net, the_input(), "dfa", REFERENCE, "ll").learn(y=LABELS).grads
    alone = Bench(net, the_input(), "dfa", REFERENCE).learn(y=LABELS).grads
    local = Bench(net, the_input(), {"name": "opzo", "alpha": 0.0, "rho": 1.0}, REFERENCE, "ll").learn(y=LABELS).grads
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.allclose(total[name], alone[name] + local[name], atol=1e-14)
    assert torch.allclose(total["4.weight"], alone["4.weight"], atol=1e-15)


def test_local_readouts_are_learned_tensors_of_the_rule():
    """R and c are parameters of the rule (optimiser, checkpoint), uniform in +-1/sqrt(n) and keyed by the seed."""
    net = dense([9, 400, 7, 10])
    bench = Bench(net, the_input(), "opzo", REFERENCE, "ll")
    names = {name for name, _ in bench.rule.named_parameters()}
    assert names == {f"local.probes.{n.index}.{kind}" for n in net.hidden for kind in ("weight", "bias")}
    r = probes(bench).probe(net.hidden[0]).weight.detach()
    assert r.shape == (10, 400)
    assert 0.049 < float(r.abs().max()) < 0.05
    again = Bench(net, the_input(), "opzo", REFERENCE, "ll")
    assert torch.equal(probes(again).probe(net.hidden[0]).weight, r)
    again.rule.load_state_dict({name: value + 1 for name, value in bench.rule.state_dict().items()})
    assert torch.equal(probes(again).probe(net.hidden[0]).weight, r + 1)


def test_wide_spike_maps_are_pooled_to_four_by_four():
    """R of a spike map reads its 4 x 4 average pooling; maps that are smaller are read as they are."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 3, 3, padding=1), LIF(), nn.AvgPool2d(4), nn.Conv2d(3, 2, 3, padding=1), LIF()]
    net = Network(nn.Sequential(*body, nn.Flatten(), nn.Linear(18, 4))).double()
    x = Static(2 * torch.randn(5, 1, 12, 12, dtype=torch.float64), 3)
    bench = Bench(net, x, {"name": "opzo", "rho": 1.0}, "sltt", "ll")
    taught = bench.learn(y=LABELS)
    first, second = net.hidden
    assert probes(bench).probe(first).weight.shape == (4, 3 * 4 * 4)
    assert probes(bench).probe(second).weight.shape == (4, 2 * 3 * 3)
    firing = taught.records[0].firings[first.index]
    pooled = firing.out.view(3, 5, 3, 4, 3, 4, 3).mean((4, 6)).flatten(2)
    probe = probes(bench).probe(first)
    e = bench.objective.errors(pooled @ probe.weight.detach().T + probe.bias.detach(), LABELS, 3, 5)
    maps = (e @ probe.weight.detach()).view(3, 5, 3, 4, 1, 4, 1)
    post = maps.expand(3, 5, 3, 4, 3, 4, 3).reshape_as(firing.out) / 9 * psi(firing.potential - 1)
    assert torch.allclose(taught.grads["0.bias"], post.sum((0, 1, 3, 4)), atol=1e-14)


@pytest.mark.parametrize("local", ["ll", "ll-igl"])
def test_the_pooling_of_local_readouts_is_an_option(local):
    """Open choice 9 of section 5.13: maps are averaged to at most ``pool`` x ``pool``."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 3, 3, padding=1), LIF(), nn.Conv2d(3, 2, 3, padding=1), LIF()]
    net = Network(nn.Sequential(*body, nn.Flatten(), nn.Linear(50, 4))).double()
    x = Static(2 * torch.randn(5, 1, 5, 5, dtype=torch.float64), 3)
    for pool, side in ((1, 1), (2, 2), (8, 5)):
        bench = Bench(net, x, "dfa", "sltt", {"name": local, "pool": pool})
        assert probes(bench).probe(net.hidden[0]).weight.shape == (4, 3 * side * side)
        bench.learn(y=LABELS)


def test_t39_an_intermediate_readout_equal_to_the_output_learns_the_same_feedback():
    """T-39: IGL at the last hidden layer with R = W^N: M^{l,k} and M^l receive identical increments, since r~ carries
    the layer's noise as o~ does."""
    net = dense([9, 8, 7, 4])
    bench = Bench(net, the_input(), {"name": "opzo", "rho": 0.9}, REFERENCE, {"name": "ll-igl", "position": 1})
    last = net.hidden[1]
    probe = probes(bench).probe(last)
    with torch.no_grad():
        probe.weight.copy_(net.get_parameter("4.weight"))
        probe.bias.copy_(net.get_parameter("4.bias"))
    for _ in range(3):
        bench.learn(y=LABELS)
        assert bench.m(0).any()
        assert torch.allclose(bench.m(0, f"probe_{last.index}"), bench.m(0), atol=1e-14)


@pytest.mark.parametrize("schedule", ["pairs", "two-pass"])
def test_intermediate_feedback_estimates_the_jacobian_of_the_intermediate_readout(schedule):
    """M^{l,k} -> (dr^k / ds^l)^T on a linear net, for every layer below k (3e4 samples, tolerance 5 %)."""
    net = dense([5, 6, 4, 5, 3], Identity, gain=1.0)
    spatial = {"name": "opzo", "alpha": 0.5, "inverse_alpha": True, "correct_start": True, "schedule": schedule}
    bench = Bench(net, still(30_000, 5, 4, scale=0.3), spatial, "sltt", {"name": "ll-igl", "position": 2})
    r = probes(bench).probe(net.hidden[2]).weight.detach()
    bench.learn()
    w = weights(net)
    for layer, truth in ((0, r @ w[2] @ w[1]), (1, r @ w[2])):
        found = bench.m(layer, f"probe_{net.hidden[2].index}")
        assert float((found - truth.T).norm() / truth.norm()) < 0.05


@pytest.mark.parametrize("spatial", DIRECT)
def test_intermediate_credit_is_feedback_times_the_local_error(spatial):
    """g^l = B^l e + eta B^{l,k} e_loc^k for l < k; layers from k on get the output's error alone (plus LL)."""
    net = dense([9, 8, 7, 6, 4])
    base = Bench(net, the_input(), spatial, "sltt", {"name": "ll", "weight": 0.5})
    igl = Bench(net, the_input(), spatial, "sltt", {"name": "ll-igl", "weight": 0.5, "position": 1})
    port = f"probe_{net.hidden[1].index}"
    feedback = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).double()
    igl.force(0, feedback, port)
    a, b = base.learn(y=LABELS), igl.learn(y=LABELS)
    node = net.hidden[1]
    record = b.records[0]
    r = whole(record.sent[node.index]) @ probes(igl).probe(node).weight.T + probes(igl).probe(node).bias
    e = igl.objective.errors(r, LABELS, 4, 5)
    post = 0.5 * (e @ feedback.T) * psi(record.firings[net.hidden[0].index].potential - 1)
    assert torch.allclose(b.grads["0.bias"] - a.grads["0.bias"], post.sum((0, 1)), atol=1e-14)
    for name in ("2.weight", "4.weight", "6.weight"):
        assert torch.allclose(a.grads[name], b.grads[name], atol=1e-15)


def test_intermediate_back_propagation_stops_below_its_layer():
    """With BP the local error of layer k crosses the spikes below it: autograd of each step's local loss agrees."""
    net = dense([9, 8, 7, 6, 4])
    base = Bench(net, the_input(), "bp", "sltt", "ll").learn(y=LABELS)
    bench = Bench(net, the_input(), "bp", "sltt", {"name": "ll-igl", "position": 1})
    igl = bench.learn(y=LABELS)
    record, probe = igl.records[0], probes(bench).probe(net.hidden[1])
    firings = [record.firings[node.index] for node in net.hidden]
    e = bench.objective.errors(firings[1].out @ probe.weight.T + probe.bias, LABELS, 4, 5)
    delta = ((e @ probe.weight) * psi(firings[1].potential - 1)) @ weights(net)[1] * psi(firings[0].potential - 1)
    extra = igl.grads["0.bias"] - base.grads["0.bias"]
    assert torch.allclose(extra, delta.sum((0, 1)).detach(), atol=1e-14)
    for name in ("2.weight", "4.weight", "6.weight"):
        assert torch.allclose(base.grads[name], igl.grads[name], atol=1e-15)


def test_intermediate_single_point_credit_uses_the_local_loss():
    """With single-point ZO, layers below k receive eta (L_loc,b / alpha) z beside the output's scalar."""
    net = dense([9, 8, 7, 6, 4])
    spatial = {"name": "zo", "alpha": 0.4}
    base = Bench(net, the_input(), spatial, "sltt", {"name": "ll", "weight": 0.5}).learn(y=LABELS)
    bench = Bench(net, the_input(), spatial, "sltt", {"name": "ll-igl", "weight": 0.5, "position": 1})
    igl = bench.learn(y=LABELS)
    record, probe = igl.records[0], probes(bench).probe(net.hidden[1])
    losses = CrossEntropy()(whole(record.sent[net.hidden[1].index]) @ probe.weight.T + probe.bias, LABELS) / (4 * 5)
    slope = psi(record.firings[net.hidden[0].index].potential - 1)
    post = 0.5 * losses[..., None] / 0.4 * record.noise[net.hidden[0].index].dense() * slope
    assert torch.allclose(igl.grads["0.bias"] - base.grads["0.bias"], post.sum((0, 1)).detach(), atol=1e-13)


@pytest.mark.parametrize(("hidden", "position"), [([8, 7], 1), ([8, 7, 6], 1), ([8, 7, 6, 5], 2)])
def test_the_middle_layer_is_the_default(hidden, position):
    """Without a position, the readout of hidden layer N // 2 teaches the layers below it."""
    net = dense([9, *hidden, 4])
    default = Bench(net, the_input(), "dfa", REFERENCE, "ll-igl").learn(y=LABELS).grads
    explicit = Bench(net, the_input(), "dfa", REFERENCE, {"name": "ll-igl", "position": position}).learn(y=LABELS).grads
    assert all(torch.equal(default[name], explicit[name]) for name in default)


def test_intermediate_learning_at_the_first_layer_is_local_learning():
    """There is nothing below the first layer to teach."""
    net = dense([9, 8, 7, 4])
    ll = Bench(net, the_input(), "dfa", REFERENCE, "ll").learn(y=LABELS).grads
    igl = Bench(net, the_input(), "dfa", REFERENCE, {"name": "ll-igl", "position": 0}).learn(y=LABELS).grads
    assert close(network_only(ll), network_only(igl))


@pytest.mark.parametrize("local", ["ll", "ll-igl"])
@pytest.mark.parametrize("spatial", SPATIALS)
def test_local_credit_does_not_depend_on_chunks(spatial, local):
    """Chunks of 1, 3 and T steps agree to 1e-12, late errors included."""
    net = dense([9, 8, 7, 4])
    found = []
    for chunk in (1, 3, 4):
        bench = Bench(net, the_input(), spatial, REFERENCE, local, {"error_delay": 1}, chunk=chunk)
        bench.learn(y=LABELS)
        found.append(bench.learn(y=LABELS).grads)
    for other in found[1:]:
        for name, grad in found[0].items():
            assert torch.allclose(grad, other[name], rtol=1e-12, atol=1e-14)


def test_reliability_is_reported_per_port():
    """With IGL a layer has one matrix a port; the metrics name both."""
    net = dense([9, 8, 7, 4])
    bench = Bench(net, the_input(), "opzo", REFERENCE, "ll-igl")
    bench.learn(y=LABELS)
    port = f"probe_{net.hidden[1].index}"
    names = {"reliability/1<output", "reliability/3<output", f"reliability/1<{port}"}
    assert set(bench.rule.metrics()) == names


def test_a_local_readout_sees_clean_spikes_and_the_intermediate_one_what_is_sent():
    """LL reads s; IGL's r~ reads s + alpha z: with huge noise they differ, and LL's gradient stays that of s."""
    net = dense([9, 8, 7, 4])
    z = {("noise", name): torch.full((4, 5, n), 50.0, dtype=torch.float64) for name, n in (("1", 8), ("3", 7))}
    still_m = {"name": "opzo", "rho": 1.0, "schedule": "fresh"}
    bench = Bench(net, the_input(), still_m, "sltt", "ll", draws=_with_probes(net, z))
    taught = bench.learn(y=LABELS)
    firing = taught.records[0].firings[net.hidden[1].index]
    probe = probes(bench).probe(net.hidden[1])
    e = bench.objective.errors(firing.out @ probe.weight.T + probe.bias, LABELS, 4, 5)
    assert torch.allclose(taught.grads[f"local.probes.{net.hidden[1].index}.bias"], e.sum((0, 1)), atol=1e-14)


def _with_probes(net: Network, noise: dict[tuple[str, str], Tensor]) -> RecordedDraws:
    sizes = {"1": 8, "3": 7}
    drawn = {("probe", node.name): torch.rand(1, 4, sizes[node.name], dtype=torch.float64) for node in net.hidden}
    return RecordedDraws({**noise, **drawn})


@pytest.mark.parametrize(
    ("local", "error", "message"),
    [
        ({"name": "ll", "weight": -1.0}, ConfigError, "weight = -1.0 will not do"),
        ({"name": "ll-igl", "position": -1}, ConfigError, "position = -1 will not do"),
        ({"name": "ll-igl", "position": 2}, TopologyMismatch, "hidden layer 2, counted from 0, and the network has 2"),
    ],
)
def test_impossible_local_options_are_refused(local, error, message):
    """A negative weight or position fails when built, a layer that is not there when bound."""
    with pytest.raises(error, match=message):
        rules.build({"name": "online", "local": local}).bind(
            dense([9, 8, 7, 4]), PerStep(CrossEntropy()), the_input(), KeyedDraws(0)
        )
