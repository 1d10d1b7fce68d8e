"""Networks with feedback: their layers, sizes and initial weights, and what they refuse."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn

from onward import KeyedDraws, Network, Static, rules, run_sequence
from onward.core import CrossEntropy, GradSink, PerStep
from onward.core.errors import ConfigError
from onward.core.interpret import shapes
from onward.models import models
from onward.neurons import IF
from onward.train.grammar import parse_tokens


def build(features: tuple[int, ...] = (1, 28, 28), name: str = "feedback", classes: int = 10, **options) -> Network:
    torch.manual_seed(0)
    return models.build({"name": name, **options}, features, classes, IF)


def maps(net: Network, features: tuple[int, ...]) -> list[list[int]]:
    """The shape of every spiking layer."""
    found = shapes(net, Static(torch.zeros(1, *features), 1), KeyedDraws(0))
    return [list(found[node.index]) for node in net.neurons]


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "neurons"),
    [
        ("alexnet-f", 10, 3.71, 158_720),
        ("alexnet-f", 100, 5.18, None),
        ("cifarnet-f", 10, 11.84, 232_448),
        ("cifarnet-f", 100, 14.79, None),
    ],
)
def test_i13_counts_of_parameters_and_neurons(name: str, classes: int, parameters: float, neurons: int | None) -> None:
    """I13: the counts of section 2.9, neurons with the input."""
    net = build((3, 32, 32), name, classes, restriction="none")
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == parameters
    if neurons is not None:
        assert 3 * 32 * 32 + sum(prod(shape) for shape in maps(net, (3, 32, 32))) == neurons


def test_the_default_is_the_network_of_mnist() -> None:
    net = build()
    assert [node.name for node in net.nodes] == [
        "input",
        "loop.entry.conv1",
        "loop.entry.norm1",
        "loop.entry.dropout1",
        "loop.delay",
        "loop.back.conv1",
        "loop.back.dropout1",
        "loop.add",
        "loop.body.neuron1",
        "flatten",
        "readout",
    ]
    assert maps(net, (1, 28, 28)) == [[64, 14, 14]]
    assert net.get_parameter("readout.bias").shape == (10,)


@pytest.mark.parametrize(
    ("features", "options", "expected"),
    [
        ((784,), {"layers": "400", "back": "400"}, [[400]]),
        ((2, 34, 34), {"layers": "8C5s2p1", "back": "8C5"}, [[8, 16, 16]]),
        ((2, 48, 48), {"layers": "8C9s2", "back": "8C5"}, [[8, 24, 24]]),
        ((1, 28, 28), {"layers": "4C5s2-4C5s2-4C5", "back": "4T3s2"}, [[4, 14, 14], [4, 7, 7], [4, 7, 7]]),
        ((1, 28, 28), {"layers": "4C5-AP2-SN-6C5-AP2-SN-30d0.5", "back": "none"},
         [[4, 28, 28], [4, 14, 14], [6, 14, 14], [6, 7, 7], [30]]),
        ((1, 16, 16), {"layers": "4C3s2-AP2", "back": "4C3"}, [[4, 8, 8]]),
    ],
    ids=str,
)  # fmt: skip
def test_published_layers_have_their_shapes(features: tuple, options: dict, expected: list) -> None:
    net = build(features, **options)
    assert maps(net, features) == expected
    assert net.cyclic is (options["back"] != "none")
    assert net(torch.rand(3, 2, *features)).shape == (3, 2, 10)


def test_the_first_layer_hears_the_last_one_a_step_late_and_the_others_at_once() -> None:
    net = build((2,), layers="1-1", back="1", norm="none", dropout=0.0, restriction="none")
    with torch.no_grad():
        for name, value in {"entry.fc1": 1.0, "body.fc2": 1.0, "back.fc1": 1.0}.items():
            net.get_parameter(f"loop.{name}.weight").fill_(value)
    net.get_parameter("readout.weight").data.fill_(1.0)
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])[:, None]
    assert net(x)[..., 0].flatten().tolist() == [1.0, 1.0, 1.0], "one spike goes round for ever, once a step"


def filters(net: Network) -> dict[str, torch.Tensor]:
    """The lengths of the filters of every output, by synapse."""
    lengths = {}
    for node in net.synapses:
        weight = node.module.get_parameter("weight").detach()
        if isinstance(node.module, nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)
        lengths[node.name] = weight.flatten(1).norm(dim=1)
    return lengths


def test_filters_start_with_length_one_and_biases_at_zero() -> None:
    net = build(layers="4C5s2-6C3s2", back="4T3s2", restriction="none")
    found = filters(net)
    assert len(found) == 4
    for lengths in found.values():
        assert torch.allclose(lengths, torch.ones_like(lengths))
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    assert all((bias == 0).all() for bias in biases)


def test_kaiming_starts_by_fan_in_and_feedback_may_start_small() -> None:
    net = build(layers="64C5s2-64C5s2", back="64T3s2", init="kaiming", back_scale=0.1, restriction="none")
    deviation = {node.name: float(node.module.get_parameter("weight").detach().std()) for node in net.synapses}
    assert deviation["loop.body.conv2"] == pytest.approx((2 / (64 * 25)) ** 0.5, rel=0.02)
    assert deviation["loop.back.conv1"] == pytest.approx(0.1 * (2 / (64 * 9)) ** 0.5, rel=0.02)
    assert deviation["readout"] == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.02)


def test_biases_norm_and_dropout_are_options_of_all_layers_but_the_feedback() -> None:
    plain = build(layers="4C5s2-6C3s2", back="4T3s2", norm="none", bias=False, dropout=0.0, restriction="none")
    assert [name for name, _ in plain.named_parameters()] == [
        "loop.entry.conv1.weight",
        "loop.body.conv2.weight",
        "loop.back.conv1.weight",
        "readout.weight",
        "readout.bias",
    ]
    full = build(layers="4C5s2-6C3s2d0.7", back="4T3s2d0.4", bias=True)
    kinds = [type(module).__name__ for module in full.modules()]
    assert kinds.count("BatchNorm2d") == 2
    assert [module.p for module in full.modules() if isinstance(module, nn.Dropout)] == [0.2, 0.7, 0.4]
    assert "loop.back.conv1.bias" not in full.state_dict()


def test_width_scales_filters_and_leaves_units_alone() -> None:
    net = build(layers="64C5s2-32C3-50", back="none", width=0.25)
    assert maps(net, (1, 28, 28)) == [[16, 14, 14], [8, 14, 14], [50]]
    narrow = build((3, 32, 32), "cifarnet-f", width=0.02)
    assert maps(narrow, (3, 32, 32)) == [[3, 16, 16], [5, 16, 16], [10, 8, 8], [20, 8, 8], [10, 8, 8]]


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ((784,), {}, r"64C5s2 is a convolution .* --model.layers 400 --model.back 400"),
        ((784,), {"name": "alexnet-f"}, r"features \[784\]; .* --model feedback --model.layers 400"),
        ((784,), {"layers": "300"}, r"feedback 64C5 is a convolution, .* shape \[300\]; use --model.back 300"),
        ((1, 28, 28), {"back": "32C5"}, r"makes \[32, 14, 14\] of .*\[64, 14, 14\], and the first has \[64, 14, 14\]"),
        ((3, 34, 34), {"name": "alexnet-f", "width": 0.1}, r"sides of the input that divide by them"),
        ((1, 28, 28), {"back": "64C5-64C5"}, "'64C5-64C5' is not one layer; expected 64C5"),
        ((1, 28, 28), {"back": "AP2"}, "'AP2' is not one layer"),
        ((1, 28, 28), {"back": "64X5"}, "'64X5'; expected 64C3"),
        ((1, 28, 28), {"layers": "AP2"}, "'AP2' has no spiking layer"),
        ((1, 28, 28), {"layers": "64C5s2-FC"}, "FC is the readout"),
        ((1, 28, 28), {"layers": "64C9p0-64C21p0"}, r"makes sides \[0, 0\] of features \[64, 20, 20\]"),
        ((1, 28, 28), {"readout_tau": 2.0, "spiking_readout": True}, "a readout leaks or fires"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_words(features: tuple, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(features, **options)


@pytest.mark.parametrize("rule", ["bptt", "ottt"])
@pytest.mark.parametrize("options", [{"layers": "4C5s2-6C3s2", "back": "4T3s2"}, {"layers": "4C5s2", "back": "4C5"}])
def test_other_rules_train_it_too(rule: str, options: dict) -> None:
    net = build((1, 12, 12), classes=3, **options)
    x, y, draws, sink = Static(torch.rand(2, 1, 12, 12), 4), torch.tensor([0, 2]), KeyedDraws(0), GradSink(net)
    taught, objective = rules.build(rule), PerStep(CrossEntropy())
    taught.bind(net, objective, x, draws)
    assert run_sequence(net, taught, objective, x, y, sink, draws=draws).loss.isfinite()
    sink.flush()
    assert all(p.grad is not None for p in net.parameters())


def test_the_command_line_takes_layers_as_text() -> None:
    config = parse_tokens(
        ["--model", "feedback", "--model.layers", "400", "--model.back", "400", "--model.norm", "none"]
    )
    net = models.build(config.model, (784,), 10, IF)
    assert maps(net, (784,)) == [[400]]
