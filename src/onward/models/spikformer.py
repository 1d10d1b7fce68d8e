"""Spikformer (Zhou et al. 2023): a Transformer whose attention multiplies spikes and needs no softmax.

    x' = x + LIF(BN(W LIF(s Q K^T V))),    x'' = x' + FFN(x'),    Q, K, V = LIF(BN(W x))

Q, K and V are spikes, s is 0.125, and the neurons behind the product fire at half the threshold. What blocks add are
spikes, so that x holds whole numbers from 0 to 2 + 2 (blocks). The stem is a pyramid of convolutions of 3 x 3, some
followed by maximum pooling, and one more whose spikes are added, in place of a code of positions. The readout reads the
mean of all tokens. 4 blocks of 384 channels and 12 heads have 9,324,730 parameters for CIFAR-10.
"""

from __future__ import annotations

from onward.core.network import Network
from onward.models.layers import Stack
from onward.models.registry import MakeNeuron, models
from onward.models.stages import add_block
from onward.models.tokens import (
    STYLE,
    TransformerOptions,
    add_attention,
    add_feed_forward,
    pool,
    spiking_conv,
    widths,
)


def _stem(stack: Stack, choice: TransformerOptions) -> None:
    """Tokens out of images: spikes, 0 to 2 of them."""
    for filters, by in zip(widths(choice.dim, len(choice.pools)), choice.pools, strict=True):
        spiking_conv(stack, "conv", filters, 3, bias=False)
        pool(stack, by)
    add_block(stack, lambda body: spiking_conv(body, "conv", choice.dim, 3, bias=False), kind="positions")


def _spikformer(choice: TransformerOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, STYLE)
    _stem(stack, choice)
    for drop in choice.dropped(choice.blocks):
        add_attention(stack, choice.heads, drop=drop)
        add_feed_forward(stack, choice, drop)
    stack.adaptive_pool(1)
    return Network(stack.readout())


for _name, _defaults, _summary in (
    ("", {}, "Spikformer of 2 blocks and 64 channels, for small images"),
    (
        "-cifar",
        {"dim": 384, "blocks": 4, "heads": 12, "pools": [1, 1, 2, 2]},
        "Spikformer-4-384 for CIFAR: 9,324,730 parameters",
    ),
    (
        "-imagenet",
        {"dim": 512, "blocks": 8, "heads": 8, "pools": [2, 2, 2, 2]},
        "Spikformer-8-512 for ImageNet",
    ),
):
    models.register(f"spikformer{_name}", TransformerOptions, _spikformer, _summary, defaults=_defaults)
