"""Residual networks of the papers: sizes as published, structure as described, and every rule trains them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from onward import Network, Static
from onward.core.errors import ConfigError, TopologyMismatch
from onward.core.graph import Kind
from onward.models import models
from onward.neurons import IF, LIF, CubaLIF
from onward.testing.harness import teach

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
BEFORE = {"name": "online", "temporal": "ottt", "spatial": {"name": "opzo", "position": "before"}}


def build(name: str, features: tuple[int, ...], classes: int = 10, neuron=LIF, **options) -> Network:
    torch.manual_seed(0)
    return models.build({"name": name, **options}, features, classes, neuron)


def count(name: str, features: tuple[int, ...], classes: int, **options: object) -> int:
    """Parameters at full width, of a network without numbers."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, features, classes, **options).parameters())


PUBLISHED = [
    ("sltt-resnet18", CIFAR, 10, 11_176_906),
    ("sltt-resnet18", CIFAR, 100, 11_223_076),
    ("nf-resnet34", IMAGENET, 1000, 21_797_688),
    ("nf-resnet50", IMAGENET, 1000, 25_557_048),
    ("nf-resnet101", IMAGENET, 1000, 44_549_193),
    ("resnet19", CIFAR, 10, 12_630_858),
    ("postact-resnet18-imagenet", IMAGENET, 1000, 11_689_512),
    ("postact-resnet34-imagenet", IMAGENET, 1000, 21_797_672),
    ("vgg", CIFAR, 10, 9_228_362),
    ("vgg", CIFAR, 100, 9_274_532),
    ("vgg", (2, 48, 48), 10, 9_227_786),
    ("vgg", (2, 128, 128), 11, 9_228_299),
    ("vgg-f", CIFAR, 10, 9_523_338),
]


@pytest.mark.parametrize(("name", "features", "classes", "published"), PUBLISHED, ids=str)
def test_t04_networks_have_the_published_numbers_of_parameters(
    name: str, features: tuple[int, ...], classes: int, published: int
) -> None:
    assert count(name, features, classes) == published


@pytest.mark.parametrize(("classes", "published"), [(10, 9_476_298), (11, 9_501_387)])
def test_t04_vgg11_with_a_linear_readout_is_that_of_sltt(classes: int, published: int) -> None:
    net = build("vgg11", (2, 48, 48), classes, spiking_readout=False)
    assert sum(p.numel() for p in net.parameters()) == published


def _conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    return inputs * outputs * kernel**2


def _two_convolutions(blocks: list[int], stem: int) -> int:
    """Parameters of a ResNet for 3 colours and 1000 classes whose convolutions have a norm each, and no biases."""
    filters = [64, *(64 * 2**stage for stage, number in enumerate(blocks) for _ in range(number))]
    total = _conv(3, 64, stem) + 2 * 64
    for a, b in pairwise(filters):
        total += _conv(a, b) + _conv(b, b) + 4 * b + (_conv(a, b, 1) + 2 * b if a != b else 0)
    return total + 512 * 1000 + 1000


def _shifts(blocks: list[int]) -> int:
    """Parameters of a shift in front of the neurons of every convolution, and of RPReLU behind its sum."""
    filters = [64, *(64 * 2**stage for stage, number in enumerate(blocks) for _ in range(2 * number))]
    return sum(a + 3 * b for a, b in pairwise(filters))


