"""Properties T-10 to T-24: traces, and what OTTT, SLTT, SLTT-K and BPTT have in common and do not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onward.core import (
    Frames,
    GradSink,
    KeyedDraws,
    LearningRule,
    Network,
    RecordedDraws,
    Recurrent,
    Scale,
    run_sequence,
)
from onward.core.draws import Key
from onward.core.graph import Node
from onward.core.signal import Carry, Context
from onward.core.trace import Presynaptic, ones_trace, trace
from onward.credit.base import Temporal
from onward.credit.bp import BackPropagation
from onward.credit.local import NoLocal
from onward.credit.ottt import OTTT, Eligibility
from onward.kernels.rows import SparseRows
from onward.models import models
from onward.neurons import LIF, neurons
from onward.rules.online import Online
from onward.testing.checks import held_by
from onward.testing.harness import OBJECTIVE, assert_close, bound, relative, same_bits, teach
from onward.testing.zoo import CLASSES, STEPS, data, make
from reference import dense, plain
from reference.tiny import EXACT, as_dense, batch, body, named, step_loss, tiny


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 6, 11])
def test_t10_one_hidden_layer_ottt_is_bptt(steps: int, decay: float) -> None:
    """T-10: one hidden LIF layer, memoryless readout, exact fidelity: OTTT = BPTT with detached reset, any T, lam."""
    net, (x, y) = tiny([10], decay), batch(steps)
    assert_close(teach(net, EXACT, x, y).grads, teach(net, "bptt", x, y).grads)


def test_t10_holds_for_if_neurons_scaled_drives_and_pooling() -> None:
    """T-10 for what linear glue and neuron parameters may add."""
    for neuron in (LIF(tau=3.0, decay_input=True), LIF(decay=0.8, threshold=0.7, initial=0.3)):
        torch.manual_seed(2)
        layers = [nn.Conv2d(2, 4, 3, padding=1), Scale(3.0), neuron, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5)]
        net = Network(nn.Sequential(*layers)).double()
        x, y = data("conv")
        assert_close(teach(net, EXACT, x, y).grads, teach(net, "bptt", x, y).grads)


def test_t11_two_hidden_layers_differ_below_the_last_alone() -> None:
    """T-11: OTTT = BPTT(detached) for W^2 and the readout; W^1 differs, with a cosine between 0.9 and 1."""
    net, (x, y) = tiny([10, 10]), batch()
    online, full = teach(net, EXACT, x, y).grads, teach(net, "bptt", x, y).grads
    last = [name for name in full if not name.startswith("0.")]
    assert_close({name: online[name] for name in last}, {name: full[name] for name in last})
    assert 0.9 < cosine(online["0.weight"], full["0.weight"]) < 1 - 1e-6


class NoMemory(Eligibility):
    """Traces that decay at once."""

    def weight(self, net: Network, node: Node) -> float:
        return 0.0

    def bias(self, net: Network, node: Node) -> float:
        return 0.0

    def toward_output(self, net: Network, node: Node) -> float:
        return 0.0


@pytest.mark.parametrize("name", ["mlp", "conv", "recurrent"])
def test_t12_sltt_is_ottt_without_memory_and_autograd_with_v_detached(name: str) -> None:
    """T-12: SLTT = OTTT with trace decay 0 = autograd with v detached at every step."""
    x, y = data(name)
    sltt = teach(make(name), "sltt", x, y).grads
    forgetful = Online(OTTT(NoMemory()), BackPropagation(), NoLocal())
    net = make(name)
    assert same_bits(teach(net, bound(forgetful, net, x), x, y).grads, sltt)
    assert_close(sltt, plain.sltt(body(name), x, step_loss(y)))


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("steps", "decay"), [(1, 0.5), (1, 0.9), (7, 0.0)])
def test_t13_where_there_is_no_past_all_rules_agree(steps: int, decay: float, detach: bool) -> None:
    """T-13: at T = 1, or with lam = 0 at any T, BPTT (either reset) = OTTT = SLTT for all parameters."""
    net, (x, y) = tiny([10, 8], decay, detach=detach), batch(steps)
    expected = teach(net, "bptt", x, y).grads
    for rule in (EXACT, "ottt", "sltt", {"name": "sltt-k", "temporal": {"k": steps}}):
        assert_close(teach(net, rule, x, y).grads, expected)


def test_t14_reference_fidelity_differs_as_stated() -> None:
    """T-14: static x: exact sum_t (1-lam^t)/(1-lam) delta x^T, reference sum_t delta x^T; readout e s^T, e a^T."""
    net, (x, y) = tiny([10]), batch()
    x = x[:1].expand_as(x)
    exact, reference = teach(net, EXACT, x, y), teach(net, "ottt", x, y)
    delta = exact.posts("0")
    factor = torch.tensor([(1 - 0.5 ** (t + 1)) / 0.5 for t in range(STEPS)], dtype=torch.float64)
    assert relative(exact.grads["0.weight"], torch.einsum("t,tbj,bi->ji", factor, delta, x[0])) < 1e-10
    assert relative(reference.grads["0.weight"], torch.einsum("tbj,bi->ji", delta, x[0])) < 1e-10
    spikes = exact.records[0].firings[net.hidden[0].index].out
    traced = torch.stack([dense.weighted_past(list(spikes), t, 0.5) for t in range(STEPS)])
    e = exact.posts("2")
    assert relative(exact.grads["2.weight"], torch.einsum("tbj,tbi->ji", e, spikes)) < 1e-10
    assert relative(reference.grads["2.weight"], torch.einsum("tbj,tbi->ji", e, traced)) < 1e-10
    assert cosine(exact.grads["2.weight"], reference.grads["2.weight"]) < 0.9999


def test_t15_a_reset_in_the_graph_sets_bptt_apart() -> None:
    """T-15: OTTT and BPTT with the reset in the graph differ in the hidden layer, even with one hidden layer."""
    net, (x, y) = tiny([10], detach=False), batch()
    online, full = teach(net, EXACT, x, y).grads, teach(net, "bptt", x, y).grads
    assert relative(online["0.weight"], full["0.weight"]) > 1e-3
    assert relative(online["2.weight"], full["2.weight"]) < 1e-10


def traced(x: Tensor, decay: float) -> Tensor:
    found = trace(x, decay, Carry(), "test")
    return found if isinstance(found, torch.Tensor) else found.dense()


def test_t16_traces_commute_with_linear_glue_alone() -> None:
    """T-16: trace commutes with average pooling, scaling and a fixed mask; with max-pooling it does not."""
    s = (torch.rand(STEPS, 3, 4, 6, 6) < 0.3).double()
    mask = (torch.rand(3, 4, 6, 6) < 0.5).double() * 2
    for glue in (lambda x: F.avg_pool2d(x, 2), Scale(2.74), lambda x: x * mask):
        through = torch.stack([glue(frame) for frame in s])
        assert relative(torch.stack([glue(a) for a in traced(s, 0.5)]), traced(through, 0.5)) < 1e-10
    pooled = torch.stack([F.max_pool2d(frame, 2) for frame in s])
    assert relative(torch.stack([F.max_pool2d(a, 2) for a in traced(s, 0.5)]), traced(pooled, 0.5)) > 0.1


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_t17_trace_closed_form(decay: float) -> None:
    """T-17: a[t] = sum_tau lam^(t - tau) s[tau]; all-ones spikes give (1 - lam^t) / (1 - lam)."""
    s = (torch.rand(9, 2, 5) < 0.4).double()
    expected = torch.stack([dense.weighted_past(list(s), t, decay) for t in range(9)])
    assert relative(traced(s, decay), expected) < 1e-10
    ones = traced(torch.ones(9, 1, 1, dtype=torch.float64), decay).flatten()
    closed = [sum(decay**k for k in range(t + 1)) for t in range(9)]
    assert relative(ones, torch.tensor(closed, dtype=torch.float64)) < 1e-10
    assert ones_trace(0, 9, decay) == pytest.approx(closed, rel=1e-12)
    assert ones_trace(4, 9, decay) == pytest.approx(closed[4:], rel=1e-12)


def test_t18_convolutions_deposit_the_weight_gradient_with_the_trace_as_input() -> None:
    """T-18: OTTT's gradient of a convolution = conv weight gradient with the trace as input."""
    net, (x, y) = make("conv"), data("conv")
    taught = teach(net, EXACT, x, y)
    for name, settings in (("0", {"padding": 1}), ("3", {"padding": 1, "stride": 2, "groups": 2})):
        pre, post = taught.pres(name), taught.posts(name)
        shape = net.get_parameter(f"{name}.weight").shape
        expected = sum(torch.nn.grad.conv2d_weight(a, shape, d, **settings) for a, d in zip(pre, post, strict=True))
        assert relative(taught.grads[f"{name}.weight"], expected) < 1e-10
    assert relative(taught.pres("0"), traced(x, 0.5)) < 1e-10


