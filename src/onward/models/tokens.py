"""What spiking Transformers share: every position of a map is a token, linear layers are convolutions of 1 x 1.

So tokens keep their places, norms take statistics over them, and traces and deposits are those of any convolution.
Published with LIF neurons of time constant 2 that multiply their drive by 1/2, reset to 0, of threshold 1, and of half
of it behind attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal, cast

from annotated_types import Ge, Le
from pydantic import Field
from torch import nn

from onward.core.attention import Attention
from onward.core.containers import Bridge, Bridged, Joined, Residual
from onward.core.errors import ConfigError
from onward.core.glue import DropPath, GroupMean, Tile
from onward.core.registry import Choice
from onward.models.layers import Stack, Style
from onward.models.stages import Build, add_block
from onward.models.thresholds import firing_at

STYLE = Style("batch")
SCALE = 0.125
"""What the products of queries, keys and values are multiplied by."""
LOW = 0.5
"""The threshold of the neurons behind attention, as a share of that of all others."""


def _tile(times: int) -> Bridge:
    """A token's channels, added to the drive of hidden ones."""
    return Bridge("tile", Tile(times), None, "norm1")


def _mean(times: int) -> Bridge:
    """The mean drive of hidden channels, added to what comes out."""
    return Bridge("mean", GroupMean(times), "norm1", "norm2")


_WAYS: dict[str, tuple[Callable[[int], Bridge], ...]] = {"none": (), "tile": (_tile,), "tile-mean": (_tile, _mean)}

Pool = Annotated[int, Ge(1), Le(2)]
"""1, or 2: halved by the maximum of 3 x 3."""


class PartOptions(Choice):
    """Options of the two parts of every block."""

    ratio: float = Field(4.0, gt=0, description="hidden channels of the feed-forward part, as a multiple of a token's")
    shortcuts: Literal["none", "tile", "tile-mean"] = Field(
        "none",
        description="inside feed-forward parts: copies of a token's channels added to the drive of hidden ones, and "
        "the mean over those added to what comes out",
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="probability that the last block is left out in training; earlier ones less often"
    )

    def bridges(self, dim: int) -> list[Bridge]:
        """The shortcuts inside a feed-forward part; raises `ConfigError` where hidden channels are no multiple."""
        ways = _WAYS[self.shortcuts]
        if ways and hidden(dim, self.ratio) % dim:
            raise ConfigError(
                f"shortcuts {self.shortcuts} copy {dim} channels to {hidden(dim, self.ratio)} hidden ones; expected a "
                f"multiple, such as --model.ratio 4"
            )
        return [way(hidden(dim, self.ratio) // dim) for way in ways]

    def dropped(self, blocks: int) -> Iterator[float]:
        """The probability that each of so many ``blocks`` is left out: rising evenly, to `drop_path` in the last."""
        return (self.drop_path * (place + 1) / blocks for place in range(blocks))


class TokenOptions(PartOptions):
    """Options of every spiking Transformer whose tokens keep their number and size."""

    dim: int = Field(64, ge=1, description="channels of a token")
    blocks: int = Field(2, ge=1, description="blocks of attention and a feed-forward part")
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


def add_part(stack: Stack, kind: str, fill: Build, drop: float, bridges: Iterable[Bridge] = ()) -> None:
    """x + what ``fill`` makes of it, with ``bridges`` inside; as a whole left out with probability ``drop``."""

    def whole(body: Stack) -> None:
        fill(body)
        if drop:
            body.append("drop", DropPath(drop))

    def join(body: nn.Module, shortcut: nn.Module) -> nn.Module:
        return Residual(Bridged(cast(nn.Sequential, body), bridges), shortcut)

    add_block(stack, whole, join=join if bridges else Residual, kind=kind)


def add_attention(stack: Stack, heads: int, bias: bool | None = None, drop: float = 0.0) -> None:
    """x + spikes of a projection of self-attention."""

    def fill(body: Stack) -> None:
        attend(body, heads, bias)
        spiking_conv(body, "proj", body.shape[0])

    add_part(stack, "mixer", fill, drop)


def add_feed_forward(stack: Stack, choice: PartOptions, drop: float = 0.0) -> None:
    """x + spikes of a feed-forward part."""
    dim = stack.shape[0]

    def fill(body: Stack) -> None:
        spiking_conv(body, "ffn", hidden(dim, choice.ratio))
        spiking_conv(body, "ffn", dim)

    add_part(stack, "ffn", fill, drop, choice.bridges(dim))


def hidden(dim: int, ratio: float) -> int:
    """Hidden channels of a feed-forward part."""
    return max(1, round(dim * ratio))


def shared(heads: int, dim: int) -> int:
    """``heads``, if the channels can be shared out among them; raises `ConfigError` otherwise."""
    if dim % heads:
        raise ConfigError(f"{dim} channels cannot be shared out among {heads} heads; expected a divisor of {dim}")
    return heads
