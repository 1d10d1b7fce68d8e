"""Pre-activation ResNets and VGG-11: structure and sizes against the text, and that narrow ones run."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from onward import KeyedDraws, Network, Static, rules, run_sequence
from onward.core import CrossEntropy, GradSink, PerStep
from onward.core.errors import ConfigError
from onward.core.graph import Kind
from onward.core.interpret import shapes
from onward.models import models
from onward.neurons import IF


def build(name: str, features: tuple[int, ...], classes: int = 10, **options) -> Network:
    torch.manual_seed(0)
    return models.build({"name": name, **options}, features, classes, IF)


def _conv(inputs: int, outputs: int, kernel: int, bias: bool) -> int:
    return inputs * outputs * kernel**2 + (outputs if bias else 0)


def _preact(inputs: int, classes: int, stem: int, bias: bool, stem_norm: bool, shortcut_norm: bool) -> int:
    """Parameters of a PreAct-ResNet-18, counted from its description."""
    count = _conv(inputs, 64, stem, bias=False) + (2 * 64 if stem_norm else 0)
    before = 64
    for filters in (64, 128, 256, 512):
        for inner in (before, filters):
            count += 2 * inner + _conv(inner, filters, 3, bias) + 2 * filters + _conv(filters, filters, 3, bias)
            if inner != filters:
                count += _conv(inner, filters, 1, bias) + (2 * filters if shortcut_norm else 0)
        before = filters
    return count + 2 * 512 + (512 * classes + classes) + 2 * classes


@pytest.mark.parametrize("classes", [10, 100])
def test_preact_resnet18_has_the_parameters_of_its_description(classes: int) -> None:
    net = build("preact-resnet18", (3, 32, 32), classes)
    expected = _preact(3, classes, 3, bias=True, stem_norm=False, shortcut_norm=False)
    assert sum(p.numel() for p in net.parameters()) == expected
    assert len(net.neurons) == 2 * 8 + 3
    assert len([node for node in net.synapses if isinstance(node.module, nn.Conv2d)]) == 1 + 2 * 8 + 3


def test_the_imagenet_variant_has_the_parameters_of_its_description() -> None:
    net = build("preact-resnet18-imagenet", (3, 224, 224), 1000)
    expected = _preact(3, 1000, 7, bias=False, stem_norm=True, shortcut_norm=True)
    assert sum(p.numel() for p in net.parameters()) == expected


def test_vgg11_has_the_parameters_of_its_description() -> None:
    net = build("vgg11", (2, 48, 48))
    filters = (2, 64, 128, 256, 256, 512, 512, 512, 512)
    convs = sum(_conv(a, b, 3, bias=True) + 2 * b for a, b in pairwise(filters))
    assert sum(p.numel() for p in net.parameters()) == convs + 512 * 49 * 10 + 10 + 2 * 10
    assert [module.p for module in net.modules() if isinstance(module, nn.Dropout)] == [0.1] * 8
    assert float(net.get_parameter("readout.weight").detach().std()) == pytest.approx(0.01, rel=0.02)


def test_the_residual_path_carries_spikes() -> None:
    """What a block adds, and what its shortcut convolution reads, is the output of neurons."""
    net = build("preact-resnet18", (3, 32, 32), width=0.05)
    adds = net.of(Kind.ADD)
    assert len(adds) == 8
    for add in adds:
        shortcut = net.nodes[add.inputs[1]]
        if shortcut.kind is Kind.SYNAPSE:
            shortcut = net.nodes[shortcut.inputs[0]]
        assert shortcut.kind is Kind.NEURON


def test_a_block_is_ordered_as_described() -> None:
    names = [node.name for node in build("preact-resnet18", (1, 28, 28), width=0.05, blocks=[1, 1], dropout=0.3).nodes]
    assert names == [
        *["input", "conv1", "norm1", "neuron1"],
        *(f"block1.body.{part}" for part in ("conv1", "norm1", "neuron1", "dropout1", "conv2")),
        *["block1.add", "norm2", "neuron2"],
        *(f"block2.body.{part}" for part in ("conv1", "norm1", "neuron1", "dropout1", "conv2")),
        *["block2.shortcut.conv1", "block2.add", "norm3", "neuron3", "pool1", "neuron4"],
        *["flatten", "readout", "norm4", "neuron5"],
    ]


NARROW = [
    ("preact-resnet18", (3, 32, 32), {"width": 0.05}),
    ("preact-resnet18", (1, 28, 28), {"width": 0.1, "blocks": [1, 1]}),
    ("preact-resnet18-imagenet", (3, 64, 64), {"width": 0.05, "blocks": [1, 1, 1, 1]}),
    ("vgg11", (2, 34, 34), {"width": 0.03}),
    ("mlp", (20,), {"hidden": [12], "norm": "batch", "spiking_readout": True}),
    ("layers", (1, 8, 8), {"spec": "4C3-AP2-4T3s2-AP2-SN-FC", "norm": "batch", "spiking_readout": True}),
    ("conv5", (1, 8, 8), {"width": 0.03, "spiking_readout": True}),
    ("conv9", (1, 16, 16), {"width": 0.03, "spiking_readout": True, "residual": True}),
    ("vgg", (1, 16, 16), {"width": 0.03, "spiking_readout": True}),
    ("vgg-f", (1, 16, 16), {"width": 0.03, "norm": "batch", "spiking_readout": True}),
    ("feedback", (1, 8, 8), {"layers": "4C3s2", "back": "4C3", "spiking_readout": True}),
]


@pytest.mark.parametrize(("name", "features", "options"), NARROW, ids=str)
def test_narrow_networks_that_end_in_neurons_train(name: str, features: tuple, options: dict) -> None:
    net = build(name, features, 3, **options)
    last = net.nodes[net.output]
    assert last.kind is Kind.NEURON
    assert last not in net.hidden
    assert shapes(net, Static(torch.zeros(1, *features), 1), KeyedDraws(0))[-1] == (3,)
    assert set(net(torch.rand(3, 2, *features)).unique().tolist()) <= {0.0, 1.0}
    x, y, draws, sink = Static(torch.rand(3, *features), 2), torch.tensor([0, 2, 1]), KeyedDraws(0), GradSink(net)
    rule, objective = rules.build("bptt"), PerStep(CrossEntropy())
    rule.bind(net, objective, x, draws)
    assert run_sequence(net, rule, objective, x, y, sink, draws=draws).loss.isfinite()
    sink.flush()
    assert all(p.grad is not None for p in net.parameters())


def test_a_spiking_readout_is_normalised_where_layers_are() -> None:
    ends = {
        norm: [type(m).__name__ for m in build("mlp", (20,), hidden=[], norm=norm, spiking_readout=True).children()]
        for norm in ("none", "batch", "ws")
    }
    assert ends == {
        "none": ["Linear", "Affine"],
        "batch": ["Linear", "BatchNorm1d", "Affine"],
        "ws": ["Linear", "Affine"],
    }


@pytest.mark.parametrize("name", ["preact-resnet18", "preact-resnet18-imagenet", "vgg11"])
def test_images_are_expected(name: str) -> None:
    with pytest.raises(ConfigError, match=r"a convolution cannot read features \[784\]"):
        build(name, (784,))


def test_images_too_small_for_the_pools_are_refused() -> None:
    with pytest.raises(ConfigError, match="AP4 cannot pool features"):
        build("preact-resnet18", (3, 16, 16), width=0.05)
    with pytest.raises(ConfigError, match="AP2 cannot pool features"):
        build("vgg11", (2, 16, 16), width=0.05)