@pytest.mark.parametrize(("depth", "blocks"), [(18, [2, 2, 2, 2]), (34, [3, 4, 6, 3])])
def test_networks_for_imagenet_have_the_parameters_of_their_descriptions(depth: int, blocks: list[int]) -> None:
    """MS-ResNets halve sides in the first stage too, by a shortcut with weights; norm-free blocks have a gain each."""
    expected = _two_convolutions(blocks, 7)
    assert count(f"sew-resnet{depth}-imagenet", IMAGENET, 1000) == expected
    assert count(f"multishortcut-resnet{depth}-imagenet", IMAGENET, 1000, shifts=False) == expected
    assert count(f"multishortcut-resnet{depth}-imagenet", IMAGENET, 1000) == expected + _shifts(blocks)
    assert count(f"nf-resnet{depth}", IMAGENET, 1000) == expected + sum(blocks)
    assert count(f"ms-resnet{depth}-imagenet", IMAGENET, 1000) == expected + _conv(64, 64, 1) + 2 * 64
    assert count(f"multishortcut-resnet{depth}", CIFAR, 1000, shifts=False) == _two_convolutions(blocks, 3)
    for name in ("sew", "ms"):
        assert count(f"{name}-resnet{depth}", CIFAR, 1000) == _two_convolutions(blocks, 3)


@pytest.mark.parametrize(("depth", "neurons"), [(18, 2 * 8 + 3), (34, 2 * 16 + 3)])
def test_preact_resnets_have_two_layers_a_block(depth: int, neurons: int) -> None:
    assert len(build(f"preact-resnet{depth}", CIFAR, width=0.05).neurons) == neurons


def test_vggsnn_pools_before_its_readout() -> None:
    net = build("vggsnn", (2, 48, 48), width=0.05)
    assert len(net.neurons) == 8
    assert len([m for m in net.modules() if isinstance(m, nn.AvgPool2d)]) == 4
    assert net.get_submodule("readout").in_features == round(512 * 0.05) * 3 * 3


def test_hlops_resnet_has_20_filters_and_no_biases_but_the_readouts() -> None:
    net = build("hlop-resnet18", (3, 84, 84), kernel=5, stride=2)
    convolutions = [node.module for node in net.synapses if isinstance(node.module, nn.Conv2d)]
    assert {conv.bias for conv in convolutions} == {None}
    assert sorted({conv.out_channels for conv in convolutions}) == [20, 40, 80, 160]
    assert convolutions[0].kernel_size == (5, 5)


@pytest.mark.parametrize(("name", "features"), [("hlop-resnet18", CIFAR), ("nf-resnet18", (3, 64, 64))])
def test_only_projections_of_membrane_blocks_read_spikes(name: str, features: tuple[int, ...]) -> None:
    """Identity shortcuts carry real numbers, what the block reads; a convolution of 1 x 1 reads spikes."""
    net = build(name, features, width=0.1)
    added = [net.nodes[add.inputs[1]] for add in net.of(Kind.ADD)]
    projections = [node for node in added if "shortcut" in node.name]
    assert (len(added), len(projections)) == (8, 3)
    assert {source.kind for node in projections for source in net.origins(node)} == {Kind.NEURON}
    assert all(node.kind is not Kind.NEURON for node in added)


def test_norm_free_blocks_expect_the_variance_that_came_so_far() -> None:
    """beta^2 is 1 at first and behind projections, 0.04 more behind every block."""
    net = build("nf-resnet18", (3, 64, 64), width=0.1)
    factors = [m.factor for m in net.modules() if type(m).__name__ == "Scale" and m.factor != 2.74]
    expected = [1.0, 1.04, 1.08, 1.04, 1.08, 1.04, 1.08, 1.04]
    assert factors == pytest.approx([v**-0.5 for v in expected])


def test_norm_free_networks_start_with_silent_blocks_and_readout() -> None:
    net = build("nf-resnet18", (3, 64, 64), width=0.1)
    assert not net.get_parameter("readout.weight").any()
    gains = [p for name, p in net.named_parameters() if name.split(".")[-2].startswith("gain")]
    assert len(gains) == 8
    assert not any(gain.any() for gain in gains)
    assert all(node in net.fitted_glue for node in net.nodes if ".gain" in node.name)


