"""Testable properties of networks, NET1 to NET9 (and BW9): each test carries the number of what it shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward import Network
from onward.core.attention import Attention
from onward.models import Twin, models
from onward.neurons import IF, LIF
from onward.testing.harness import Taught, teach

SMALL: list[tuple[str, dict]] = [
    ("spikformer", {"dim": 16}),
    ("spike-driven", {"dim": 16}),
    ("qkformer", {"dim": 16, "heads": 2}),
    ("sew-resnet18", {"width": 0.05}),
    ("ms-resnet18", {"width": 0.05}),
    ("nf-resnet18", {"width": 0.05}),
    ("hlop-resnet18", {"width": 0.05}),
    ("multishortcut-resnet18", {"width": 0.05}),
    ("resnet19", {"width": 0.05}),
    ("vggsnn", {"width": 0.05}),
]
each_network = pytest.mark.parametrize(("name", "options"), SMALL, ids=[name for name, _ in SMALL])


def build(name: str, features: tuple[int, ...] = (2, 32, 32), neuron=LIF, **options) -> Network:
    torch.manual_seed(0)
    return models.build({"name": name, **options}, features, 3, neuron)


def part(net: Network, *names: str) -> Network:
    """Some parts of a network, one behind the other, in evaluation mode and double precision."""
    return Network(nn.Sequential(*(net.get_submodule(name) for name in names))).double().eval()


def spikes(*shape: int, share: float = 0.3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator) < share).double()


def seen(name: str, **options) -> tuple[Network, Taught]:
    """A network after a mini-batch in training mode, with what each synapse read."""
    net = build(name, (2, 16, 16), **options)
    return net, teach(net, "sltt", torch.rand(3, 4, 2, 16, 16) * 3, torch.tensor([0, 2, 1, 0]))


@pytest.mark.parametrize(("heads", "side"), [(2, 2), (4, 3), (1, 5)])
def test_net1_both_orders_of_attention_agree_to_the_last_bit(heads: int, side: int) -> None:
    """NET1: (Q K^T) V = Q (K^T V) in whole numbers, and outputs are multiples of the scale."""
    q, k, v = (spikes(3, 16, side, side, seed=seed).float() for seed in range(3))
    attention = Attention(heads, scale=0.125)
    parts = [x.flatten(2).unflatten(1, (heads, -1)) for x in (q, k, v)]
    one, other = Attention.tokens_first(*parts), Attention.channels_first(*parts)
    assert torch.equal(one, other)
    assert one.max() > 1
    assert torch.equal(one, one.round())
    assert torch.equal(attention(q, k, v), one.reshape(v.shape) * 0.125)
    written = torch.einsum("rhdn,rhdm,rhem->rhen", *parts)
    assert torch.equal(one, written)


@pytest.mark.parametrize("name", ["spikformer", "spike-driven", "qkformer"])
def test_net2_tokens_that_change_places_change_places_behind_a_block(name: str) -> None:
    """NET2: attention and feed-forward parts know no order of tokens; the stem alone does."""
    net = build(name, (2, 16, 16), dim=16)
    for number in (1, 2, 4) if name == "qkformer" else (1, 2):
        block = part(net, f"mixer{number}", f"ffn{number}")
        channels = next(block.parameters()).shape[1]
        x = spikes(4, 2, channels, 3, 4, share=0.5) * 3
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
        moved = x.flatten(3)[..., order].view_as(x)
        there, here = block(moved), block(x)
        assert torch.equal(there.flatten(3), here.flatten(3)[..., order])
        assert not torch.equal(here, x)


def test_net3_all_that_weights_of_the_spike_driven_transformer_multiply_are_spikes() -> None:
    """NET3: but for the image."""
    net, taught = seen("spike-driven")
    for node in net.synapses[1:]:
        assert set(taught.pres(node.name).unique().tolist()) <= {0.0, 1.0}, node
    firing = [taught.pres(node.name).mean() for node in net.synapses if "ffn" in node.name]
    assert all(rate > 0 for rate in firing)


def test_net3_the_stream_of_a_spikformer_is_a_small_whole_number() -> None:
    """NET3: 0 to 2 behind the stem, up to 2 more behind every block."""
    net, taught = seen("spikformer", blocks=3)
    for number in (1, 2, 3):
        stream = taught.pres(f"mixer{number}.body.attention1.q.conv1")
        assert torch.equal(stream, stream.round())
        assert stream.min() >= 0
        assert stream.max() <= 2 * number
        inner = taught.pres(f"ffn{number}.body.ffn2")
        assert set(inner.unique().tolist()) == {0.0, 1.0}
    assert taught.pres("mixer3.body.attention1.q.conv1").max() > 1
    assert [node.name for node in net.synapses if node.module.bias is None][:2] == ["conv1", "conv2"]


@pytest.mark.parametrize("training", [True, False])
def test_net4_nothing_comes_of_nothing(training: bool) -> None:
    """NET4: spike-driven attention, without biases, makes no spikes of none."""
    attention = part(build("spike-driven", (2, 16, 16)), "mixer1.body.attention1").train(training)
    assert all(node.module.bias is None for node in attention.synapses)
    assert not attention(torch.zeros(4, 2, 64, 4, 4, dtype=torch.float64)).any()


@pytest.mark.parametrize("connect", ["add", "and", "iand"])
def test_net5_blocks_of_sew_resnets_start_as_the_identity(connect: str) -> None:
    """NET5: ADD and IAND with silent bodies, AND with one that always fires."""
    blocks = part(build("sew-resnet18", neuron=IF, width=0.1, connect=connect), "block1", "block2")
    x = spikes(4, 3, 6, 8, 8)
    assert torch.equal(blocks(x), x)
    for name, parameter in blocks.named_parameters():
        if "norm2" in name:
            nn.init.constant_(parameter, 0.6)
    assert not torch.equal(blocks(x), x)


@pytest.mark.parametrize("training", [True, False])
def test_net6_blocks_of_ms_resnets_start_as_the_identity_of_membranes(training: bool) -> None:
    """NET6: a block of stride 1 whose last norm has scale 0."""
    blocks = part(build("ms-resnet18", width=0.1), "block1", "block2").train(training)
    x = torch.randn(4, 3, 6, 8, 8, dtype=torch.float64)
    assert torch.equal(blocks(x), x)


def test_bw9_blocks_with_a_shortcut_a_convolution_are_the_identity_without_their_norms() -> None:
    """BW9: with scale 0 in every norm, and gradients pass as they are."""
    net = build("multishortcut-resnet18", width=0.1, shifts=False)
    blocks = part(net, *(f"block{number}" for number in range(1, 5)))
    for name, parameter in blocks.named_parameters():
        if "norm" in name:
            nn.init.zeros_(parameter)
    x = torch.randn(4, 3, 6, 8, 8, dtype=torch.float64)
    assert torch.equal(blocks(x), x)
    one = x[0].requires_grad_()
    (gradient,) = torch.autograd.grad(Twin(blocks)(one).sum(), one)
    assert torch.equal(gradient, torch.ones_like(one))


@each_network
def test_net7_a_network_forgets_between_sequences(name: str, options: dict) -> None:
    """NET7: two calls on the same input give the same output, and another call between them changes nothing."""
    net, x = build(name, **options).eval(), torch.rand(3, 2, 2, 32, 32) * 3
    first = net(x)
    net(torch.rand_like(x))
    assert torch.equal(net(x), first)


def test_net8_spikformer_and_resnet19_have_their_numbers_of_parameters() -> None:
    """NET8: for CIFAR-10; without the norms of Spikformer's code that nobody reads."""
    for name, published in (("spikformer-cifar", 9_324_730), ("resnet19", 12_630_858)):
        with torch.device("meta"):
            net = models.build(name, (3, 32, 32), 10, LIF)
        assert sum(p.numel() for p in net.parameters()) == published


@each_network
def test_net9_outputs_do_not_wait_for_later_steps(name: str, options: dict) -> None:
    """NET9: in evaluation mode, the output of one step is the first of four."""
    net, x = build(name, **options).double().eval(), torch.rand(4, 2, 2, 32, 32, dtype=torch.float64) * 3
    torch.testing.assert_close(net(x[:1]), net(x)[:1], rtol=1e-12, atol=1e-12)
