"""What cannot work is refused early, in words: what came, what was expected, how to mend it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward.core import Delay, Frames, GradSink, KeyedDraws, Network, evaluate, run_sequence
from onward.core.errors import (
    ConfigError,
    NonFiniteError,
    NotBound,
    OnwardError,
    ShapeError,
    TopologyMismatch,
    UnsupportedModule,
)
from onward.neurons import LIF
from onward.rules import rules
from onward.testing.harness import OBJECTIVE, bound, teach
from onward.testing.zoo import ZOO, data, make

each_rule = pytest.mark.parametrize("rule", ["bptt", "ottt", "sltt", "dfa", "opzo"])


@each_rule
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(6, 4, 13), r"0 \(Linear\) cannot take an input of shape \[4, 13\]"),
        (torch.zeros(6, 4, 2, 5), r"0 \(Linear\) cannot take an input of shape \[4, 2, 5\]"),
        (
            torch.zeros(6, 4, 12),
            r"shape \[4, 12\] \(batch first\) and dtype torch.float32: its weights are torch.float64",
        ),
    ],
)
def test_a_sample_that_the_network_cannot_take_is_refused_at_bind(rule: str, x: Tensor, message: str) -> None:
    x = x if x.shape[-1] == 12 else x.double()
    with pytest.raises(ShapeError, match=message):
        bound(rule, make("mlp"), x)


def test_images_of_the_wrong_rank_or_channels_are_refused() -> None:
    for shape in ((3, 6, 6), (6, 6), (72,)):
        with pytest.raises(ShapeError, match=r"0 \(Conv2d\) cannot take"):
            bound("ottt", make("conv"), torch.zeros(6, 4, *shape, dtype=torch.float64))


def test_calls_and_evaluation_are_checked_like_training() -> None:
    with pytest.raises(ShapeError, match=r"0 \(Linear\) cannot take an input of shape \[4, 13\]"):
        make("mlp")(torch.zeros(6, 4, 13, dtype=torch.float64))
    with pytest.raises(ShapeError, match="sequence of 0 time steps"):
        make("mlp")(torch.zeros(0, 4, 12, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"cannot take an input of shape \[4, 13\]"):
        evaluate(make("mlp"), OBJECTIVE, Frames(torch.zeros(6, 4, 13).double()), torch.zeros(4, dtype=torch.int64))


def test_a_plain_tensor_is_no_sequence() -> None:
    net, (x, y) = make("mlp"), data("mlp")
    rule = rules.build("sltt")
    with pytest.raises(ShapeError, match=r"a Tensor was given as input; expected a sequence: onward.Static"):
        rule.bind(net, OBJECTIVE, x, KeyedDraws(0))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="expected a sequence"):
        evaluate(net, OBJECTIVE, x, y)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="expected a sequence"):
        run_sequence(net, bound("sltt", net, x), OBJECTIVE, x, y, GradSink(net), draws=KeyedDraws(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "module", [nn.LSTM(4, 4), nn.GRUCell(4, 4), nn.MultiheadAttention(4, 2)], ids=lambda m: type(m).__name__
)
def test_modules_that_are_more_than_one_map_are_refused(module: nn.Module) -> None:
    with pytest.raises(UnsupportedModule, match=rf"2 is {type(module).__name__}, which is more than one map"):
        Network(nn.Sequential(nn.Linear(4, 4), LIF(), module))


@each_rule
def test_other_features_than_those_bound(rule: str) -> None:
    net, (x, y) = make("mlp"), data("mlp")
    built = bound(rule, net, x)
    with pytest.raises(ShapeError, match=r"features \[13\] were given; the rule was bound to \[12\]"):
        teach(net, built, torch.zeros(6, 4, 13, dtype=torch.float64), y)


def test_ids_that_do_not_fit_the_batch() -> None:
    with pytest.raises(ShapeError, match=r"sample ids of shape \[1\] were given for a batch of 4"):
        teach(make("mlp"), "opzo", *data("mlp"), ids=torch.arange(1))


@each_rule
def test_a_rule_must_be_bound_to_this_network(rule: str) -> None:
    net, (x, y) = make("mlp"), data("mlp")
    for built in (rules.build(rule), bound(rule, make("mlp"), x)):
        with pytest.raises(NotBound, match=r"not bound to this network; call rule\.bind"):
            run_sequence(net, built, OBJECTIVE, Frames(x), y, GradSink(net), draws=KeyedDraws(0))


def test_more_chosen_steps_than_there_are() -> None:
    rule = {"name": "sltt-k", "temporal": {"k": 7}}
    with pytest.raises(TopologyMismatch, match=r"K = 7 of T = 6 steps; expected 1 <= K <= T"):
        bound(rule, make("mlp"), data("mlp")[0])


def test_a_chunk_of_nothing() -> None:
    with pytest.raises(TopologyMismatch, match="a chunk of 0 steps was given; expected at least 1"):
        teach(make("mlp"), "ottt", *data("mlp"), chunk=0)


@each_rule
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_data_that_is_not_finite_names_layer_and_step(rule: str, value: float) -> None:
    net, (x, y) = make("mlp"), data("mlp")
    built = bound(rule, net, x)
    x[3, 2, 5] = value
    for chunk in (1, 4, 6):
        with pytest.raises(NonFiniteError, match="layer 1 at time step 3") as caught:
            teach(net, built, x, y, chunk=chunk)
        assert caught.value.step == 3
    with pytest.raises(NonFiniteError, match="layer 1 at time step 3"):
        evaluate(net, OBJECTIVE, Frames(x), y, chunk=2)


@each_rule
@pytest.mark.parametrize(
    ("parameter", "where"), [("0.weight", "layer 1"), ("2.bias", "layer 3"), ("4.weight", "the output")]
)
def test_parameters_that_are_not_finite_name_the_layer(rule: str, parameter: str, where: str) -> None:
    net, (x, y) = make("mlp"), data("mlp")
    built = bound(rule, net, x)
    with torch.no_grad():
        net.get_parameter(parameter).view(-1)[0] = float("nan")
    with pytest.raises(NonFiniteError, match=where) as caught:
        teach(net, built, x, y)
    assert caught.value.step == 0


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("delayed-layer", "dropout")])
def test_no_topology_hides_a_nan(name: str) -> None:
    net, (x, y) = make(name), data(name)
    built = bound("ottt", net, x)
    x[2].view(-1)[0] = float("nan")
    with pytest.raises(NonFiniteError) as caught:
        teach(net, built, x, y)
    assert caught.value.step == (4 if name == "delayed-input" else 2)


def test_delays_on_the_only_way() -> None:
    late_drive = Network(nn.Sequential(nn.Linear(12, 10), Delay(1), LIF(), nn.Linear(10, 5))).double()
    late_readout = Network(nn.Sequential(nn.Linear(12, 10), LIF(), Delay(1), nn.Linear(10, 5))).double()
    x, y = data("mlp")
    for rule in ("ottt", "sltt", "dfa", "opzo"):
        with pytest.raises(TopologyMismatch, match=r"the drive of 0 passes a delay.*put the Delay before the synapse"):
            bound(rule, late_drive, x)
    for rule in ("ottt", "sltt", "fa"):
        with pytest.raises(TopologyMismatch, match=r"every way from 1 to the output passes a delay.*direct feedback"):
            bound(rule, late_readout, x)
    for rule in ("dfa", "opzo", "bptt"):
        assert teach(late_readout, rule, x, y).grads
    assert teach(late_drive, "bptt", x, y).grads


def test_outputs_that_are_not_one_number_a_class() -> None:
    net = Network(nn.Sequential(nn.Conv2d(2, 4, 3), LIF(), nn.Conv2d(4, 5, 3))).double()
    x, y = data("conv")
    with pytest.raises(TopologyMismatch, match=r"output has features \[5, 2, 2\].*nn.Flatten\(\) and a linear readout"):
        bound("ottt", net, x)
    with pytest.raises(ShapeError, match=r"expected \[time, batch, classes\]"):
        teach(net, "bptt", x, y)


def test_statistics_over_the_sequence_need_the_sequence_in_one_chunk() -> None:
    rule, (x, y) = {"name": "ottt", "norm_over": "sequence"}, data("batchnorm")
    assert teach(make("batchnorm"), rule, x, y, chunk=6).grads
    with pytest.raises(
        TopologyMismatch, match="needs all 6 steps in one chunk, which holds 3; set norm_over to 'step'"
    ):
        teach(make("batchnorm"), rule, x, y, chunk=3)


def test_noise_that_would_enter_a_normalisation() -> None:
    layers = [nn.Linear(12, 10), LIF(), nn.BatchNorm1d(10), nn.Linear(10, 5)]
    net, (x, y) = Network(nn.Sequential(*layers)).double(), data("mlp")
    with pytest.raises(TopologyMismatch, match=r"2 normalises a signal that carries injected noise.*position 'before'"):
        bound("opzo", net, x)
    for rule in ({"name": "opzo", "spatial": {"position": "before"}}, "ottt", "dfa"):
        assert teach(net, rule, x, y).grads


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])), "a container the network cannot look into"),
        (nn.Sequential(nn.TransformerEncoderLayer(4, 2)), r"nn.Sequential, Residual, Joined, Recurrent or Feedback"),
    ],
)
def test_modules_that_cannot_stand_in_a_network(module: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModule, match=message):
        Network(module)


def test_a_delay_of_nothing() -> None:
    with pytest.raises(TopologyMismatch, match="a delay of 0 steps was given; expected at least 1"):
        Delay(0)


def test_one_root_catches_all() -> None:
    kinds = (NonFiniteError, NotBound, ShapeError, TopologyMismatch, UnsupportedModule)
    assert all(issubclass(kind, OnwardError) for kind in kinds)


def test_late_errors_and_skipped_steps_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="error_delay 0"):
        rules.build({"name": "sltt-k", "error_delay": 1})
