"""The registry of networks, and the options that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from onward.core.errors import ConfigError
from onward.core.network import Network
from onward.core.neuron import Neuron
from onward.core.registry import Choice, Registry
from onward.models.layers import READOUT_GAIN, Stack, Style

MakeNeuron = Callable[[], Neuron]

Norm = Annotated[
    Literal["none", "batch", "ws"],
    Field(description="between synapse and neuron: nothing, batch normalisation, or standardised weights"),
]


class NetworkOptions(Choice):
    """Options of every network that is a stack of layers."""

    norm: Norm = "none"
    readout_tau: float | None = Field(
        None, ge=1, description="time constant in steps of a leaky readout; none: a readout without memory"
    )
    spiking_readout: bool = Field(
        False, description="end in neurons: outputs are spikes, normalised before if norm is batch"
    )

    @property
    def style(self) -> Style:
        """What these options say about all layers; raises `ConfigError` for a readout that would leak and fire."""
        if self.spiking_readout and self.readout_tau is not None:
            raise ConfigError(
                f"a readout leaks or fires, and both readout_tau {self.readout_tau:g} and spiking_readout were given; "
                "drop one"
            )
        gain = 1.0 if self.spiking_readout else READOUT_GAIN
        return Style(self.norm, gain=gain, readout_tau=self.readout_tau, spiking_readout=self.spiking_readout)

    def stack(self, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Stack:
        """An empty stack with these options."""
        return Stack(features, classes, neuron, self.style)


class ConvOptions(NetworkOptions):
    """Options of a named convolutional network."""

    width: float = Field(1.0, gt=0, description="factor on the published numbers of filters")
    norm: Norm = "ws"


models: Registry[Network] = Registry("model")

ModelChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(models.parse)]
