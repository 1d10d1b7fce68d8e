"""Norm-free ResNets of OTTT and SLTT (after Brock et al. 2021): standardised weights in place of normalisation.

    h = 2.74 LIF(x / beta),    x' = shortcut + 0.2 g body(h)

The shortcut is x itself, or a convolution of 1 x 1 of h where the shape changes. g is one learned number a block, at
first 0. The body is conv3x3 - 2.74 LIF - conv3x3 (18 and 34 layers), or conv1x1 - 2.74 LIF - conv3x3 - 2.74 LIF -
conv1x1 with four times the filters (50 and 101). beta^2 is the variance that x is expected to have: 1 at the start and
behind a block that changes the shape, 0.04 more behind every block. The stem is conv7x7 with stride 2 and average
pooling, without neurons; the readout reads x itself, averaged over positions, and starts at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn

from onward.core.glue import Fitted, Scale
from onward.core.network import Network
from onward.models.layers import Stack, Style
from onward.models.registry import MakeNeuron, models
from onward.models.stages import DEPTHS, FILTERS, ResidualOptions, add_membrane_block, changes

ALPHA = 0.2
"""What a block's body is multiplied by, beside its learned gain."""

Body = Callable[[Stack, int, int], None]
"""What adds the body of a block, of so many filters and a stride, at the end of a stack."""


class SkipGain(Fitted):
    """alpha g x, with one learned number g that starts at 0, so that a block starts as its shortcut."""

    def __init__(self, alpha: float = ALPHA):
        super().__init__()
        self.alpha, self.gain = alpha, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """alpha g x."""
        return x * (self.alpha * self.gain)

    def extra_repr(self) -> str:
        """alpha."""
        return f"{self.alpha:.4g}"


def _basic(body: Stack, filters: int, stride: int) -> None:
    body.spiking("conv", body.conv(filters, 3, stride))
    body.append("conv", body.conv(filters, 3))


def _bottleneck(body: Stack, filters: int, stride: int) -> None:
    body.spiking("conv", body.conv(filters, 1))
    body.spiking("conv", body.conv(filters, 3, stride))
    body.append("conv", body.conv(4 * filters, 1))


def _add(stack: Stack, filters: int, stride: int, body: Body, wide: int, variance: float) -> float:
    """A block whose output has ``wide`` times the filters; returns the variance expected behind it."""

    def activate(inner: Stack) -> None:
        inner.append("scale", Scale(1 / sqrt(variance)))
        inner.fire()

    def fill(inner: Stack) -> None:
        body(inner, filters, stride)
        inner.append("gain", SkipGain())

    def project(shortcut: Stack) -> None:
        shortcut.append("conv", shortcut.conv(wide * filters, 1, stride))

    projected = changes(stack, wide * filters, stride)
    add_membrane_block(stack, activate, fill, project if projected else None)
    return (1 if projected else variance) + ALPHA**2


def _build(
    body: Body, wide: int, choice: ResidualOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron
) -> Network:
    stack = Stack(features, classes, neuron, Style("ws", gain=0.0))
    stack.append("conv", stack.conv(choice.filters(FILTERS), 7, 2))
    stack.pool("AP", 3, stride=2, padding=1)
    variance = 1.0
    for filters, stride in choice.places():
        variance = _add(stack, filters, stride, body, wide, variance)
    stack.adaptive_pool(1)
    return Network(stack.readout())


for _depth, _blocks, _body, _wide in (
    (18, DEPTHS[18], _basic, 1),
    (34, DEPTHS[34], _basic, 1),
    (50, DEPTHS[34], _bottleneck, 4),
    (101, [3, 4, 23, 3], _bottleneck, 4),
):
    models.register(
        f"nf-resnet{_depth}",
        ResidualOptions,
        partial(_build, _body, _wide),
        f"norm-free ResNet-{_depth} of OTTT and SLTT for ImageNet, standardised weights",
        defaults={"blocks": _blocks},
    )
