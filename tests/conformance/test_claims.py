"""Traits are claims; here each is put to the test, for every rule and a representative part of the grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.test_rules import CELLS, RULES, pairs_of
from onward.core import LearningRule, Network
from onward.core.synapse import ConvOps, LinearOps, VjpOps, effective
from onward.rules import rules
from onward.testing import checks
from onward.testing.harness import (
    ForcedError,
    Taught,
    bound,
    relative,
    same_bits,
    teach,
)
from onward.testing.zoo import BATCH, CLASSES, STEPS, data, label, make

each_cell = pytest.mark.parametrize("rule", CELLS, ids=label)


def from_loss(rule: dict) -> bool:
    """Whether weights are tried out, and no synapse is told an error."""
    return rules.build(rule).traits.from_loss


def is_local(rule: dict) -> bool:
    """Whether errors come from the output directly, by no way back through the layers, and reach synapses."""
    traits = rules.build(rule).traits
    return traits.backward == "none" and not traits.weight_transport and not traits.from_loss


each_local = pytest.mark.parametrize("rule", [rule for rule in CELLS if is_local(rule)], ids=label)
UNCONNECTED = [rule for rule in CELLS if is_local(rule) and rule.get("local", "none") == "none"]


@pairs_of(CELLS, ["mlp", "conv", "feedback"])
def test_memory_in_the_number_of_steps_is_as_claimed(rule: dict, name: str) -> None:
    checks.memory_as_claimed(rule, name)


@pairs_of(CELLS, ["mlp", "conv", "standardized", "drive-residual", "spiking-output"])
def test_autograd_reaches_no_further_than_claimed(rule: dict, name: str) -> None:
    checks.autograd_as_claimed(rule, name)


@pytest.mark.parametrize("name", ["mlp", "if", "adaptive-lif"])
@pytest.mark.parametrize("rule", UNCONNECTED, ids=label)
def test_without_glue_a_rule_with_backward_none_needs_no_autograd_at_all(
    rule: dict, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = teach(make(name), rule, *data(name)).grads

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("autograd was called")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.func, "vjp", refuse)
    assert same_bits(teach(make(name), rule, *data(name)).grads, expected)


def test_the_guard_notices_a_rule_that_uses_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("autograd was called")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    with pytest.raises(AssertionError, match="autograd was called"):
        teach(make("mlp"), "ottt", *data("mlp"))


class Probed:
    """A rule that has learned for one sequence, to be run again and again from that state under a given error."""

    def __init__(self, rule: dict, name: str):
        self.name, built = name, rules.build(rule)
        steps = 1 if "per" in str(rule) else STEPS
        self.net, (x, self.y) = make(name), data(name)
        self.rule = bound(built, self.net, x)
        teach(self.net, self.rule, x, self.y)
        self.x = x[:steps]
        self.start = {k: v.clone() for k, v in self.rule.state_dict().items()}
        generator = torch.Generator().manual_seed(3)
        self.error = torch.randn(1, BATCH, CLASSES, generator=generator, dtype=torch.float64)

    def run(self, error: Tensor | None = None) -> Taught:
        self.rule.load_state_dict(self.start)
        forced = ForcedError(self.error if error is None else error)
        return teach(self.net, self.rule, self.x, self.y, objective=forced, sequence=1)

    def hidden_posts(self, taught: Taught) -> dict[str, Tensor]:
        """Posts of the synapses that hidden neurons read."""
        hidden = set(self.net.hidden)
        return {node.name: taught.posts(node.name) for node in self.net.synapses if self.net.reader(node) in hidden}

    @property
    def readout(self) -> nn.Module:
        return self.net.synapses[-1].module


@pytest.mark.parametrize("name", ["mlp", "conv", "spike-residual"])
@pytest.mark.parametrize("rule", [r for r in CELLS if "bptt" not in r.values() and not from_loss(r)], ids=label)
def test_errors_pass_through_the_transposed_weights_exactly_where_claimed(rule: dict, name: str) -> None:
    """Under a given error, other magnitudes of the readout's weights (same signs) change no hidden post."""
    probed = Probed(rule, name)
    before = probed.hidden_posts(probed.run())
    with torch.no_grad():
        weight = probed.readout.get_parameter("weight")
        weight.mul_(0.5 + torch.rand_like(weight))
    after = probed.hidden_posts(probed.run())
    assert any(post.abs().max() > 0 for post in before.values())
    assert same_bits(before, after) != probed.rule.traits.weight_transport


