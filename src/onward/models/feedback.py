"""Networks whose last spiking layer feeds back into the first, one time step late."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import nn

from onward.core.containers import Feedback
from onward.core.errors import ConfigError
from onward.core.network import Network
from onward.models.initial import kaiming_in, unit
from onward.models.layers import (
    Stack,
    Style,
    build_hidden,
    build_layers,
    kind_of,
    mask_of,
    parse_tokens,
    synapse_of,
    widened,
)
from onward.models.plain import VGG, small_readout
from onward.models.registry import ConvOptions, MakeNeuron, NetworkOptions, Norm, models
from onward.weights import RestrictionChoice, restrictions

ALEXNET = "96C3s2-256C3-384C3s2-384C3-256C3"
CIFARNET = "128C3s2-256C3-512C3s2-1024C3-512C3"
NO_FEEDBACK = "none"
_INITS = {"unit": unit, "kaiming": kaiming_in}
_VECTORS = "for samples that are vectors: --model feedback --model.layers 400 --model.back 400"


class LoopOptions(NetworkOptions):
    """Options of a network with feedback, whose layers have a name."""

    norm: Norm = "batch"
    width: float = Field(1.0, gt=0, description="factor on the numbers of filters")
    bias: bool = Field(True, description="whether layers have biases; feedback never has, the readout always")
    dropout: float = Field(
        0.2, ge=0, lt=1, description="dropout of the drive of every layer and of the feedback, one mask a sequence"
    )
    init: Literal["unit", "kaiming"] = Field(
        "unit", description="initial weights: filters of length 1, or Kaiming normal by fan-in; biases 0"
    )
    back_scale: float = Field(1.0, gt=0, description="factor on the initial weights of the feedback")
    restriction: RestrictionChoice = Field(
        restrictions.parse("spectral"), description="how the norm of the feedback's weights is kept small"
    )

    @property
    def style(self) -> Style:
        """See `NetworkOptions.style`."""
        return replace(super().style, bias=self.bias, dropout=self.dropout, init=_INITS[self.init], gain=1.0)


class FeedbackOptions(LoopOptions):
    """Options of a network with feedback."""

    layers: str = Field(
        "64C5s2", description="spiking layers joined by '-', such as 96C3s2-256C3, or 400 for samples that are vectors"
    )
    back: str = Field(
        "64C5",
        description="feedback from the last spiking layer to the first: 64C5, 64T3s2 (transposed), 400, or none",
    )


def _feedback(choice: FeedbackOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return _looped(choice, choice.layers, choice.back, choice.stack(features, classes, neuron))


def _alexnet_f(choice: LoopOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return _looped(choice, ALEXNET, "96T3s2", choice.stack(features, classes, neuron))


def _cifarnet_f(choice: LoopOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    return _looped(choice, CIFARNET, "128T3s2", choice.stack(features, classes, neuron))


def _looped(choice: LoopOptions, layers: str, back: str, stack: Stack) -> Network:
    """The spiking ``layers``, the feedback ``back``, and a readout of the last layer's spikes."""
    first = parse_tokens(layers)[0]
    if first["filters"] and not stack.rank:
        raise ConfigError(
            f"the first layer {first.group()} is a convolution and cannot read features {list(stack.shape)}; {_VECTORS}"
        )
    build_hidden(widened(layers, choice.width), stack)
    finished = stack.readout()
    if back == NO_FEEDBACK:
        return Network(finished)
    start, stop = stack.fired[0].start, stack.fired[-1].stop
    way_back = _way_back(choice, widened(back, choice.width), stack)
    return _closed(finished[:start], finished[start:stop], way_back, finished[stop:])


def _way_back(choice: LoopOptions, text: str, stack: Stack) -> nn.Sequential:
    """The feedback from the last spikes of ``stack`` to its first drive: weights within a norm, and dropout."""
    token = parse_tokens(text)[0]
    kind = kind_of(token)
    if kind is None or token.group() != text:
        raise ConfigError(f"the feedback {text!r} is not one layer; expected 64C5, 64T3s2, 400 or {NO_FEEDBACK}")
    into, out = stack.fired[0].shape, stack.fired[-1].shape
    if token["filters"] and len(out) == 1:
        raise ConfigError(
            f"the feedback {text} is a convolution, and the last spiking layer has shape {list(out)}; "
            f"use --model.back {into[0]}"
        )
    back = Stack(out, stack.classes, stack.neuron, Style(bias=False, init=stack.style.init))
    synapse = synapse_of(token, back)
    if back.shape != into:
        raise ConfigError(
            f"the feedback {text} makes {list(back.shape)} of the last spiking layer's {list(out)}, and the first has "
            f"{list(into)}; expected the same: {into[0]} filters, as many strides back as forward, and sides of the "
            "input that divide by them"
        )
    synapse.get_parameter("weight").data.mul_(choice.back_scale)
    back.append(kind, restrictions.build(choice.restriction).apply(synapse, out))
    asked = mask_of(token)
    back.drop(choice.dropout if asked is None else asked)
    return back.layers


def _closed(entry: nn.Module, body: nn.Module, back: nn.Module, tail: nn.Module) -> Network:
    """entry(x) + back(body's output of the step before) -> body -> tail."""
    network = nn.Sequential()
    network.add_module("loop", Feedback(entry, body, back))
    for name, module in tail.named_children():
        network.add_module(name, module)
    return Network(network)


def _vgg_f(choice: ConvOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    """OTTT's VGG with a delayed feedback convolution from the last spiking layer to the first."""
    if len(features) != 3 or features[1] % 8 or features[2] % 8:
        raise ConfigError(
            f"vgg-f feeds its last spikes back enlarged by 8, and features {list(features)} were given; expected "
            "[channels, height, width] with sides that divide by 8"
        )
    stack = choice.stack(features, classes, neuron)
    layers = build_layers(widened(VGG, choice.width), stack)
    small_readout(layers)
    stop = stack.fired[-1].stop
    back = nn.Sequential(nn.Upsample(scale_factor=8, mode="nearest"), _zero_conv(stack))
    return _closed(layers[0], layers[1:stop], back, layers[stop:])


def _zero_conv(stack: Stack) -> nn.Conv2d:
    back = nn.Conv2d(stack.fired[-1].shape[0], stack.fired[0].shape[0], 3, padding=1)
    nn.init.zeros_(back.weight)
    nn.init.zeros_(back.bias)  # type: ignore[arg-type]
    return back


models.register("feedback", FeedbackOptions, _feedback, "spiking layers with feedback from the last to the first (IDE)")
models.register("alexnet-f", LoopOptions, _alexnet_f, f"IDE's AlexNet-F: {ALEXNET}, feedback 96T3s2")
models.register("cifarnet-f", LoopOptions, _cifarnet_f, f"IDE's CIFARNet-F: {CIFARNET}, feedback 128T3s2")
models.register(
    "vgg-f", ConvOptions, _vgg_f, "OTTT's VGG with delayed feedback from the last spiking layer to the first"
)
