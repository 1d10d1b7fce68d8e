"""Neuron models, and their names for configurations."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from onward.core.errors import ConfigError
from onward.core.neuron import Neuron
from onward.core.registry import Choice, Registry
from onward.neurons.adaptive import AdaptiveLIF
from onward.neurons.affine import IF, LIF, Affine, HardReset, Reset, SoftReset
from onward.neurons.filtered import LI, CubaLIF
from onward.neurons.graded import Graded, GradedIF, GradedLIF
from onward.neurons.rectified import Rectifier
from onward.surrogates import SurrogateChoice, surrogates

__all__ = [
    "IF",
    "LI",
    "LIF",
    "AdaptiveLIF",
    "Affine",
    "CubaLIF",
    "Graded",
    "GradedIF",
    "GradedLIF",
    "HardReset",
    "Neuron",
    "Rectifier",
    "SoftReset",
    "neurons",
    "resets",
]


class HardOptions(Choice):
    """Options of the hard reset."""

    to: float = Field(0.0, description="membrane potential after a spike, in units of threshold")


class SoftOptions(Choice):
    """Options of the soft reset."""

    rest: float = Field(0.0, le=0, description="resting potential: a spike costs threshold - rest")


def _delayed(decay: float) -> SoftReset:
    if decay == 0:
        raise ConfigError("a delayed reset was given to a neuron without memory (tau 1, or decay 0); use reset 'soft'")
    return SoftReset(1 / decay)


resets: Registry[Reset] = Registry("reset")
resets.register(
    "soft",
    SoftOptions,
    lambda choice, decay, threshold: SoftReset(1 - choice.rest / threshold),
    "subtract the threshold (and what lies between rest and 0)",
)
resets.register(
    "hard", HardOptions, lambda choice, decay, threshold: HardReset(choice.to), "set the potential to a fixed value"
)
resets.register(
    "delayed",
    Choice,
    lambda choice, decay, threshold: _delayed(decay),
    "subtract the threshold one step later, unleaked",
)

ResetChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(resets.parse)]


class AffineOptions(Choice):
    """Options shared by all spiking neurons."""

    threshold: float = Field(1.0, gt=0, description="firing threshold; the unit of all membrane potentials")
    reset: ResetChoice = Field(resets.parse("soft"), description="what a spike does to the membrane potential")
    surrogate: SurrogateChoice = Field(surrogates.parse("sigmoid"), description="stand-in for the spike's derivative")
    initial: float = Field(0.0, description="membrane potential before the first step")
    ties_fire: bool = Field(True, description="whether a potential equal to the threshold fires")
    detach_reset: bool = Field(True, description="keep the reset out of BPTT's graph")
    learn_threshold: bool = Field(False, description="make the threshold a trained parameter, one a layer")
    noise: float = Field(
        0.0, ge=0, description="standard deviation of normal noise on what neurons send, while they are trained"
    )
    test_noise: float = Field(0.0, ge=0, description="standard deviation of the same noise, while they are tested")

    @property
    def leak(self) -> float:
        """What is left of the membrane potential after a step."""
        return 1.0


class LeakyOptions(AffineOptions):
    """Options of leaky neurons."""

    tau: float = Field(
        2.0, ge=1, description="membrane time constant in steps; a step keeps 1 - 1/tau of the potential"
    )
    decay: float | None = Field(
        None, ge=0, le=1, description="share of the potential that a step keeps; none: 1 - 1/tau"
    )
    decay_input: bool = Field(False, description="multiply the drive by 1/tau, that is 1 - decay")

    @property
    def leak(self) -> float:
        """What is left of the membrane potential after a step."""
        return 1 - 1 / self.tau if self.decay is None else self.decay

    @property
    def gain(self) -> float:
        """What the drive is multiplied by."""
        if not self.decay_input:
            return 1.0
        return 1 / self.tau if self.decay is None else 1 - self.decay


class CubaOptions(LeakyOptions):
    """Options of the current-based neuron."""

    current_decay: float = Field(0.5, ge=0, le=1, description="leak of the synaptic current per step")


class AdaptiveOptions(LeakyOptions):
    """Options of the adaptive neuron."""

    adaptation: float = Field(0.2, ge=0, description="how much one spike raises the threshold")
    adaptation_decay: float = Field(0.9, ge=0, le=1, description="decay of the raised threshold per step")


class GradedOptions(Choice):
    """Options of the neurons of DSR."""

    threshold: float = Field(6.0, gt=0, description="start of the learned threshold: a spike's height and its charge")
    alpha: float = Field(0.5, gt=0, le=1, description="firing level as a share of the threshold")
    floor: float = Field(0.01, gt=0, description="least value of the threshold")
    vth_grad_scale: float | None = Field(
        None, ge=0, description="factor on the gradient of the threshold; none: as published, 1 or dt squared"
    )
    learn_threshold: bool = Field(True, description="train the threshold, one a layer")
    surrogate: SurrogateChoice = Field(surrogates.parse("sigmoid"), description="for rules that differentiate spikes")

    @property
    def leak(self) -> float:
        """What is left of the membrane potential after a step."""
        return 1.0


class GradedLeakyOptions(GradedOptions):
    """Options of the leaky neuron of DSR."""

    threshold: float = Field(0.3, gt=0, description="start of the learned threshold; spikes are threshold / dt high")
    alpha: float = Field(0.3, gt=0, le=1, description="firing level as a share of the threshold")
    floor: float = Field(0.0005, gt=0, description="least value of the threshold")
    tau: float = Field(1.0, gt=0, description="membrane time constant, in the unit of dt")
    dt: float = Field(0.05, gt=0, description="length of a step")
    exact_slope: bool = Field(
        False, description="slope (1 - beta) / dt of the mean output, in place of its limit 1 / tau"
    )

    @property
    def leak(self) -> float:
        """What is left of the membrane potential after a step."""
        return exp(-self.dt / self.tau)


def _affine(choice: Any, decay: float, gain: float) -> Affine:
    reset = resets.build(choice.reset, decay, choice.threshold)
    return Affine(
        decay,
        gain=gain,
        drift=(1 - decay) * (reset.to if isinstance(reset, HardReset) else 0.0),
        threshold=choice.threshold,
        reset=reset,
        initial=choice.initial,
        ties_fire=choice.ties_fire,
        surrogate=surrogates.build(choice.surrogate),
        detach_reset=choice.detach_reset,
        learn_threshold=choice.learn_threshold,
    )


def _leaky(choice: LeakyOptions) -> Affine:
    return _affine(choice, choice.leak, choice.gain)


def _noisy(build: Callable[[Any], Neuron]) -> Callable[[Any], Neuron]:
    """``build``, and the noise that was asked for."""

    def built(choice: AffineOptions) -> Neuron:
        neuron = build(choice)
        neuron.noise, neuron.test_noise = choice.noise, choice.test_noise
        return neuron

    return built


neurons: Registry[Neuron] = Registry("neuron")
neurons.register("lif", LeakyOptions, _noisy(_leaky), "leaky integrate-and-fire")
neurons.register("if", AffineOptions, _noisy(lambda choice: _affine(choice, 1.0, 1.0)), "integrate-and-fire, no leak")
neurons.register(
    "cuba-lif",
    CubaOptions,
    _noisy(lambda c: CubaLIF(_leaky(c), c.current_decay)),
    "LIF behind a decaying synaptic current",
)
neurons.register(
    "adaptive-lif",
    AdaptiveOptions,
    _noisy(lambda c: AdaptiveLIF(_leaky(c), c.adaptation, c.adaptation_decay)),
    "LIF whose threshold rises with every spike",
)
neurons.register("relu", Choice, lambda choice: Rectifier(), "max(0, x), no spikes: a ReLU network, such as a teacher")

neurons.register(
    "dsr-if",
    GradedOptions,
    lambda c: GradedIF(
        c.threshold,
        c.alpha,
        floor=c.floor,
        grad_scale=c.vth_grad_scale,
        surrogate=surrogates.build(c.surrogate),
        learn_threshold=c.learn_threshold,
    ),
    "IF that fires at alpha V and sends spikes of height V, V learned (DSR)",
)
neurons.register(
    "dsr-lif",
    GradedLeakyOptions,
    lambda c: GradedLIF(
        c.threshold,
        c.alpha,
        tau=c.tau,
        dt=c.dt,
        floor=c.floor,
        grad_scale=c.vth_grad_scale,
        exact_slope=c.exact_slope,
        surrogate=surrogates.build(c.surrogate),
        learn_threshold=c.learn_threshold,
    ),
    "LIF that fires at alpha V and sends spikes of height V / dt, V learned (DSR)",
)

build = neurons.build
