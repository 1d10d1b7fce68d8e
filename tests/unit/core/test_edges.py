"""Edges of the engine: shared modules, frozen parameters, modes, glue with parameters, noise in half precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from onward import rules
from onward.core import (
    MSE,
    CrossEntropy,
    Frames,
    GradSink,
    KeyedDraws,
    Network,
    PerStep,
    Residual,
    Static,
    evaluate,
    run_sequence,
)
from onward.core.errors import ConfigError, TopologyMismatch, UnsupportedModule
from onward.models import build as build_model
from onward.models.layers import Stack, build_layers
from onward.neurons import LIF, CubaLIF, resets
from onward.neurons import build as build_neuron
from onward.weights import standardize

STEPS, BATCH = 4, 3
SLTT_DFA = {"name": "online", "temporal": "sltt", "spatial": "dfa"}


def taught(net: Network, rule: str | dict, feedback: int | None = None) -> dict[str, Tensor]:
    """Gradients of one sequence; ``feedback`` is a seed for feedback matrices that do not depend on layer names."""
    generator = torch.Generator().manual_seed(3)
    x = Frames(torch.randn(STEPS, BATCH, 5, dtype=torch.float64, generator=generator))
    y, objective, draws = torch.tensor([0, 1, 2]), PerStep(CrossEntropy()), KeyedDraws(0)
    learner, sink = rules.build(rule), GradSink(net)
    learner.bind(net, objective, x, draws)
    if feedback is not None:
        generator.manual_seed(feedback)
        for b in learner.buffers():
            b.normal_(generator=generator)
    net.zero_grad()
    run_sequence(net, learner, objective, x, y, sink, draws=draws)
    sink.flush()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def network(*layers: nn.Module) -> Network:
    """A network in float64 with weights from one seed."""
    torch.manual_seed(1)
    net = Network(nn.Sequential(*layers)).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.6)
    return net


def test_a_neuron_that_stands_in_two_places_fires_twice_with_two_membranes() -> None:
    """Sharing the module of a stateless description changes no number."""

    def grads(first: nn.Module, second: nn.Module) -> dict[str, Tensor]:
        return taught(network(nn.Linear(5, 6), first, nn.Linear(6, 6), second, nn.Linear(6, 3)), "ottt")

    lif = LIF()
    shared, apart = grads(lif, lif), grads(LIF(), LIF())
    assert shared.keys() == apart.keys()
    assert all(torch.equal(shared[name], apart[name]) for name in apart)


@pytest.mark.parametrize("rule", ["bptt", "sltt"])
def test_tied_weights_and_norms_get_the_sum_of_both_places(rule: str) -> None:
    """A module used twice learns what its two copies learn together."""

    copies = [nn.Linear(5, 5), nn.Linear(5, 5), nn.LayerNorm(5), nn.LayerNorm(5)]
    fc, norm = nn.Linear(5, 5), nn.LayerNorm(5)
    tied = network(fc, norm, LIF(), fc, norm, LIF(), nn.Linear(5, 3))
    apart = network(copies[0], copies[2], LIF(), copies[1], copies[3], LIF(), nn.Linear(5, 3))
    apart.load_state_dict(tied.state_dict())
    one, two = taught(tied, rule), taught(apart, rule)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        twin = f"{int(name[0]) + 3}{name[1:]}"
        torch.testing.assert_close(one[name], two[name] + two[twin], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", ["bptt", "ottt", "dfa", "opzo"])
def test_frozen_glue_and_thresholds_stay_out_of_it(rule: str) -> None:
    """requires_grad=False on a norm or a threshold leaves no gradient there, and the others' as they were."""
    net = network(nn.Linear(5, 6), nn.LayerNorm(6), LIF(learn_threshold=True), nn.Linear(6, 3))
    nn.init.ones_(net.get_parameter("2.threshold"))
    free = taught(net, rule)
    assert {"1.weight", "2.threshold"} <= free.keys()
    for name in ("0.bias", "1.weight", "2.threshold"):
        net.get_parameter(name).requires_grad_(False)
    frozen = taught(net, rule)
    assert frozen.keys() == free.keys() - {"0.bias", "1.weight", "2.threshold"}
    assert all(torch.equal(frozen[name], free[name]) for name in frozen)


def test_evaluation_and_binding_leave_every_module_in_its_mode() -> None:
    """A normalisation frozen by `.eval()` stays frozen."""
    net = network(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), LIF(), nn.Linear(6, 3))
    norm, dropout = net.get_submodule("1"), net.get_submodule("2")
    norm.eval()
    dropout.eval()
    before = norm.get_buffer("running_mean").clone()
    first = taught(net, "sltt")
    evaluate(net, PerStep(CrossEntropy()), Static(torch.ones(BATCH, 5).double(), 2), torch.zeros(BATCH).long())
    assert [module.training for module in (net, norm, dropout)] == [True, False, False]
    assert torch.equal(norm.get_buffer("running_mean"), before)
    assert torch.equal(taught(net, "sltt")["0.weight"], first["0.weight"])
    net.get_submodule("2").train()
    assert not torch.equal(taught(net, "sltt")["0.weight"], first["0.weight"])


