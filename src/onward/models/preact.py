"""Pre-activation ResNets of DSR and SLTT: the residual path always carries spikes.

A block is norm - neurons - conv3x3 - norm - neurons - dropout - conv3x3, added to the spikes of its first neurons, as
they are, or through a convolution of 1 x 1 where the shape changes. Those of DSR (Meng et al. 2022) end in neurons,
that of SLTT (Meng et al. 2023) in a linear readout.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from onward.core.network import Network
from onward.models.layers import Stack, Style
from onward.models.registry import MakeNeuron, models
from onward.models.stages import DEPTHS, FILTERS, ResidualOptions, add_block, changes


class PreActOptions(ResidualOptions):
    """Options of a pre-activation ResNet."""

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

        def fill(body: Stack) -> None:
            body.append("conv", body.conv(filters, 3, stride))
            body.normalise()
            body.fire()
            body.drop(self.dropout)
            body.append("conv", body.conv(filters, 3))

        def project(shortcut: Stack) -> None:
            shortcut.append("conv", shortcut.conv(filters, 1, stride))
            if self.normalised_shortcuts:
                shortcut.normalise()

        stack.normalise()
        stack.fire()
        add_block(stack, fill, project if changes(stack, filters, stride) else None)

    def add_stages(self, stack: Stack, choice: PreActOptions) -> None:
        """All stages, and the norm and neurons behind them."""
        for filters, stride in choice.places():
            self.add(stack, filters, stride)
        stack.normalise()
        stack.fire()


def _cifar(choice: PreActOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = _small(choice, Stack(features, classes, neuron, Style("batch", gain=1.0, spiking_readout=True)))
    stack.fire()
    return Network(stack.readout())


def _sltt(choice: PreActOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return Network(_small(choice, Stack(features, classes, neuron, Style("batch"))).readout())


def _small(choice: PreActOptions, stack: Stack) -> Stack:
    """Stem, stages and pooling for images of 32 x 32."""
    stack.append("conv", stack.conv(choice.filters(FILTERS), 3, bias=False))
    _Blocks(choice.dropout, normalised_shortcuts=False).add_stages(stack, choice)
    stack.pool("AP", 4)
    return stack


def _imagenet(choice: PreActOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False, gain=1.0, spiking_readout=True))
    stack.spiking("conv", stack.conv(choice.filters(FILTERS), 7, 2))
    stack.pool("AP", 3, stride=2, padding=1)
    _Blocks(choice.dropout, normalised_shortcuts=True).add_stages(stack, choice)
    stack.adaptive_pool(1)
    stack.fire()
    return Network(stack.readout())


for _depth, _blocks in DEPTHS.items():
    _name, _defaults = f"preact-resnet{_depth}", {"blocks": _blocks}
    _summary = f"DSR's pre-activation ResNet-{_depth} for {{}}, ends in neurons"
    models.register(_name, PreActOptions, _cifar, _summary.format("CIFAR"), defaults=_defaults)
    models.register(f"{_name}-imagenet", PreActOptions, _imagenet, _summary.format("ImageNet"), defaults=_defaults)
models.register("sltt-resnet18", PreActOptions, _sltt, "SLTT's pre-activation ResNet-18 for CIFAR, a linear readout")
