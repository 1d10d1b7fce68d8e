"""QKFormer (Zhou et al. 2024): a spiking Transformer in three stages, whose early ones attend by a bit a token.

    early stages:  x' = x + LIF(BN(W (a * K))),   a = LIF(sum over the channels of a head of Q)
    last stage:    x' = x + LIF(BN(W LIF(s Q K^T V)))
    everywhere:    x'' = x' + FFN(x')

Q, K and V are LIF(BN(W x)) without biases; the neurons of a, and those behind Q K^T V, fire at half the threshold.
Stages have dim / 4, dim / 2 and dim channels. Between them an embedding halves sides: convolutions of 3 x 3, pooled
before their neurons, beside a convolution of 1 x 1 with as many strides, whose spikes are added. One such embedding
with a convolution of its own in front makes tokens out of images.
"""

from __future__ import annotations

from itertools import islice
from math import prod
from typing import Annotated

from annotated_types import Ge, Len
from pydantic import Field

from onward.core.attention import Gate, HeadSums
from onward.core.containers import Joined
from onward.core.network import Network
from onward.models.layers import Stack
from onward.models.registry import MakeNeuron, models
from onward.models.stages import add_block
from onward.models.tokens import (
    STYLE,
    PartOptions,
    Pool,
    add_attention,
    add_feed_forward,
    add_part,
    fire_low,
    pool,
    projection,
    shared,
    spiking_conv,
)


class QKFormerOptions(PartOptions):
    """Options of a QKFormer."""

    dim: int = Field(64, ge=8, multiple_of=8, description="channels of a token in the last stage")
    blocks: Annotated[list[Annotated[int, Ge(0)]], Len(3, 3)] = Field([1, 1, 2], description="blocks of each stage")
    heads: int = Field(4, ge=1, description="heads of attention, among which the channels of a stage are shared out")
    stem: list[Pool] = Field(
        [1, 1], min_length=2, description="for each convolution before the first stage: 2, halve sides behind it"
    )
    pools: list[Pool] = Field([1, 2], min_length=1, description="the same for each convolution between two stages")


def _pooled_conv(stack: Stack, filters: int, by: Pool) -> None:
    """A convolution whose drive is pooled before it meets neurons."""
    stack.append("conv", stack.conv(filters, 3, bias=False))
    stack.normalise()
    pool(stack, by)
    stack.fire()


def _embed(stack: Stack, filters: int, pools: list[Pool]) -> None:
    """Tokens of another size, fewer of them where ``pools`` say so."""

    def fill(body: Stack) -> None:
        for by in pools:
            _pooled_conv(body, filters, by)

    def project(shortcut: Stack) -> None:
        shortcut.spiking("conv", shortcut.conv(filters, 1, prod(pools), bias=False))

    add_block(stack, fill, project, kind="embed")


def _add_token_attention(stack: Stack, heads: int, drop: float) -> None:
    """x + spikes of a projection of those keys whose tokens' queries are strong enough."""

    def fill(body: Stack) -> None:
        dim = body.shape[0]
        gate = body.branch()
        spiking_conv(gate, "q", dim, bias=False)
        gate.append("sum", HeadSums(shared(heads, dim)))
        fire_low(gate)
        body.append("attention", Joined(Gate(), gate=gate.layers, k=projection(body, bias=False)))
        spiking_conv(body, "proj", dim)

    add_part(stack, "mixer", fill, drop)


def _qkformer(choice: QKFormerOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, STYLE)
    entry, *embedding = choice.stem
    _pooled_conv(stack, choice.dim // 8, entry)
    rates = choice.dropped(sum(choice.blocks))
    for stage, (blocks, pools) in enumerate(zip(choice.blocks, (embedding, choice.pools, choice.pools), strict=True)):
        _embed(stack, choice.dim // 4 << stage, pools)
        for drop in islice(rates, blocks):
            if stage == 2:
                add_attention(stack, choice.heads, bias=False, drop=drop)
            else:
                _add_token_attention(stack, choice.heads, drop)
            add_feed_forward(stack, choice, drop)
    stack.adaptive_pool(1)
    return Network(stack.readout())


for _name, _defaults, _summary in (
    ("", {}, "QKFormer of 1 + 1 + 2 blocks and 64 channels, for small images"),
    ("-cifar", {"dim": 384, "heads": 8}, "QKFormer of 1 + 1 + 2 blocks and 384 channels for CIFAR"),
    (
        "-imagenet",
        {"dim": 384, "blocks": [1, 2, 7], "heads": 6, "stem": [2, 2, 1], "pools": [2, 1]},
        "QKFormer HST-10-384 for ImageNet",
    ),
):
    models.register(f"qkformer{_name}", QKFormerOptions, _qkformer, _summary, defaults=_defaults)
