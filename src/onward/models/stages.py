"""What residual networks have in common: stages of blocks, stems, and where a block adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import Field
from torch import nn

from onward.core.containers import Residual
from onward.core.errors import ConfigError
from onward.core.registry import Choice
from onward.models.layers import Stack, scaled

FILTERS = 64
"""Of the first stage; every later one doubles them."""

DEPTHS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}
"""Blocks of two convolutions in each stage of the networks of 18 and 34 layers."""

Build = Callable[[Stack], None]
"""What adds layers at the end of a stack."""


class ResidualOptions(Choice):
    """Options of a residual network in stages."""

    width: float = Field(1.0, gt=0, description="factor on the published numbers of filters")
    blocks: list[Annotated[int, Ge(1)]] = Field(
        DEPTHS[18], min_length=1, description="residual blocks of each stage; every stage but the first halves sides"
    )

    def places(self) -> Iterator[tuple[int, int]]:
        """Filters and stride of every block."""
        for stage, blocks in enumerate(self.blocks):
            for number in range(blocks):
                yield self.filters(FILTERS * 2**stage), 2 if stage and not number else 1

    def filters(self, published: int) -> int:
        """A published number of filters, scaled."""
        return scaled(published, self.width)


def changes(stack: Stack, filters: int, stride: int) -> bool:
    """Whether a block of so many ``filters`` hands on another shape than ``stack`` has."""
    return stride != 1 or filters != stack.shape[0]


def add_block(
    stack: Stack,
    fill: Build,
    project: Build | None = None,
    join: Callable[[nn.Module, nn.Module], nn.Module] = Residual,
    kind: str = "block",
) -> None:
    """A block that joins the body that ``fill`` makes with x, or with what ``project`` makes of x.

    Raises `ConfigError` where the two have different shapes.
    """
    body, shortcut = stack.branch(), stack.branch()
    fill(body)
    if project:
        project(shortcut)
    if body.shape != shortcut.shape:
        raise ConfigError(
            f"a block makes {list(body.shape)} of features {list(stack.shape)}, and its shortcut "
            f"{list(shortcut.shape)}; expected the same: images whose sides can be halved in every stage, such as 32 "
            "or 224"
        )
    stack.append(kind, join(body.layers, shortcut.layers))
    stack.shape = body.shape


def add_membrane_block(stack: Stack, activate: Build, fill: Build, project: Build | None) -> None:
    """A block whose identity shortcut carries x itself, and whose projection reads a = activate(x).

    x + body(a), or project(a) + body(a).
    """

    def whole(body: Stack) -> None:
        activate(body)
        fill(body)

    if project is None:
        return add_block(stack, whole)
    activate(stack)
    return add_block(stack, fill, project)


def spiking_stem(stack: Stack, filters: int) -> None:
    """A convolution of 3 x 3 and neurons: for images of 32 x 32."""
    stack.spiking("conv", stack.conv(filters, 3))


def pooled_stem(stack: Stack, filters: int) -> None:
    """A convolution of 7 x 7 with stride 2, neurons, and maximum pooling that halves: for images of 224 x 224."""
    stack.spiking("conv", stack.conv(filters, 7, 2))
    stack.pool("MP", 3, stride=2, padding=1)


def start_norm(layers: nn.Module, name: str, scale: float, shift: float = 0.0) -> None:
    """The initial scale and shift of the norm ``name`` of a stack; of scale 0, it sends the shift alone."""
    norm: Any = layers.get_submodule(name)
    nn.init.constant_(norm.weight, scale)
    nn.init.constant_(norm.bias, shift)
