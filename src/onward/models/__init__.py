"""Network topologies, and their names for configurations. They know no learning rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import nn

from onward.core.containers import Feedback, Residual
from onward.core.errors import ConfigError
from onward.core.network import Network
from onward.core.neuron import Neuron
from onward.core.registry import Choice, Registry
from onward.models.layers import Stack, build_layers
from onward.weights import ACTIVATION_SCALE

__all__ = ["ModelChoice", "Stack", "build", "build_layers", "models"]

MakeNeuron = Callable[[], Neuron]
CONV5 = "128C3-AP2-256C3-AP2-512C3-AP2-512C3-FC"
VGG = "64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-GAP-FC"

Norm = Annotated[
    Literal["none", "batch", "ws"],
    Field(description="between synapse and neuron: nothing, batch normalisation, or standardised weights"),
]


class NetworkOptions(Choice):
    """Options of every network."""

    norm: Norm = "none"
    readout_tau: float | None = Field(
        None, ge=1, description="time constant in steps of a leaky readout; none: a readout without memory"
    )

    def stack(self, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Stack:
        """An empty stack with these options."""
        return Stack(features, classes, neuron, self.norm, self.readout_tau)


class MLPOptions(NetworkOptions):
    """Options of a fully connected network."""

    hidden: list[Annotated[int, Ge(1)]] = Field([800, 800], description="units of the hidden layers; []: none")
    bias: bool = Field(True, description="whether the layers have biases")


class LayersOptions(NetworkOptions):
    """Options of a network given as a line of text."""

    spec: str = Field("128C3-AP2-256C3-AP2-FC", description="layers joined by '-', such as 128C3-AP2-256C3-AP2-FC")


class ConvOptions(NetworkOptions):
    """Options of a named convolutional network."""

    width: float = Field(1.0, gt=0, description="factor on the published numbers of filters")
    norm: Norm = "ws"


class DeepConvOptions(ConvOptions):
    """Options of the nine-layer network."""

    residual: bool = Field(False, description="add a layer's input spikes to its output where shapes agree")


def _mlp(choice: MLPOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = choice.stack(features, classes, neuron)
    for units in choice.hidden:
        stack.spiking_linear(units)
    network = Network(stack.readout())
    if not choice.bias:
        for node in network.synapses:
            node.module.register_parameter("bias", None)
    return network


def _layers(choice: LayersOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return Network(build_layers(choice.spec, choice.stack(features, classes, neuron)))


def _conv5(choice: ConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    spec = _widened(CONV5, choice.width)
    return Network(build_layers(spec, choice.stack(features, classes, neuron)))


def _conv9(choice: DeepConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = choice.stack(features, classes, neuron)
    for place, filters in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
        filters = max(1, round(filters * choice.width))
        if choice.residual and stack.shape[0] == filters:
            _residual_conv(stack, filters)
        else:
            stack.spiking_conv(filters, 3)
        if place in (1, 3, 5):
            stack.pool("AP", 2)
    return Network(stack.readout())


def _residual_conv(stack: Stack, filters: int) -> None:
    """A spiking convolution whose input is added to its output."""
    inner = Stack(stack.shape, stack.classes, stack.neuron, stack.norm)
    inner.spiking_conv(filters, 3)
    stack.append("block", Residual(inner.layers))
    stack.shape = inner.shape


def _vgg(choice: ConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = choice.stack(features, classes, neuron)
    _small_readout(build_layers(_widened(VGG, choice.width), stack))
    return Network(stack.layers)


def _vgg_f(choice: ConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    """OTTT's VGG with a delayed feedback convolution from the last spiking layer to the first."""
    if len(features) != 3 or features[1] % 8 or features[2] % 8:
        raise ConfigError(
            f"vgg-f feeds its last spikes back enlarged by 8, and features {list(features)} were given; expected "
            "[channels, height, width] with sides that divide by 8"
        )
    plain = choice.stack(features, classes, neuron)
    layers = dict(build_layers(_widened(VGG, choice.width), plain).named_children())
    _small_readout(plain.layers)
    entry, tail = layers.pop("conv1"), [name for name in layers if name in ("pool4", "flatten", "readout", "membrane")]
    body = nn.Sequential()
    for name, module in layers.items():
        if name not in tail:
            body.add_module(name, module)
    back = nn.Sequential(nn.Upsample(scale_factor=8, mode="nearest"), _zero_conv(body, entry))
    network = nn.Sequential()
    network.add_module("loop", Feedback(entry, body, back))
    for name in tail:
        network.add_module(name, layers[name])
    return Network(network)


def _zero_conv(body: nn.Sequential, entry: nn.Module) -> nn.Conv2d:
    last = [module for module in body if isinstance(module, nn.Conv2d)][-1]
    assert isinstance(entry, nn.Conv2d)
    back = nn.Conv2d(last.out_channels, entry.out_channels, 3, padding=1)
    nn.init.zeros_(back.weight)
    nn.init.zeros_(back.bias)  # type: ignore[arg-type]
    return back


def _widened(spec: str, width: float) -> str:
    """A layer string with its numbers of filters scaled."""
    return re.sub(r"(\d+)C", lambda match: f"{max(1, round(int(match[1]) * width))}C", spec)


def _small_readout(layers: nn.Sequential) -> None:
    readout = layers.get_submodule("readout")
    assert isinstance(readout, nn.Linear)
    nn.init.normal_(readout.weight, std=0.01)


models: Registry[Network] = Registry("model")
models.register("mlp", MLPOptions, _mlp, "fully connected; 784-800-800-10 on MNIST")
models.register(
    "layers", LayersOptions, _layers, "any feed-forward network, from a line such as 128C3-AP2-256C3-AP2-FC"
)
models.register("conv5", ConvOptions, _conv5, f"{CONV5} (OPZO's five layers)")
models.register(
    "conv9", DeepConvOptions, _conv9, "OTTT's VGG without global pooling (OPZO's nine layers), residual if asked"
)
models.register("vgg", ConvOptions, _vgg, f"OTTT's VGG: {VGG}, standardised weights, scale {ACTIVATION_SCALE}")
models.register(
    "vgg-f", ConvOptions, _vgg_f, "OTTT's VGG with delayed feedback from the last spiking layer to the first"
)

build = models.build

ModelChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(models.parse)]
