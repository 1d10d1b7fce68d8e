"""Pre-activation ResNets of DSR: the residual path always carries spikes, and outputs are spikes.

A block is norm - neurons - conv3x3 - norm - neurons - dropout - conv3x3, added to the spikes of its first neurons, as
they are, or through a convolution of 1 x 1 where the shape changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from pydantic import Field

from onward.core.containers import Residual
from onward.core.network import Network
from onward.core.registry import Choice
from onward.models.layers import Stack, Style, scaled
from onward.models.registry import MakeNeuron, models

FILTERS = 64
"""Of the first stage; every later one doubles them."""


class PreActOptions(Choice):
    """Options of a pre-activation ResNet."""

    width: float = Field(1.0, gt=0, description="factor on the published numbers of filters")
    blocks: list[Annotated[int, Ge(1)]] = Field(
        [2, 2, 2, 2], min_length=1, description="residual blocks of each stage; every stage but the first halves sides"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the second convolution of a block, one mask a sequence"
    )


@dataclass(frozen=True)
class _Blocks:
    """What the blocks of a network have in common."""

    dropout: float
    normalised_shortcuts: bool

    def add(self, stack: Stack, filters: int, stride: int) -> None:
        """A block at the end of ``stack``."""
        stack.normalise()
        stack.fire()
        body, shortcut = stack.branch(), stack.branch()
        body.append("conv", body.conv(filters, 3, stride))
        body.normalise()
        body.fire()
        body.drop(self.dropout)
        body.append("conv", body.conv(filters, 3))
        if body.shape != shortcut.shape:
            shortcut.append("conv", shortcut.conv(filters, 1, stride))
            if self.normalised_shortcuts:
                shortcut.normalise()
        stack.append("block", Residual(body.layers, shortcut.layers))
        stack.shape = body.shape

    def add_stages(self, stack: Stack, choice: PreActOptions) -> None:
        """All stages, and the norm and neurons behind them."""
        for stage, blocks in enumerate(choice.blocks):
            for number in range(blocks):
                self.add(stack, scaled(FILTERS * 2**stage, choice.width), 2 if stage and not number else 1)
        stack.normalise()
        stack.fire()


def _cifar(choice: PreActOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", gain=1.0, spiking_readout=True))
    stack.append("conv", stack.conv(scaled(FILTERS, choice.width), 3, bias=False))
    _Blocks(choice.dropout, normalised_shortcuts=False).add_stages(stack, choice)
    stack.pool("AP", 4)
    stack.fire()
    return Network(stack.readout())


def _imagenet(choice: PreActOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False, gain=1.0, spiking_readout=True))
    stack.spiking("conv", stack.conv(scaled(FILTERS, choice.width), 7, 2))
    stack.pool("AP", 3, stride=2, padding=1)
    _Blocks(choice.dropout, normalised_shortcuts=True).add_stages(stack, choice)
    stack.adaptive_pool(1)
    stack.fire()
    return Network(stack.readout())


models.register("preact-resnet18", PreActOptions, _cifar, "DSR's pre-activation ResNet-18 for CIFAR, ends in neurons")
models.register(
    "preact-resnet18-imagenet", PreActOptions, _imagenet, "DSR's pre-activation ResNet-18 for ImageNet, ends in neurons"
)
