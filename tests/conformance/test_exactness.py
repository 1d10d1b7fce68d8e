"""Exactness: rules that equal some gradient, against slow and obvious implementations, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onward.core import Delay, Feedback, Network
from onward.neurons import LIF
from onward.testing.harness import assert_close, relative, teach
from onward.testing.zoo import CLASSES, data, make
from reference import dense, plain
from reference.tiny import as_dense, batch, body, named, sequence_loss, step_loss, tiny


@pytest.mark.parametrize("hidden", [[10], [10, 8], [9, 8, 7]], ids=str)
@pytest.mark.parametrize("detach", [True, False])
def test_bptt_equals_the_written_out_recursion(hidden: list[int], detach: bool) -> None:
    net, (x, y) = tiny(hidden, detach=detach), batch()
    run = dense.forward(as_dense(net), x)
    expected = dense.bptt(as_dense(net), run, dense.errors(run, y), reset_in_graph=not detach)
    taught = teach(net, "bptt", x, y)
    assert relative(taught.outs, torch.stack(run.o)) < 1e-10
    assert_close(taught.grads, named(net, expected))


@pytest.mark.parametrize("hidden", [[10], [10, 8], [9, 8, 7]], ids=str)
@pytest.mark.parametrize("fidelity", ["exact", "reference"])
def test_ottt_and_sltt_equal_the_loops(hidden: list[int], fidelity: str) -> None:
    net, (x, y) = tiny(hidden), batch()
    run = dense.forward(as_dense(net), x)
    e = dense.errors(run, y)
    rule = {"name": "online", "temporal": {"name": "ottt", "fidelity": fidelity}}
    assert_close(teach(net, rule, x, y).grads, named(net, dense.ottt(as_dense(net), run, e, exact=fidelity == "exact")))
    assert_close(teach(net, "sltt", x, y).grads, named(net, dense.sltt(as_dense(net), run, e)))


PLAIN = [
    "conv",
    "standardized",
    "binary",
    "shifted",
    "spike-residual",
    "drive-residual",
    "projected-residual",
    "recurrent",
    "feedback",
    "batchnorm",
    "leaky-readout",
    "spiking-output",
    "delayed-input",
    "delayed-layer",
    "transposed",
    "series",
    "attention",
    "gated",
    "if",
    "cuba-lif",
    "adaptive-lif",
    "hard-reset",
    "learned-threshold",
    "all-knobs",
]


@pytest.mark.parametrize("name", PLAIN)
def test_bptt_equals_autograd_through_the_unrolled_network(name: str) -> None:
    x, y = data(name)
    taught = teach(make(name), "bptt", x, y)
    assert_close(taught.grads, plain.bptt(body(name), x, sequence_loss(y)))


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "delayed-layer"])
def test_sltt_equals_autograd_with_memories_detached(name: str) -> None:
    """T-12 beyond the tiny net: SLTT is autograd with everything that crosses time detached at every step."""
    x, y = data(name)
    assert_close(teach(make(name), "sltt", x, y).grads, plain.sltt(body(name), x, step_loss(y)))


OPEN = ["conv", "standardized", "binary", "spike-residual", "drive-residual", "transposed", "attention", "gated", "if"]


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("fidelity", ["exact", "reference"])
def test_ottt_equals_instantaneous_credit_times_explicit_traces(name: str, fidelity: str) -> None:
    (x, y), net = data(name), make(name)
    lam = 1.0 if name == "if" else 0.5
    first, readout = net.synapses[0].name, net.synapses[-1].name
    decay = {node.name: lam for node in net.synapses}
    decay[readout if fidelity == "exact" else first] = 0.0
    biases = {node.name: lam if fidelity == "exact" and node.name != readout else 0.0 for node in net.synapses}
    expected = plain.ottt(body(name), x, step_loss(y), decay, biases)
    rule = {"name": "online", "temporal": {"name": "ottt", "fidelity": fidelity}}
    assert_close(teach(net, rule, x, y).grads, expected)


def test_delays_inside_a_feedback_path_add_up() -> None:
    """A feedback of two steps is a cycle's own step and a Delay; BPTT agrees with the plain simulation."""
    torch.manual_seed(4)
    back = nn.Sequential(Delay(1), nn.Linear(8, 10))
    loop_ = Feedback(nn.Linear(12, 10), nn.Sequential(LIF(), nn.Linear(10, 8), LIF()), back)
    layers = nn.Sequential(loop_, nn.Linear(8, CLASSES)).double()
    for p in layers.parameters():
        p.data.mul_(2.5)
    x, y = batch()
    assert_close(teach(Network(layers), "bptt", x, y).grads, plain.bptt(layers, x, sequence_loss(y)))


@pytest.mark.parametrize("rule", ["ottt", "sltt", "bptt"])
def test_one_sample_and_one_step_are_enough(rule: str) -> None:
    net, (x, y) = tiny([10]), batch(1, 1)
    run = dense.forward(as_dense(net), x)
    assert_close(teach(net, rule, x, y).grads, named(net, dense.sltt(as_dense(net), run, dense.errors(run, y))))
