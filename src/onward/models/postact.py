"""Post-activation residual networks: a block adds drives, and neurons fire behind the sum.

    s' = LIF(BN(conv(LIF(BN(conv(s))))) + shortcut(s))

The shortcut carries spikes: s itself, or BN(conv1x1(s)) where the shape changes. *ResNet-19* of TET, tdBN and LocalZO
has a stem of 64 filters; three blocks of 128, three of 256 and two of 512, of which the second and third group halve
sides; global pooling; 256 units; a readout. *ResNet-18* and *34* are those of He et al. 2016: with rectifiers for
neurons they are the networks whose weights other libraries offer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pydantic import Field

from onward.core.network import Network
from onward.core.registry import Choice
from onward.models.layers import Stack, Style, scaled
from onward.models.registry import MakeNeuron, models
from onward.models.stages import (
    DEPTHS,
    FILTERS,
    ResidualOptions,
    add_block,
    changes,
    pooled_stem,
    spiking_stem,
)

STAGES = ((128, 3, 1), (256, 3, 2), (512, 2, 2))
"""Filters, blocks, and stride of the first of them."""
UNITS = 256
"""Of the fully connected layer in front of the readout."""


class PostActOptions(Choice):
    """Options of ResNet-19."""

    width: float = Field(1.0, gt=0, description="factor on the published numbers of filters and units")


def _add(stack: Stack, filters: int, stride: int) -> None:
    """A block at the end of ``stack``, and the neurons behind its sum."""

    def fill(body: Stack) -> None:
        body.spiking("conv", body.conv(filters, 3, stride))
        body.append("conv", body.conv(filters, 3))
        body.normalise()

    def project(shortcut: Stack) -> None:
        shortcut.append("conv", shortcut.conv(filters, 1, stride))
        shortcut.normalise()

    add_block(stack, fill, project if changes(stack, filters, stride) else None)
    stack.fire()


def _resnet19(choice: PostActOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False))
    spiking_stem(stack, scaled(64, choice.width))
    for published, blocks, stride in STAGES:
        for number in range(blocks):
            _add(stack, scaled(published, choice.width), 1 if number else stride)
    stack.adaptive_pool(1)
    stack.append("fc", stack.linear(scaled(UNITS, choice.width), bias=True))
    stack.fire()
    return Network(stack.readout())


def _staged(
    stem: Callable[[Stack, int], None],
    choice: ResidualOptions,
    features: tuple[int, ...],
    classes: int,
    neuron: MakeNeuron,
) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False))
    stem(stack, choice.filters(FILTERS))
    for filters, stride in choice.places():
        _add(stack, filters, stride)
    stack.adaptive_pool(1)
    return Network(stack.readout())


for _depth, _blocks in DEPTHS.items():
    for _kind, _stem, _images in (("", spiking_stem, "CIFAR"), ("-imagenet", pooled_stem, "ImageNet")):
        models.register(
            f"postact-resnet{_depth}{_kind}",
            ResidualOptions,
            partial(_staged, _stem),
            f"post-activation ResNet-{_depth} for {_images}; takes the weights of its ReLU original",
            defaults={"blocks": _blocks},
        )
models.register("resnet19", PostActOptions, _resnet19, "post-activation ResNet-19 of TET, tdBN and LocalZO for CIFAR")
