"""Spike-element-wise ResNets (Fang et al. 2021): what a block's body and its shortcut join are spikes.

    s' = g(LIF(BN(conv(LIF(BN(conv(s)))))), shortcut(s))

g is *add* (a + s, small whole numbers), *and* (a s) or *iand* (s (1 - a)); the shortcut is s itself, or
LIF(BN(conv1x1(s))) where the shape changes. The body's last norm starts constant, so that every block starts as the
identity: silent for *add* and *iand*, always firing for *and* (neurons of threshold 1). Published with IF neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from pydantic import Field
from torch import nn

from onward.core.attention import Gate, Veto
from onward.core.containers import Joined, Residual
from onward.core.network import Network
from onward.models.layers import Stack, Style
from onward.models.registry import MakeNeuron, models
from onward.models.stages import (
    DEPTHS,
    FILTERS,
    ResidualOptions,
    add_block,
    changes,
    pooled_stem,
    spiking_stem,
    start_norm,
)


class SEWOptions(ResidualOptions):
    """Options of a SEW-ResNet."""

    connect: Literal["add", "and", "iand"] = Field(
        "add", description="what a block makes of its body's spikes a and its shortcut's s: a + s, a s, or s (1 - a)"
    )


class _Connection(NamedTuple):
    """How spikes are joined, and what the body's last norm sends at the start so that the block is the identity."""

    join: Callable[[nn.Module, nn.Module], nn.Module]
    start: float


def _joined(glue: type[nn.Module], body: nn.Module, shortcut: nn.Module) -> nn.Module:
    return Joined(glue(), body=body, shortcut=shortcut)


_CONNECTIONS = {
    "add": _Connection(Residual, 0.0),
    "and": _Connection(partial(_joined, Gate), 1.0),
    "iand": _Connection(partial(_joined, Veto), 0.0),
}


def _add(stack: Stack, filters: int, stride: int, connection: _Connection) -> None:
    """A block at the end of ``stack``."""

    def fill(body: Stack) -> None:
        body.spiking("conv", body.conv(filters, 3, stride))
        body.spiking("conv", body.conv(filters, 3))
        start_norm(body.layers, "norm2", scale=0, shift=connection.start)

    def project(shortcut: Stack) -> None:
        shortcut.spiking("conv", shortcut.conv(filters, 1, stride))

    add_block(stack, fill, project if changes(stack, filters, stride) else None, connection.join)


def _build(
    stem: Callable[[Stack, int], None],
    choice: SEWOptions,
    features: tuple[int, ...],
    classes: int,
    neuron: MakeNeuron,
) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False))
    stem(stack, choice.filters(FILTERS))
    for filters, stride in choice.places():
        _add(stack, filters, stride, _CONNECTIONS[choice.connect])
    stack.adaptive_pool(1)
    return Network(stack.readout())


for _depth, _blocks in DEPTHS.items():
    for _kind, _stem, _images in (("", spiking_stem, "CIFAR"), ("-imagenet", pooled_stem, "ImageNet")):
        models.register(
            f"sew-resnet{_depth}{_kind}",
            SEWOptions,
            partial(_build, _stem),
            f"spike-element-wise ResNet-{_depth} for {_images}",
            defaults={"blocks": _blocks},
        )