def test_t18_a_1x1_convolution_on_1x1_maps_is_the_linear_rule() -> None:
    """T-18: the same weights as a 1x1 convolution give the same gradient."""
    flat, (x, y) = tiny([10, 8]), batch()
    layers = [nn.Conv2d(12, 10, 1), LIF(decay=0.5), nn.Conv2d(10, 8, 1), LIF(decay=0.5), nn.Flatten(), nn.Linear(8, 5)]
    maps = Network(nn.Sequential(*layers)).double()
    for source, target in zip(flat.parameters(), maps.parameters(), strict=True):
        target.data.copy_(source.data.view_as(target))
    one, other = teach(flat, EXACT, x, y).grads, teach(maps, EXACT, x[..., None, None], y).grads
    for a, b in zip(one.values(), other.values(), strict=True):
        assert relative(b.view_as(a), a) < 1e-10


class Scrambled(Temporal):
    """OTTT, but one synapse's presynaptic factor is random."""

    def __init__(self, inner: Temporal, name: str):
        self.inner, self.name = inner, name

    def runs(self, start: int, stop: int, context: Context) -> Iterator[tuple[int, int, bool]]:
        return self.inner.runs(start, stop, context)

    def gain(self, steps: int) -> float:
        return self.inner.gain(steps)

    def pre(self, net: Network, node: Node, x: Tensor | SparseRows, carry: Carry, more: bool) -> Presynaptic:
        true = self.inner.pre(net, node, x, carry, more)
        return torch.rand_like(x) if node.name == self.name else true

    def bias_gain(self, net: Network, node: Node, start: int, steps: int) -> list[float] | None:
        return self.inner.bias_gain(net, node, start, steps)

    def toward_output(self, net: Network, node: Node, x: Tensor, carry: Carry) -> Tensor:
        return self.inner.toward_output(net, node, x, carry)