def test_direct_feedback_reaches_a_drive_through_the_next_neuron_of_its_stream() -> None:
    """In an MS-ResNet a drive feeds the next neuron and, by the shortcut, a later one: only the next hands it credit.

    Fed through two drives of equal weights instead of one, the one learns what the first of the two learns.
    """
    first, shortcut, inner, readout = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
    joined = network(first, Residual(nn.Sequential(LIF(), inner)), LIF(), readout)
    shortcut.load_state_dict(first.state_dict())
    apart = Network(nn.Sequential(Residual(nn.Sequential(first, LIF(), inner), shortcut.double()), LIF(), readout))
    one, two = taught(joined, SLTT_DFA, feedback=7), taught(apart, SLTT_DFA, feedback=7)
    torch.testing.assert_close(one["0.weight"], two["0.body.0.weight"])
    assert two["0.shortcut.weight"].abs().max() > 0


@pytest.mark.parametrize("norm", [nn.RMSNorm(6), nn.InstanceNorm1d(6, affine=True), nn.GroupNorm(2, 6)])
def test_norms_with_parameters_are_glue(norm: nn.Module) -> None:
    """They have no drive and no trace; their gains learn by the local graph, like a `LayerNorm`'s."""
    net = Network(nn.Sequential(nn.Linear(5, 6), norm, LIF()))
    assert [str(node) for node in net.synapses] == ["0"]
    assert [str(node) for node in net.fitted_glue] == ["1"]


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: Network(nn.Sequential(nn.Linear(2, 2), nn.AlphaDropout(0.1))), UnsupportedModule, "use nn.Dropout"),
        (lambda: Network(_named("hidden")), UnsupportedModule, "'hidden', which a Network uses itself"),
        (lambda: Network(_named("output")), UnsupportedModule, "'output', which a Network uses itself"),
        (lambda: standardize(nn.Linear(1, 4)), ConfigError, r"\[4, 1\] cannot be standardised"),
        (lambda: resets.build("delayed", 0.0, 1.0), ConfigError, "neuron without memory"),
        (lambda: build_neuron({"name": "lif", "tau": 1.0, "reset": "delayed"}), ConfigError, "use reset 'soft'"),
        (lambda: CubaLIF(LIF(), current_decay=1.5), ConfigError, r"leak of 1\.5 per step was given"),
        (lambda: build_layers("8C3s0-FC", Stack((1, 8, 8), 10, LIF)), ConfigError, "layer 1 of '8C3s0-FC'"),
        (lambda: build_layers("AP0-FC", Stack((1, 8, 8), 10, LIF)), ConfigError, "layer 1 of 'AP0-FC'"),
        (lambda: taught(Network(nn.Sequential(LIF())), "sltt"), TopologyMismatch, "no weights to learn"),
    ],
)
def test_what_cannot_work_is_refused_in_words(build: Callable, kind: type[Exception], message: str) -> None:
    """Each of these failed late, silently, or in torch's words."""
    with pytest.raises(kind, match=message):
        build()


def _named(name: str) -> nn.Sequential:
    body = nn.Sequential()
    body.add_module(name, nn.Linear(2, 2))
    return body


def test_vgg_f_refuses_what_its_upsampling_cannot_serve() -> None:
    """Sequences and odd sides are named in the message."""
    for features in ((2, 64), (2, 20, 24)):
        with pytest.raises(ConfigError, match="sides that divide by 8"):
            build_model({"name": "vgg-f", "width": 0.1}, features, 10, LIF)


def test_feedback_of_half_precision_networks_sums_in_full_precision() -> None:
    """M from a bfloat16 network, step by step, is the sum of what its records say."""
    net = Network(nn.Sequential(nn.Linear(5, 6), LIF(), nn.Linear(6, 3))).to(torch.bfloat16)
    rule, objective, draws = rules.build("opzo"), PerStep(MSE()), KeyedDraws(0)
    x, y, records = Static(torch.randn(BATCH, 5, dtype=torch.bfloat16), 256), torch.tensor([0, 1, 2]), []
    rule.bind(net, objective, x, draws)
    run_sequence(net, rule, objective, x, y, GradSink(net), draws=draws, chunk=1, watch=records.append)
    m = sum(
        0.999 ** (255 - t) * r.noise[2].dense()[0].double().T @ r.out[0].detach().double()
        for t, r in enumerate(records)
    )
    (found,) = [b.mean(0).double() for b in rule.buffers() if b.dim() == 3]
    expected = 0.001 * m / BATCH
    assert (found - expected).norm() < 0.005 * expected.norm()
