"""What spiking Transformers share: every position of a map is a token, linear layers are convolutions of 1 x 1.

So tokens keep their places, norms take statistics over them, and traces and deposits are those of any convolution.
Published with LIF neurons of time constant 2 that multiply their drive by 1/2, reset to 0, of threshold 1, and of half
of it behind attention.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import Field
from torch import nn

from onward.core.attention import Attention
from onward.core.containers import Joined
from onward.core.errors import ConfigError
from onward.core.registry import Choice
from onward.models.layers import Stack, Style
from onward.models.stages import add_block
from onward.models.thresholds import firing_at

STYLE = Style("batch")
SCALE = 0.125
"""What the products of queries, keys and values are multiplied by."""
LOW = 0.5
"""The threshold of the neurons behind attention, as a share of that of all others."""

Pool = Annotated[int, Ge(1), Le(2)]
"""1, or 2: halved by the maximum of 3 x 3."""


class TokenOptions(Choice):
    """Options of every spiking Transformer whose tokens keep their number and size."""

    dim: int = Field(64, ge=1, description="channels of a token")
    blocks: int = Field(2, ge=1, description="blocks of attention and a feed-forward part")
    ratio: float = Field(4.0, gt=0, description="hidden channels of the feed-forward part, as a multiple of dim")
    pools: list[Pool] = Field(
        [1, 2], min_length=1, description="for each convolution of the stem: 2, halve sides behind it; 1, do not"
    )


class TransformerOptions(TokenOptions):
    """Options of a spiking Transformer with heads."""

    heads: int = Field(4, ge=1, description="heads of attention, among which channels are shared out")


def pool(stack: Stack, by: Pool) -> None:
    """Maximum pooling that halves sides, or none."""
    if by == 2:
        stack.pool("MP", 3, stride=2, padding=1)


def widths(dim: int, convolutions: int) -> list[int]:
    """Filters of the convolutions of a stem: the last has ``dim``, each before it half as many.

    >>> widths(384, 4)
    [48, 96, 192, 384]
    """
    return [max(1, dim >> place) for place in reversed(range(convolutions))]


def spiking_conv(stack: Stack, kind: str, filters: int, kernel: int = 1, bias: bool | None = None) -> None:
    """A convolution, its norm, its neurons."""
    stack.spiking(kind, stack.conv(filters, kernel, bias=bias))


def projection(stack: Stack, bias: bool | None = None) -> nn.Sequential:
    """A spiking convolution of 1 x 1 beside ``stack``, of as many channels: queries, keys or values."""
    branch = stack.branch()
    spiking_conv(branch, "conv", stack.shape[0], bias=bias)
    return branch.layers


def fire_low(stack: Stack) -> None:
    """Neurons of the low threshold that follow attention."""
    stack.append("neuron", firing_at(LOW, stack.neuron()))


def attend(stack: Stack, heads: int, bias: bool | None = None) -> None:
    """Spiking self-attention; ``bias`` is that of queries, keys and values."""
    attention = Attention(shared(heads, stack.shape[0]), SCALE)
    parts = {name: projection(stack, bias) for name in ("q", "k", "v")}
    stack.append("attention", Joined(attention, **parts))
    fire_low(stack)


def add_attention(stack: Stack, heads: int, bias: bool | None = None) -> None:
    """x + spikes of a projection of self-attention."""

    def fill(body: Stack) -> None:
        attend(body, heads, bias)
        spiking_conv(body, "proj", body.shape[0])

    add_block(stack, fill, kind="mixer")


def add_feed_forward(stack: Stack, ratio: float) -> None:
    """x + spikes of a feed-forward part."""

    def fill(body: Stack) -> None:
        dim = body.shape[0]
        spiking_conv(body, "ffn", hidden(dim, ratio))
        spiking_conv(body, "ffn", dim)

    add_block(stack, fill, kind="ffn")


def hidden(dim: int, ratio: float) -> int:
    """Hidden channels of a feed-forward part."""
    return max(1, round(dim * ratio))


def shared(heads: int, dim: int) -> int:
    """``heads``, if the channels can be shared out among them; raises `ConfigError` otherwise."""
    if dim % heads:
        raise ConfigError(f"{dim} channels cannot be shared out among {heads} heads; expected a divisor of {dim}")
    return heads