def test_t19_the_input_gradient_does_not_depend_on_the_trace() -> None:
    """T-19: replace a trace by random values: upstream gradients unchanged, own weight gradient changes."""
    net, (x, y) = tiny([10, 8]), batch()
    expected = teach(net, EXACT, x, y).grads
    rule = Online(Scrambled(bound(EXACT, net, x).temporal, "2"), BackPropagation(), NoLocal())
    given = teach(net, bound(rule, net, x), x, y).grads
    own, true = given.pop("2.weight"), expected.pop("2.weight")
    assert same_bits(given, expected)
    assert relative(own, true) > 0.1


def online_displacement(net: Network, rule: LearningRule, x: Tensor, y: Tensor, lr: float) -> dict[str, Tensor]:
    """How far plain SGD moves the weights when it steps at every time step."""
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    sink, optimizer = GradSink(net), torch.optim.SGD(net.parameters(), lr=lr)

    def update() -> None:
        optimizer.zero_grad()
        sink.flush()
        optimizer.step()

    run_sequence(net, rule, OBJECTIVE, Frames(x), y, sink, draws=KeyedDraws(0), after_step=update)
    return {name: p.detach() - start[name] for name, p in net.named_parameters()}


@pytest.mark.parametrize("rule", ["ottt", "sltt", "dfa"])
def test_t20_accumulated_and_online_updates(rule: str) -> None:
    """T-20: OTTT_A = sum of the per-step gradients; with plain SGD of rate eps, OTTT_O moves as far up to O(eps^2)."""
    net, (x, y) = tiny([10, 8]), batch()
    built = bound({"name": rule, "schedule": "step"}, net, x)
    total = teach(net, {"name": rule}, x, y).grads
    frozen = online_displacement(net, built, x, y, lr=0.0)
    assert all(moved.abs().max() == 0 for moved in frozen.values())
    gaps = []
    for eps in (1e-6, 1e-7):
        net = tiny([10, 8])
        moved = online_displacement(net, bound({"name": rule, "schedule": "step"}, net, x), x, y, eps)
        gaps.append(max(float((moved[k] + eps * total[k]).abs().max()) for k in total))
    assert 0 < gaps[0] < 1e-9
    assert gaps[1] < 0.02 * gaps[0]


