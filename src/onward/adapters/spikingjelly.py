"""SpikingJelly's networks.

    LIFNode, decay_input      H = V + (x - (V - v_reset)) / tau
    LIFNode, not so           H = V - (V - v_reset) / tau + x
    ParametricLIFNode         the same with 1 / tau = S(w), S the logistic function
    IFNode                    H = V + x
    s = [H >= v_threshold],   V = v_reset where s (hard), or V = H - v_threshold s where v_reset is None (soft)

all start at v_reset, or 0. These are `onward.Affine` with a = 1 - 1/tau, b = 1/tau or 1, c = v_reset / tau. A step mode
says how a module is called, not what it computes: here time is always the first axis of what a network reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onward.adapters.reading import Given, Library, Part, network_of
from onward.core import Network
from onward.core.errors import ConfigError
from onward.neurons import Affine, HardReset, SoftReset
from onward.surrogates import ATan, FastSigmoid, Gaussian, Rectangle, Sigmoid, Surrogate, Triangle


def from_spikingjelly(
    network: Given,
    checkpoint: Path | str | Mapping[str, Tensor] | None = None,
    *,
    surrogate: Surrogate | None = None,
) -> Network:
    """A network of SpikingJelly's modules as an Onward network, with their weights, neurons and surrogates.

    ``network`` is an ``nn.Sequential`` (SpikingJelly's chains inside of it are read, too), or layers in order: a list,
    or a mapping by name. ``checkpoint``, a file or a state dict of the same network, replaces its values. A given
    ``surrogate`` takes the place of all of theirs. A learned tau becomes a constant. Raises `UnsupportedModule`, which
    names every module that cannot be mapped.
    """
    return network_of(LIBRARY, network, checkpoint, surrogate)


def _lif(part: Part) -> Affine:
    return _leaky(part, 1 / part.number("tau"))


def _parametric(part: Part) -> Affine:
    return _leaky(part, float(torch.sigmoid(part.value("w").detach().double())))


def _leaky(part: Part, rate: float) -> Affine:
    return _affine(part, 1 - rate, rate if part.value("decay_input") else 1.0)


def _integrate(part: Part) -> Affine:
    return _affine(part, 1.0, 1.0)


def _affine(part: Part, decay: float, gain: float) -> Affine:
    soft = part.value("v_reset") is None
    rest = 0.0 if soft else part.number("v_reset")
    return Affine(
        decay,
        gain=gain,
        drift=(1 - decay) * rest,
        threshold=part.number("v_threshold"),
        reset=SoftReset() if soft else HardReset(rest),
        initial=rest,
        surrogate=part.surrogate or _surrogate(part.value("surrogate_function")),
        detach_reset=bool(part.value("detach_reset")),
    )


def _surrogate(given: Any) -> Surrogate:
    """The same surrogate here; raises `ConfigError` where there is none."""
    kind, alpha = type(given).__name__, getattr(given, "alpha", None)
    if not getattr(given, "spiking", True):
        raise ConfigError(f"sends its surrogate {kind} itself in place of spikes (spiking=False)")
    if kind == "SuperSpike" and alpha != 1:
        raise ConfigError(f"has the surrogate SuperSpike with alpha {alpha}, of which only alpha 1 is there")
    if kind not in _SURROGATES or alpha is None:
        raise ConfigError(f"has the surrogate {kind}, which is not there; say which one with surrogate=")
    return _SURROGATES[kind](float(alpha))


def _votes(part: Part) -> nn.Module:
    """The mean over groups of neighbours: rows of outputs are what a one-dimensional pooling reads."""
    return nn.AvgPool1d(int(part.number("voting_size")))


_SURROGATES: dict[str, Callable[[float], Surrogate]] = {
    "Sigmoid": Sigmoid,
    "ATan": ATan,
    "PiecewiseQuadratic": Triangle,
    "Rect": lambda alpha: Rectangle(1 / alpha),
    "Erf": lambda alpha: Gaussian(1 / (alpha * 2**0.5)),
    "SuperSpike": lambda alpha: FastSigmoid(alpha),
}

LIBRARY = Library(
    "from_spikingjelly",
    {"IFNode": _integrate, "LIFNode": _lif, "ParametricLIFNode": _parametric},
    {"VotingLayer": _votes},
    frozenset({"MultiStepContainer", "SeqToANNContainer", "StepModeContainer"}),
)
