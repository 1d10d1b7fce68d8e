"""The networks of the ZO-SNN project: currents are rectified, and pooled, before hidden neurons; outputs are spikes."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from pydantic import Field
from torch import nn

from onward.core.errors import ConfigError
from onward.core.network import Network
from onward.core.registry import Choice
from onward.models.initial import uniform
from onward.models.layers import Stack, Style
from onward.models.registry import MakeNeuron, models

STYLE = Style(init=uniform, gain=1.0, spiking_readout=True)


class LinearOptions(Choice):
    """Options of the fully connected network."""

    hidden: list[Annotated[int, Ge(1)]] = Field([20], description="units of the hidden layers: 20, 40, or 20 and 20")


def _linear(choice: LinearOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, STYLE)
    for units in choice.hidden:
        _rectified(stack, "fc", stack.linear(units))
    return Network(stack.readout())


def _conv(_: Choice, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    if len(features) != 3:
        raise ConfigError(f"zosnn-conv reads images, and features {list(features)} were given; use zosnn-linear")
    stack = Stack(features, classes, neuron, STYLE)
    for filters in (20, 50):
        _rectified(stack, "conv", stack.conv(filters, 5, padding=0), pool=2)
    _rectified(stack, "fc", stack.linear(500))
    return Network(stack.readout())


def _rectified(stack: Stack, kind: str, synapse: nn.Module, pool: int = 0) -> None:
    """A synapse, its currents where they are positive, the largest of each patch of ``pool``, neurons."""
    stack.append(kind, synapse)
    stack.append("relu", nn.ReLU())
    if pool:
        stack.pool("MP", pool)
    stack.fire()


models.register("zosnn-linear", LinearOptions, _linear, "784-20-10, rectified currents, spiking outputs (ZO-SNN)")
models.register("zosnn-conv", Choice, _conv, "two convolutions and 500 units, rectified and max-pooled (ZO-SNN)")