def test_t20_with_frozen_weights_the_steps_add_up() -> None:
    """T-20: per-step gradients, collected while nothing is updated, sum to the accumulated gradient."""
    net, (x, y) = tiny([10, 8]), batch()
    total = teach(net, EXACT, x, y).grads
    rule, sink, steps = bound(EXACT, net, x), GradSink(net), []

    def collect() -> None:
        net.zero_grad()
        sink.flush()
        steps.append({k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None})

    run_sequence(net, rule, OBJECTIVE, Frames(x), y, sink, draws=KeyedDraws(0), after_step=collect)
    assert len(steps) == STEPS
    assert_close({k: torch.stack([step[k] for step in steps]).sum(0) for k in total}, total)


@pytest.mark.parametrize("rule", ["ottt", "sltt", "opzo", "bptt"])
def test_t21_memory_at_fixed_chunk(rule: str) -> None:
    """T-21: held bytes equal for T = 8 and 128 in chunks of 4 (OTTT, SLTT, OPZO); for BPTT the ratio is about 16."""
    few, many = held_by({"name": rule}, "mlp", 8), held_by({"name": rule}, "mlp", 128)  # chunks of 4
    if rule == "bptt":
        assert 12 < many / few < 20
    else:
        assert many == few


def subset_draws(chosen: tuple[int, ...]) -> RecordedDraws:
    """Draws that choose exactly these steps."""
    scores = torch.ones(STEPS, 1, dtype=torch.float64)
    scores[list(chosen)] = 0
    return RecordedDraws({("subset", ""): scores})


def sltt_k(k: int, **options: object) -> dict:
    return {"name": "sltt-k", "temporal": {"k": k, **options}}


def test_t23_k_equal_to_t_is_sltt() -> None:
    """T-23: K = T is SLTT bit for bit."""
    net, (x, y) = tiny([10, 8]), batch()
    assert same_bits(teach(net, sltt_k(STEPS), x, y).grads, teach(net, "sltt", x, y).grads)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_t23_the_average_over_all_subsets_is_k_over_t_of_sltt(k: int) -> None:
    """T-23: the mean over all C(T, K) subsets = K/T SLTT, or SLTT itself when rescaled."""
    net, (x, y) = tiny([10, 8]), batch()
    run = dense.forward(as_dense(net), x)
    e = dense.errors(run, y)
    full = teach(net, "sltt", x, y).grads
    for options, factor in (({}, k / STEPS), ({"rescale": True}, 1.0)):
        rule, runs = bound(sltt_k(k, **options), net, x), []
        for chosen in combinations(range(STEPS), k):
            runs.append(teach(net, rule, x, y, draws=subset_draws(chosen), chunk=4).grads)
            if not options:
                assert_close(runs[-1], named(net, dense.sltt(as_dense(net), run, e, list(chosen))))
        mean = {name: torch.stack([grads[name] for grads in runs]).mean(0) for name in full}
        assert_close(mean, {name: factor * grad for name, grad in full.items()})


@pytest.mark.parametrize("k", [1, 3, STEPS])
@pytest.mark.parametrize("chunk", [1, 4, STEPS])
def test_t23_exactly_k_steps_take_part_and_states_are_those_of_sltt(k: int, chunk: int) -> None:
    """T-23: exactly K steps take part in credit; all steps advance the membranes."""
    net, (x, y) = tiny([10, 8]), batch()
    few, all_ = teach(net, sltt_k(k), x, y, chunk=chunk), teach(net, "sltt", x, y, chunk=chunk)
    for node in net.synapses:
        assert len(few.posts(node.name)) == k
    assert torch.equal(few.outs, all_.outs)
    for name, state in all_.states.items():
        assert all(torch.equal(a, b) for a, b in zip(few.states[name], state, strict=True))