@pytest.mark.parametrize("name", ["mlp", "conv", "transposed"])
@pytest.mark.parametrize("rule", [r for r in CELLS if not rules.build(r).traits.weight_transport], ids=label)
def test_without_weight_transport_no_adjoint_of_the_weights_is_ever_taken(
    rule: dict, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adjoint is taken, if at all, of other weights than those of the forward pass."""
    net, used = make(name), []
    for ops in (LinearOps, ConvOps, VjpOps):
        original = ops.transpose

        def watched(self: Any, module: Any, params: Any, post: Any, like: Any, original: Any = original) -> Tensor:
            used.append((module, params["weight"].clone()))
            return original(self, module, params, post, like)

        monkeypatch.setattr(ops, "transpose", watched)
    teach(net, rule, *data(name))
    assert not any(torch.equal(weight, effective(module)["weight"]) for module, weight in used)
    if rules.build(rule).traits.backward == "none":
        assert not used


@each_local
def test_no_update_locking_hidden_posts_ignore_everything_downstream(rule: dict) -> None:
    """T-27 for every rule with backward "none": replace all that lies downstream, the posts stay bit for bit."""
    probed = Probed(rule, "mlp")
    first, *later = probed.net.synapses
    before = probed.run()
    with torch.no_grad():
        for node in later:
            node.module.get_parameter("weight").normal_()
    after = probed.run()
    if "ll-igl" not in str(rule):
        assert torch.equal(before.posts(first.name), after.posts(first.name))
    assert torch.equal(before.pres(first.name), after.pres(first.name))
    assert not torch.equal(before.pres(later[0].name), torch.zeros(()))


@each_local
def test_a_neurons_update_ignores_the_other_neurons_of_its_layer(rule: dict) -> None:
    """Under a given error, the post of a neuron depends on its own weights alone."""
    probed = Probed(rule, "mlp")
    first = probed.net.synapses[0]
    before = probed.run().posts(first.name)
    with torch.no_grad():
        first.module.get_parameter("weight")[1:].normal_()
    after = probed.run().posts(first.name)
    assert torch.equal(before[..., 0], after[..., 0])
    assert not torch.equal(before[..., 1:], after[..., 1:])


@each_local
def test_hidden_posts_are_linear_in_the_error_vector(rule: dict) -> None:
    """All that a hidden layer hears of the loss are the m numbers of e (or, for single-point ZO, one loss)."""
    probed = Probed(rule, "mlp")
    error = probed.error.abs()
    other = 0.3 * error.flip(-1)
    one, two, both = (probed.hidden_posts(probed.run(e)) for e in (error, other, error + other))
    for name in one:
        assert relative(one[name] + two[name], both[name]) < 1e-10


def feedback(rule: LearningRule, index: int) -> Tensor:
    """The matrix ``[n, m]`` from the output to neuron ``index``."""
    value = rule.state_dict()[f"spatial.b{index}_output"]
    return value.mean(0) if value.dim() == 3 else value


def reference_errors(outs: Tensor, y: Tensor) -> Tensor:
    onehot = torch.eye(CLASSES, dtype=outs.dtype)[y]
    return (outs.exp() / outs.exp().sum(-1, keepdim=True) - onehot) / (len(outs) * len(y))


@pytest.mark.parametrize("rule", [{"name": n} for n in ("dfa", "dkp", "opzo", "opzo-gaussian", "zo")], ids=label)
def test_updates_use_only_local_values_and_the_error_vector(rule: dict) -> None:
    """post = psi(u - V) * (M e), pre = trace of the presynaptic spikes, all read off one forward pass."""
    net, (x, y) = make("mlp"), data("mlp")
    built = bound(rule, net, x)
    teach(net, built, x, y)
    matrices = {} if rule["name"] == "zo" else {node.index: feedback(built, node.index) for node in net.hidden}
    taught = teach(net, built, x, y, sequence=1)
    (record,) = taught.records
    e = reference_errors(taught.outs, y)
    losses = -torch.log_softmax(taught.outs, -1)[:, range(BATCH), y] / (STEPS * BATCH)
    for node, synapse in zip(net.hidden, net.synapses, strict=False):
        u, noise = record.firings[node.index].potential, record.noise.get(node.index)
        psi = 4 * torch.sigmoid(4 * (u - 1)) * torch.sigmoid(4 * (1 - u))
        credit = losses[..., None] / 0.2 * noise.dense() if rule["name"] == "zo" else e @ matrices[node.index].T
        assert relative(taught.posts(synapse.name), psi * credit) < 1e-10
        assert credit.abs().max() > 0
    spikes = [x, *(record.firings[node.index].out for node in net.hidden)]
    for source, synapse, decay in zip(spikes, net.synapses, (0.0, 0.5, 0.5), strict=True):
        trace = torch.stack([sum(decay ** (t - k) * source[k] for k in range(t + 1)) for t in range(STEPS)])
        assert relative(taught.pres(synapse.name), trace) < 1e-10
    assert relative(taught.posts(net.synapses[-1].name), e) < 1e-10


def test_rules_have_no_gradient_of_their_own_unless_they_learn_tensors() -> None:
    """Learned tensors of a rule are parameters, the rest are buffers that no optimiser and no gradient sees."""
    for rule in RULES:
        net, (x, y) = make("mlp"), data("mlp")
        built = bound(rule, net, x)
        learned = [name for name, tensor in built.named_parameters() if tensor.requires_grad]
        assert bool(learned) == (rule["name"] == "dkp")
        assert not any(buffer.requires_grad for buffer in built.buffers())
        assert isinstance(net, Network)
        assert set(teach(net, built, x, y).grads) >= {f"rule.{name}" for name in learned}
