"""Spike-driven Transformer (Yao et al. 2023): membrane shortcuts, and attention of masks and sums alone.

    x' = x + BN(W SDSA(LIF(x))),    x'' = x' + BN(W LIF(BN(W LIF(x'))))
    SDSA = q * LIF(sum over tokens of k * v),    q, k, v = LIF(BN(W .))

x is membrane input, real numbers; everything that weights multiply is a spike. The neurons behind the sum, one a
channel, fire at half the threshold. Queries, keys and values have no biases, so that nothing comes of nothing. The stem
is Spikformer's, with the input of its last neurons as x. Tokens are averaged before the last neurons and the readout.
Heads would change nothing: keys and values meet channel by channel.
"""

from __future__ import annotations

from torch import nn

from onward.core.attention import Gate, TokenSums
from onward.core.containers import Joined
from onward.core.network import Network
from onward.models.layers import Stack
from onward.models.registry import MakeNeuron, models
from onward.models.stages import add_block
from onward.models.tokens import (
    STYLE,
    PartOptions,
    TokenOptions,
    add_part,
    fire_low,
    hidden,
    pool,
    projection,
    spiking_conv,
    widths,
)


def _stem(stack: Stack, choice: TokenOptions) -> None:
    """Tokens out of images: membrane input."""
    *first, last = zip(widths(choice.dim, len(choice.pools)), choice.pools, strict=True)
    for filters, by in first:
        spiking_conv(stack, "conv", filters, 3, bias=False)
        pool(stack, by)
    _drive(stack, "conv", last[0], 3, bias=False)
    pool(stack, last[1])

    def fill(body: Stack) -> None:
        body.fire()
        _drive(body, "conv", choice.dim, 3, bias=False)

    add_block(stack, fill, kind="positions")


def _drive(stack: Stack, kind: str, filters: int, kernel: int = 1, bias: bool | None = None) -> None:
    """A convolution and its norm."""
    stack.append(kind, stack.conv(filters, kernel, bias=bias))
    stack.normalise()


def _context(stack: Stack) -> nn.Sequential:
    """One bit a channel: whether keys and values meet often enough."""
    context = stack.branch()
    keys, values = projection(stack, bias=False), projection(stack, bias=False)
    context.append("meet", Joined(Gate(), k=keys, v=values))
    context.append("sum", TokenSums())
    fire_low(context)
    return context.layers


def _add_attention(stack: Stack, drop: float) -> None:
    def fill(body: Stack) -> None:
        body.fire()
        body.append("attention", Joined(Gate(), kv=_context(body), q=projection(body, bias=False)))
        _drive(body, "proj", body.shape[0])

    add_part(stack, "mixer", fill, drop)


def _add_feed_forward(stack: Stack, choice: PartOptions, drop: float) -> None:
    dim = stack.shape[0]

    def fill(body: Stack) -> None:
        body.fire()
        spiking_conv(body, "ffn", hidden(dim, choice.ratio))
        _drive(body, "ffn", dim)

    add_part(stack, "ffn", fill, drop, choice.bridges(dim))


def _sdt(choice: TokenOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, STYLE)
    _stem(stack, choice)
    for drop in choice.dropped(choice.blocks):
        _add_attention(stack, drop)
        _add_feed_forward(stack, choice, drop)
    stack.adaptive_pool(1)
    stack.fire()
    return Network(stack.readout())


for _name, _defaults, _summary in (
    ("", {}, "spike-driven Transformer of 2 blocks and 64 channels, for small images"),
    ("-cifar", {"dim": 512, "blocks": 2, "pools": [1, 1, 2, 2]}, "spike-driven Transformer 2-512 for CIFAR"),
    ("-imagenet", {"dim": 512, "blocks": 8, "pools": [2, 2, 2, 2]}, "spike-driven Transformer 8-512 for ImageNet"),
):
    models.register(f"spike-driven{_name}", TokenOptions, _sdt, _summary, defaults=_defaults)