def test_t23_subsets_are_drawn_anew_and_uniformly() -> None:
    """T-23: each step is chosen K/T of the time; the same mini-batch always gets the same subset."""
    draws = KeyedDraws(5)
    subsets = [draws.subset(Key("subset", "", n), STEPS, 2) for n in range(1000)]
    assert draws.subset(Key("subset", "", 7), STEPS, 2) == subsets[7]
    assert all(len(set(subset)) == 2 for subset in subsets)
    counts = torch.bincount(torch.tensor(subsets).flatten(), minlength=STEPS) / 1000
    assert (counts - 2 / STEPS).abs().max() < 0.05
    assert len({tuple(sorted(subset)) for subset in subsets}) == 15


def loop(seed: int = 1, *, zero: bool = False) -> Network:
    net = make("feedback", seed=seed)
    if zero:
        for p in net.get_submodule("0.back").parameters():
            p.data.zero_()
    return net


def test_t24_a_feedback_of_zeros_changes_nothing() -> None:
    """T-24: zero-initialised feedback weights leave the outputs of the feed-forward network."""
    net, (x, _) = loop(zero=True), data("feedback")
    parts = [net.get_submodule(name) for name in ("0.entry", "0.body", "1")]
    assert torch.equal(net(x), Network(nn.Sequential(*parts))(x))


def test_t24_the_feedback_weight_learns_from_the_trace_of_the_step_before() -> None:
    """T-24: no deposit at t = 1; at t >= 2 the gradient is delta^1[t] a^{N-1}[t-1]^T."""
    net, (x, y) = loop(), data("feedback")
    taught = teach(net, "ottt", x, y)
    spikes = torch.cat([record.firings[net.neurons[-1].index].out for record in taught.records])
    pre, post = taught.pres("0.back"), taught.posts("0.back")
    assert len(pre) == len(post) == STEPS - 1
    assert relative(pre, traced(spikes, 0.5)[:-1]) < 1e-10
    assert torch.equal(post, taught.posts("0.entry")[1:])
    assert relative(taught.grads["0.back.weight"], torch.einsum("tbj,tbi->ji", post, pre)) < 1e-10


def test_t24_no_gradient_reaches_the_last_layer_through_feedback() -> None:
    """T-24: the post of layer N - 1 is slope times readout credit of the same step, whatever the feedback weights."""
    net, (x, y) = loop(), data("feedback")
    taught = teach(net, "sltt", x, y)
    slopes = torch.cat([record.firings[net.neurons[-1].index].slope for record in taught.records])
    expected = slopes * (taught.posts("1") @ net.get_parameter("1.weight").detach())
    assert relative(taught.posts("0.body.1"), expected) < 1e-10


def test_t24_in_exact_fidelity_feedback_that_carries_no_gradient_is_exact() -> None:
    """T-24: zero feedback weights let no gradient through, so OTTT = BPTT for their weight and bias alike."""
    torch.manual_seed(3)
    layers = [Recurrent(nn.Linear(12, 10), LIF(), nn.Linear(10, 10)), nn.Linear(10, CLASSES)]
    net, (x, y) = Network(nn.Sequential(*layers)).double(), batch()
    with torch.no_grad():
        net.get_parameter("0.synapse.weight").mul_(3)
        net.get_parameter("0.recurrent.weight").zero_()
    assert_close(teach(net, EXACT, x, y).grads, teach(net, "bptt", x, y).grads)


def test_t24_vgg_f_starts_as_vgg_and_its_feedback_learns() -> None:
    """T-24 for OTTT's VGG-F, narrow: the output of VGG with the same weights, and a gradient for the feedback."""
    narrow = {"width": 0.125}
    fed, vgg = (
        models.build({"name": name, **narrow}, (2, 8, 8), CLASSES, lambda: neurons.build("lif")).double()
        for name in ("vgg-f", "vgg")
    )
    shared = {k: v for k, v in fed.state_dict().items() if not k.startswith("loop.back")}
    vgg.load_state_dict({k.replace("loop.entry", "conv1").replace("loop.body.", ""): v for k, v in shared.items()})
    for name, parameter in (*fed.named_parameters(), *vgg.named_parameters()):
        parameter.data.mul_(2.5 if name.endswith("gain") else 1.0)
    x, y = torch.rand(4, 2, 2, 8, 8, dtype=torch.float64) * 3, torch.tensor([0, 3])
    assert relative(fed(x), vgg(x)) < 1e-10
    taught = teach(fed, "ottt", x, y)
    assert len(taught.posts("loop.back.1")) == 3
    assert taught.grads["loop.back.1.weight"].abs().max() > 0
