"""ResNets with a shortcut around every single convolution, after Bi-Real net and ReActNet (Liu et al. 2018, 2020).

    m' = f(m + BN(conv3x3(LIF(m + b))))
    m' = f(BN(conv1x1(average pooling(m))) + BN(conv3x3(LIF(m + b))))    where the shape changes

The membrane stream m carries real numbers through the whole network, so that weights and spikes of one bit lose little
of it. 4, 4, 4 and 4 blocks of one convolution make the network of 18 layers, 6, 8, 12 and 6 that of 34; neurons and
global pooling stand in front of the readout. b is a learned shift and f RPReLU, or 0 and the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pydantic import Field
from torch import nn

from onward.core.glue import RPReLU, Shift
from onward.core.network import Network
from onward.models.layers import Stack, Style
from onward.models.registry import MakeNeuron, models
from onward.models.stages import DEPTHS, FILTERS, ResidualOptions, add_block, changes


class MultiShortcutOptions(ResidualOptions):
    """Options of a ResNet with a shortcut around every convolution."""

    shifts: bool = Field(True, description="learned shifts in front of neurons, and RPReLU behind sums")


class Trimmings(NamedTuple):
    """What stands in front of neurons (b) and behind sums (f); each is made for a number of channels."""

    shift: Callable[[int], nn.Module]
    activation: Callable[[int], nn.Module]


def _nothing(channels: int) -> nn.Module:  # noqa: ARG001
    return nn.Identity()


_TRIMMINGS = {True: Trimmings(Shift, RPReLU), False: Trimmings(_nothing, _nothing)}
"""By whether there are learned shifts."""


def _add(stack: Stack, filters: int, stride: int, trimmings: Trimmings) -> None:
    """A block at the end of ``stack``."""

    def fill(body: Stack) -> None:
        body.append("shift", trimmings.shift(body.shape[0]))
        body.fire()
        body.append("conv", body.conv(filters, 3, stride))
        body.normalise()

    def project(shortcut: Stack) -> None:
        if stride != 1:
            shortcut.pool("AP", stride)
        shortcut.append("conv", shortcut.conv(filters, 1))
        shortcut.normalise()

    add_block(stack, fill, project if changes(stack, filters, stride) else None)
    stack.append("activation", trimmings.activation(filters))


def _small_stem(stack: Stack, filters: int) -> None:
    stack.append("conv", stack.conv(filters, 3))
    stack.normalise()


def _large_stem(stack: Stack, filters: int) -> None:
    stack.append("conv", stack.conv(filters, 7, 2))
    stack.normalise()
    stack.pool("MP", 3, stride=2, padding=1)


def _build(
    stem: Callable[[Stack, int], None],
    choice: MultiShortcutOptions,
    features: tuple[int, ...],
    classes: int,
    neuron: MakeNeuron,
) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False))
    stem(stack, choice.filters(FILTERS))
    for filters, stride in choice.places():
        _add(stack, filters, stride, _TRIMMINGS[choice.shifts])
    stack.fire()
    stack.adaptive_pool(1)
    return Network(stack.readout())


for _depth, _pairs in DEPTHS.items():
    for _kind, _stem, _images in (("", _small_stem, "CIFAR"), ("-imagenet", _large_stem, "ImageNet")):
        models.register(
            f"multishortcut-resnet{_depth}{_kind}",
            MultiShortcutOptions,
            partial(_build, _stem),
            f"ResNet-{_depth} with a shortcut around every convolution, for {_images}",
            defaults={"blocks": [2 * pairs for pairs in _pairs]},
        )
