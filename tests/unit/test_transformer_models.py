"""Spiking Transformers: sizes as published, names and thresholds as described, and every rule trains them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from onward import Network, Static
from onward.core import KeyedDraws
from onward.core.errors import ConfigError
from onward.core.graph import Kind
from onward.core.interpret import shapes
from onward.models import models
from onward.models.thresholds import threshold_of
from onward.neurons import LI, LIF, AdaptiveLIF
from onward.testing.harness import teach

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
KINDS = ("spikformer", "spike-driven", "qkformer")


def build(name: str, features: tuple[int, ...], classes: int = 10, neuron=LIF, **options) -> Network:
    torch.manual_seed(0)
    return models.build({"name": name, **options}, features, classes, neuron)


def count(name: str, features: tuple[int, ...], classes: int, **options) -> int:
    """Parameters at full width, of a network without numbers."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, features, classes, **options).parameters())


@pytest.mark.parametrize(("dim", "millions"), [(384, 16.47), (512, 29.08), (768, 64.96)])
def test_qkformers_have_the_published_numbers_of_parameters(dim: int, millions: float) -> None:
    found = count("qkformer-imagenet", IMAGENET, 1000, dim=dim, heads=dim // 64)
    assert round(found / 1e6, 2) == millions


def test_feed_forward_parts_of_the_largest_qkformer_hold_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        net = build("qkformer-imagenet", IMAGENET, 1000, dim=768, heads=12)
    weights = sum(
        p.numel() for name, p in net.named_parameters() if ".ffn" in name and name.endswith("weight") and p.dim() > 1
    )
    assert weights == 8 * (192**2 + 2 * 384**2 + 7 * 768**2)


def _block(dim: int, ratio: int, bias: bool) -> int:
    """Parameters of attention of four projections, the last with bias, and of a feed-forward part; norms included."""
    attention = 4 * dim * dim + (4 if bias else 1) * dim + 4 * 2 * dim
    return attention + 2 * ratio * dim * dim + (ratio + 1) * dim + 2 * (ratio + 1) * dim


@pytest.mark.parametrize(("name", "bias"), [("spikformer-imagenet", True), ("spike-driven-imagenet", False)])
def test_networks_for_imagenet_have_the_parameters_of_their_descriptions(name: str, bias: bool) -> None:
    filters = (3, 64, 128, 256, 512, 512)
    stem = sum(9 * a * b + 2 * b for a, b in pairwise(filters))
    assert count(name, IMAGENET, 1000) == stem + 8 * _block(512, 4, bias) + 512 * 1000 + 1000


@pytest.mark.parametrize(
    ("name", "features", "tokens"),
    [
        ("spikformer-cifar", CIFAR, 64),
        ("spikformer-imagenet", IMAGENET, 196),
        ("spike-driven-cifar", CIFAR, 64),
        ("qkformer-cifar", CIFAR, 64),
        ("qkformer-imagenet", IMAGENET, 196),
    ],
)
def test_the_last_blocks_see_as_many_tokens_as_published(name: str, features: tuple[int, ...], tokens: int) -> None:
    narrow: dict[str, Any] = {"dim": 8} if name.startswith("spike-") else {"dim": 8, "heads": 1}
    net = build(name, features, **narrow)
    sizes = shapes(net, Static(torch.zeros(1, *features), 1), KeyedDraws(0))
    last = next(node for node in reversed(net.neurons) if "ffn" in node.name)
    assert sizes[last.index][1:].numel() == tokens


@pytest.mark.parametrize("name", KINDS)
def test_names_tell_feed_forward_parts_and_projections(name: str) -> None:
    """Whoever makes weights of feed-forward parts binary finds them by name."""
    net = build(name, (3, 16, 16))
    convolutions = [node for node in net.synapses if isinstance(node.module, nn.Conv2d)]
    wide = [node.name for node in convolutions if {node.module.in_channels, node.module.out_channels} == {64, 256}]
    assert wide
    assert all("ffn" in name for name in wide)
    assert all(("ffn" in node.name) + ("mixer" in node.name) < 2 for node in convolutions)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("neuron", [LIF, lambda: LIF(threshold=1.0, learn_threshold=True), lambda: AdaptiveLIF(LIF())])
def test_neurons_behind_attention_fire_at_half_the_threshold(name: str, neuron: Any) -> None:
    net = build(name, (3, 16, 16), neuron=neuron)
    low = [node.name for node in net.neurons if threshold_of(node.module) == 0.5]  # type: ignore[arg-type]
    blocks = [module for key, module in net.named_children() if key.startswith("mixer")]
    assert len(low) == len(blocks)
    assert all(name.startswith("mixer") for name in low)
    assert {threshold_of(node.module) for node in net.neurons} == {0.5, 1.0}  # type: ignore[arg-type]


def test_neurons_without_a_threshold_are_refused() -> None:
    with pytest.raises(ConfigError, match="LI has no threshold, and this network sets those of some layers"):
        build("spikformer", (3, 16, 16), neuron=lambda: LI(2.0))


@pytest.mark.parametrize("name", ["spikformer", "qkformer"])
def test_heads_share_out_channels(name: str) -> None:
    with pytest.raises(ConfigError, match="channels cannot be shared out among 3 heads; expected a divisor of"):
        build(name, (3, 16, 16), heads=3)


SMALL = [
    ("spikformer", {"dim": 8, "heads": 2}),
    ("spikformer-cifar", {"dim": 16, "heads": 2, "blocks": 2}),
    ("spike-driven", {"dim": 8}),
    ("qkformer", {"dim": 16, "heads": 2}),
]


@pytest.mark.parametrize(("name", "options"), SMALL, ids=str)
def test_every_rule_trains_the_true_topology(name: str, options: dict) -> None:
    """BPTT, SLTT, OTTT and OPZO; through attention, errors reach queries, keys and values."""
    x, y = torch.rand(2, 3, 2, 16, 16) * 3, torch.tensor([0, 2, 1])
    for rule in ("bptt", "sltt", "ottt", "opzo"):
        net = build(name, (2, 16, 16), 3, **options)
        grads = teach(net, rule, x, y).grads
        assert grads.keys() == {key for key, p in net.named_parameters() if p.requires_grad}
        assert all(grad.isfinite().all() for grad in grads.values())
        assert grads["readout.bias"].any()
        if rule != "opzo":  # its feedback starts at zero
            assert all(grad.any() for key, grad in grads.items() if "mixer1" in key and "norm" in key)


SHORTCUTS = ("none", "tile", "tile-mean")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shortcuts", SHORTCUTS[1:])
def test_shortcuts_and_dropping_change_no_parameter(name: str, shortcuts: str) -> None:
    """So that a network with them starts from a run without."""
    plain = build(name, (3, 16, 16)).state_dict()
    found = build(name, (3, 16, 16), shortcuts=shortcuts, drop_path=0.3).state_dict()
    assert list(found) == list(plain)
    assert all(torch.equal(found[key], plain[key]) for key in plain)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shortcuts", SHORTCUTS)
def test_feed_forward_parts_are_as_described(name: str, shortcuts: str) -> None:
    """A = BN(W1 s) + tile(X), B = BN(W2 LIF(A)) + mean(A), where a block adds B itself, or its spikes."""
    net = build(name, (3, 16, 16), shortcuts=shortcuts).double().eval()
    part = net.get_submodule("ffn1.body")
    x, spiking_first = torch.randn(4, part.get_submodule("ffn1").in_channels, 2, 2).double(), name == "spike-driven"
    fired = Network(nn.Sequential(net.get_submodule("ffn1")))
    first = (x >= 1).double() if spiking_first else x
    a = part.get_submodule("norm1")(part.get_submodule("ffn1")(first))
    if shortcuts != "none":
        a = a + torch.cat([x] * 4, dim=1)
    b = part.get_submodule("norm2")(part.get_submodule("ffn2")((a >= 1).double()))
    if shortcuts == "tile-mean":
        b = b + a.view(4, 4, -1, 2, 2).mean(1)
    torch.testing.assert_close(fired(x[None])[0], x + (b if spiking_first else (b >= 1).double()))


def test_later_blocks_are_left_out_more_often() -> None:
    net = build("qkformer", (3, 16, 16), blocks=[1, 1, 2], drop_path=0.2)
    found = [(node.name, round(node.module.p, 3)) for node in net.of(Kind.DROPOUT)]
    assert found == [
        (f"{part}{block}.body.drop1", round(0.05 * block, 3)) for block in (1, 2, 3, 4) for part in ("mixer", "ffn")
    ]


def test_copies_need_a_whole_number_of_them() -> None:
    with pytest.raises(ConfigError, match=r"shortcuts tile copy 64 channels to 96 hidden ones; expected a multiple"):
        build("spikformer", (3, 16, 16), ratio=1.5, shortcuts="tile")


@pytest.mark.parametrize("name", KINDS)
def test_rules_train_through_shortcuts_and_dropping(name: str) -> None:
    x, y = torch.rand(2, 3, 2, 16, 16) * 3, torch.tensor([0, 2, 1])
    for rule in ("bptt", "sltt", "ottt", "opzo"):
        net = build(name, (2, 16, 16), 3, dim=16, shortcuts="tile-mean", drop_path=0.1)
        assert all(grad.isfinite().all() for grad in teach(net, rule, x, y).grads.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spikformer-cifar", "spike-driven-cifar", "qkformer-cifar"])
def test_networks_of_full_width_train(name: str) -> None:
    net = build(name, CIFAR)
    grads = teach(net, "sltt", Static(torch.rand(2, *CIFAR), 1), torch.tensor([1, 7])).grads
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.slow
def test_the_small_spikformer_learns_64_samples_by_heart() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = torch.tensor(digits.images[:64], dtype=torch.float32)[:, None] / 8
    x, y = Static(x, 4), torch.tensor(digits.target[:64])
    net = build("spikformer", (1, 8, 8), neuron=lambda: LIF(tau=2.0))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for number in range(200):
        outs = teach(net, "bptt", x, y, sequence=number).outs
        if bool((outs.mean(0).argmax(1) == y).all()):
            return
        optimizer.step()
    pytest.fail("after 200 steps some of the 64 samples are still told apart wrongly")
