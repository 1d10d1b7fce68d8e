"""The pre-activation ResNet-18 of HLOP: the identity shortcut carries what the block reads, before any neuron.

    a = LIF(BN(x)),    x' = shortcut + conv3x3(LIF(BN(conv3x3(a))))

The shortcut is x itself, real numbers, or a convolution of 1 x 1 of a where the shape changes. 20 filters in the first
stage, no biases; normalisation, neurons and global pooling in front of the readout, drawn from N(0, 0.01^2). The first
convolution is 3 x 3 for images of 32 x 32, and 5 x 5 with stride 2 for those of 84 x 84.
"""

from __future__ import annotations

from pydantic import Field

from onward.core.network import Network
from onward.models.layers import Stack, Style
from onward.models.plain import small_readout
from onward.models.registry import MakeNeuron, models
from onward.models.stages import FILTERS, ResidualOptions, add_membrane_block, changes

BASE = 20
"""Filters of the first stage."""


class HLOPOptions(ResidualOptions):
    """Options of HLOP's ResNet-18."""

    width: float = Field(BASE / FILTERS, gt=0, description=f"factor on {FILTERS} filters in the first stage")
    kernel: int = Field(3, ge=1, description="side of the first convolution's filters: 3, or 5 for images of 84 x 84")
    stride: int = Field(1, ge=1, description="stride of the first convolution: 1, or 2 for images of 84 x 84")


def _activate(stack: Stack) -> None:
    stack.normalise()
    stack.fire()


def _add(stack: Stack, filters: int, stride: int) -> None:
    """A block at the end of ``stack``."""

    def fill(body: Stack) -> None:
        body.append("conv", body.conv(filters, 3, stride))
        _activate(body)
        body.append("conv", body.conv(filters, 3))

    def project(shortcut: Stack) -> None:
        shortcut.append("conv", shortcut.conv(filters, 1, stride))

    add_membrane_block(stack, _activate, fill, project if changes(stack, filters, stride) else None)


def _hlop(choice: HLOPOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False))
    stack.append("conv", stack.conv(choice.filters(FILTERS), choice.kernel, choice.stride))
    for filters, stride in choice.places():
        _add(stack, filters, stride)
    _activate(stack)
    stack.adaptive_pool(1)
    layers = stack.readout()
    small_readout(layers)
    return Network(layers)


models.register("hlop-resnet18", HLOPOptions, _hlop, "HLOP's pre-activation ResNet-18, 20 filters in the first stage")
