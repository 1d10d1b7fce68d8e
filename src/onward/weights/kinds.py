"""What the weights of a whole network are, by name: real numbers, or one bit each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field
from torch import nn

from onward.core.errors import ConfigError, UnknownName
from onward.core.graph import Kind, Node
from onward.core.network import Network
from onward.core.registry import Choice, Registry
from onward.weights.binary import (
    Binarizer,
    Clipped,
    Estimator,
    Learned,
    MagnitudeAware,
    Straight,
    is_restricted,
    mean_magnitude,
    unscaled,
)
from onward.weights.operator import CONVOLUTIONS


class Weights(ABC):
    """What the synapses of a network compute with."""

    @abstractmethod
    def apply(self, net: Network) -> Network:
        """Makes the weights of ``net`` so, in place, and returns it; present weights are kept behind them.

        Raises `UnknownName`, `ConfigError` and `UnsupportedModule` for layers that cannot have them.
        """


class Real(Weights):
    """Weights as they are stored."""

    def apply(self, net: Network) -> Network:
        """See `Weights.apply`."""
        return net


@dataclass(frozen=True)
class OneBit(Weights):
    """See `onward.weights.binary.Binary`; ``layers`` are names or patterns of synapses, none: those of `inner`."""

    binarizer: Binarizer
    layers: tuple[str, ...] = ()

    def apply(self, net: Network) -> Network:
        """See `Weights.apply`."""
        nodes = named(net, self.layers) if self.layers else inner(net)
        if not nodes:
            raise ConfigError(
                "no layer of this network would have binary weights: the first layers, the readout and what is "
                "neither linear nor a convolution stay in full precision; use a deeper network, or name layers with "
                f"--weights.layers (there are {', '.join(node.name for node in net.synapses)})"
            )
        for module in dict.fromkeys(node.module for node in nodes):
            self.binarizer.apply(module)
        return net


def inner(net: Network) -> list[Node]:
    """The linear layers and convolutions with a spike before and behind them, in order.

    Left out are shortcuts that change the shape (convolutions of 1 x 1), and weights whose norm is restricted.
    """
    hidden = set(net.hidden)
    outer = {n.module for n in net.synapses if _reads_input(net, n) or net.reader(n) not in hidden}
    return [n for n in net.synapses if n.module not in outer and _takes_signs(n.module)]


def named(net: Network, patterns: Iterable[str]) -> list[Node]:
    """The synapses whose names fit a pattern, such as ``conv2`` or ``block*.body.*``; raises `UnknownName`."""
    names = [node.name for node in net.synapses]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName("synapse", pattern, names)
    return [n for n in net.synapses if any(fnmatchcase(n.name, pattern) for pattern in patterns)]


def _reads_input(net: Network, node: Node) -> bool:
    return any(origin.kind is Kind.INPUT for origin in net.origins(node))


def _takes_signs(module: nn.Module) -> bool:
    if is_restricted(module):
        return False
    return isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTIONS) and not _shrinks(module))


def _shrinks(module: Any) -> bool:
    """Whether a convolution looks at one place at a time, and makes another shape of what it reads."""
    elsewhere = any(stride > 1 for stride in module.stride) or module.in_channels != module.out_channels
    return all(side == 1 for side in module.kernel_size) and elsewhere


class BinaryOptions(Choice):
    """Options of binary weights."""

    layers: list[str] = Field(
        [],
        description="names or patterns (block*.body.*) of the layers that have them; []: all but the first, the "
        "readout and 1 x 1 shortcuts",
    )
    scale: Literal["mean", "learned", "none"] = Field(
        "mean", description="of each output channel: the mean magnitude of its latent weights, a parameter, or 1"
    )
    window: bool = Field(True, description="no gradient for latent weights beyond -1 and 1")
    centred: bool = Field(False, description="subtract the mean of a channel before the sign is taken")
    aware: bool = Field(False, description="multiply gradients by the scale (Bi-Real)")
    bound: float | None = Field(
        None, gt=0, description="after every update, latent weights are put back between plus and minus this; none: no"
    )


_SCALES = {"mean": mean_magnitude, "learned": Learned, "none": unscaled}


def _one_bit(choice: Any) -> OneBit:
    window: Estimator = Clipped() if choice.window else Straight()
    estimator = MagnitudeAware(window) if choice.aware else window
    return OneBit(Binarizer(_SCALES[choice.scale], estimator, choice.centred), tuple(choice.layers))


weight_kinds: Registry[Weights] = Registry("kind of weights")
weight_kinds.register("real", Choice, lambda choice: Real(), "weights as they are stored")
weight_kinds.register(
    "binary",
    BinaryOptions,
    _one_bit,
    "the sign of latent weights times a scale for each output channel; first layer and readout stay real",
    facts={"paper": "Liu et al. 2020 (ReActNet)", "published": "equations, code", "inferred": "with spikes"},
)