def test_norms_of_ms_resnets_start_at_the_threshold() -> None:
    net = build("ms-resnet18", CIFAR, neuron=lambda: CubaLIF(LIF(threshold=0.5), 0.2), width=0.05)
    scales = {name: set(m.weight.tolist()) for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, scale in scales.items() if scale == {0.0}} == {f"block{n}.body.norm2" for n in range(1, 9)}
    assert all(scale in ({0.0}, {0.5}) for scale in scales.values())


NARROW = [
    ("preact-resnet34", (2, 32, 32), {"width": 0.05}),
    ("sltt-resnet18", (2, 32, 32), {"width": 0.05}),
    ("hlop-resnet18", (2, 16, 16), {"width": 0.05}),
    ("nf-resnet18", (2, 32, 32), {"width": 0.05}),
    ("nf-resnet50", (2, 32, 32), {"width": 0.05, "blocks": [1, 1, 1, 1]}),
    ("sew-resnet18", (2, 16, 16), {"width": 0.05}),
    ("sew-resnet34-imagenet", (2, 32, 32), {"width": 0.05, "connect": "iand"}),
    ("ms-resnet18", (2, 16, 16), {"width": 0.05}),
    ("ms-resnet34-imagenet", (2, 32, 32), {"width": 0.05}),
    ("resnet19", (2, 16, 16), {"width": 0.05}),
    ("postact-resnet18-imagenet", (2, 32, 32), {"width": 0.05}),
    ("multishortcut-resnet18", (2, 16, 16), {"width": 0.05}),
    ("multishortcut-resnet34-imagenet", (2, 32, 32), {"width": 0.05}),
    ("vggsnn", (2, 16, 16), {"width": 0.05}),
    ("conv9", (2, 16, 16), {"width": 0.05, "residual": True}),
]


@pytest.mark.parametrize(("name", "features", "options"), NARROW, ids=str)
def test_every_rule_trains_the_true_topology(name: str, features: tuple[int, ...], options: dict) -> None:
    """BPTT, SLTT, OTTT and OPZO; noise meets norms where spikes are added to what is normalised."""
    x, y = torch.rand(2, 3, *features) * 3, torch.tensor([0, 2, 1])
    opzo = BEFORE if name.startswith("preact") or name == "sltt-resnet18" else "opzo"
    for rule in ("bptt", "sltt", "ottt", opzo):
        net = build(name, features, 3, **options)
        grads = teach(net, rule, x, y).grads
        assert grads.keys() == {key for key, p in net.named_parameters() if p.requires_grad}
        assert all(grad.isfinite().all() for grad in grads.values())
        assert any(grad.any() for grad in grads.values())


def test_noise_after_neurons_is_refused_where_it_would_be_normalised() -> None:
    net = build("sltt-resnet18", CIFAR, 3, width=0.05)
    with pytest.raises(TopologyMismatch, match="choose noise before the neuron"):
        teach(net, "opzo", torch.rand(2, 3, *CIFAR), torch.tensor([0, 2, 1]))


def test_ands_always_fire_at_first() -> None:
    """The neurons of the body's last layer let everything through, so that gradients reach the blocks below."""
    net = build("sew-resnet18", (2, 16, 16), 3, IF, width=0.05, connect="and")
    grads = teach(net, "sltt", torch.rand(2, 3, 2, 16, 16) * 3, torch.tensor([0, 2, 1])).grads
    assert grads["conv1.weight"].abs().max() > 0


def test_images_whose_sides_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"images whose sides can be halved in every stage, such as 32 or 224"):
        build("ms-resnet18", (3, 30, 30), width=0.05)


FULL = ["preact-resnet34", "nf-resnet34", "nf-resnet50", "sew-resnet34", "ms-resnet34", "resnet19", "vggsnn"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_networks_of_full_width_train(name: str) -> None:
    features = (2, 48, 48) if name == "vggsnn" else (3, 32, 32)
    net = build(name, features)
    grads = teach(net, "sltt", Static(torch.rand(2, *features), 1), torch.tensor([1, 7])).grads
    assert all(grad.isfinite().all() for grad in grads.values())
