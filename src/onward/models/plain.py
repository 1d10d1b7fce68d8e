"""Feed-forward networks: fully connected, from a line of text, and the named convolutional ones."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from pydantic import Field
from torch import nn

from onward.core.containers import Residual
from onward.core.network import Network
from onward.models.layers import Stack, build_layers, scaled, widened
from onward.models.registry import ConvOptions, MakeNeuron, NetworkOptions, Norm, models
from onward.weights import ACTIVATION_SCALE

CONV5 = "128C3-AP2-256C3-AP2-512C3-AP2-512C3-FC"
VGG = "64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-GAP-FC"
VGGSNN = "64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2-FC"


class MLPOptions(NetworkOptions):
    """Options of a fully connected network."""

    hidden: list[Annotated[int, Ge(1)]] = Field([800, 800], description="units of the hidden layers; []: none")
    bias: bool = Field(True, description="whether the layers have biases")


class LayersOptions(NetworkOptions):
    """Options of a network given as a line of text."""

    spec: str = Field("128C3-AP2-256C3-AP2-FC", description="layers joined by '-', such as 128C3-AP2-256C3-AP2-FC")


class DeepConvOptions(ConvOptions):
    """Options of the nine-layer network."""

    residual: bool = Field(False, description="add a layer's input spikes to its output where shapes agree")


class VGGSNNOptions(ConvOptions):
    """Options of TET's network for event recordings."""

    norm: Norm = "batch"


class VGG11Options(ConvOptions):
    """Options of DSR's VGG-11."""

    norm: Norm = "batch"
    spiking_readout: bool = Field(
        True, description="end in neurons: outputs are spikes, normalised before if norm is batch"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of every layer's spikes, one mask a sequence")


def _mlp(choice: MLPOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = choice.stack(features, classes, neuron)
    for units in choice.hidden:
        stack.spiking("fc", stack.linear(units))
    network = Network(stack.readout())
    if not choice.bias:
        for node in network.synapses:
            node.module.register_parameter("bias", None)
    return network


def _layers(choice: LayersOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return Network(build_layers(choice.spec, choice.stack(features, classes, neuron)))


def _conv5(choice: ConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return Network(build_layers(widened(CONV5, choice.width), choice.stack(features, classes, neuron)))


def _conv9(choice: DeepConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = choice.stack(features, classes, neuron)
    for place, published in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
        filters = scaled(published, choice.width)
        if choice.residual and stack.shape[0] == filters:
            _residual_conv(stack, filters)
        else:
            stack.spiking("conv", stack.conv(filters, 3))
        if place in (1, 3, 5):
            stack.pool("AP", 2)
    return Network(stack.readout())


def _residual_conv(stack: Stack, filters: int) -> None:
    """A spiking convolution whose input is added to its output."""
    inner = stack.branch()
    inner.spiking("conv", inner.conv(filters, 3))
    stack.append("block", Residual(inner.layers))
    stack.shape = inner.shape


def _vgg(choice: ConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    layers = build_layers(widened(VGG, choice.width), choice.stack(features, classes, neuron))
    small_readout(layers)
    return Network(layers)


def _vggsnn(choice: VGGSNNOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return Network(build_layers(widened(VGGSNN, choice.width), choice.stack(features, classes, neuron)))


def _vgg11(choice: VGG11Options, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    """DSR's VGG-11: its readout reads 7 x 7 places, of which recordings of 48 x 48 fill one, 49 times."""
    stack = choice.stack(features, classes, neuron)
    for place, filters in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
        stack.spiking("conv", stack.conv(scaled(filters, choice.width), 3))
        stack.drop(choice.dropout)
        if place in (0, 1, 3, 5, 7):
            stack.pool("AP", 2)
    stack.adaptive_pool(7)
    layers = stack.readout()
    small_readout(layers)
    return Network(layers)


def small_readout(layers: nn.Sequential) -> None:
    """Draws the weights of the readout from N(0, 0.01^2)."""
    nn.init.normal_(layers.get_submodule("readout").get_parameter("weight"), std=0.01)


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
    "vggsnn", VGGSNNOptions, _vggsnn, f"VGGSNN of TET and LocalZO for event recordings: {VGGSNN}, batch norm"
)
models.register("vgg11", VGG11Options, _vgg11, "DSR's VGG-11 for event recordings, batch norm, ends in neurons")
