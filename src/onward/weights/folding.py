"""Binary layers on chips: counts of spikes against integer thresholds.

Binary spikes through binary weights give, before the scale, an integer y_c: how many synapses of sign +1 fired less how
many of sign -1. Bias, batch normalisation in evaluation mode and learned shifts make a drive of it that is affine in
each channel, and a neuron without memory fires where that reaches its threshold:

    x_c = A_c y_c + B_c,    s_c = [x_c >= theta]  =  [sgn(A_c) y_c >= ceil((theta - B_c) / |A_c|)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onward.core.errors import TopologyMismatch, UnsupportedModule
from onward.core.glue import Scale, Shift, per_channel
from onward.core.synapse import effective, ops_of
from onward.neurons import Affine
from onward.weights.packed import signs_of


@dataclass(frozen=True)
class Line:
    """x = gain y + offset for each channel, ``[C]`` both, in float64."""

    gain: Tensor
    offset: Tensor

    def then(self, gain: Tensor | float, offset: Tensor | float) -> Line:
        """The same, scaled and shifted once more."""
        return Line(self.gain * gain, self.offset * gain + offset)


@torch.no_grad()
def fold(synapse: nn.Module, *glue: nn.Module) -> Line:
    """The drive behind ``glue`` as a line in the integer y that the signs of a binary ``synapse`` give.

    ``glue`` are batch normalisations, as they are in evaluation mode, `Shift` and `Scale`, in order. Raises
    `UnsupportedModule` for a synapse that is not binary, and for other glue.
    """
    scale, bias = signs_of(synapse)[1].double(), getattr(synapse, "bias", None)
    line = Line(scale, torch.zeros_like(scale) if bias is None else bias.double())
    for module in glue:
        line = line.then(*affine_glue(module))
    return line


def affine_glue(module: Any) -> tuple[Tensor | float, Tensor | float]:
    """Gain and offset of batch normalisation in evaluation mode, `Shift` or `Scale`; of each channel, in float64.

    Raises `UnsupportedModule` for other glue.
    """
    match module:
        case _BatchNorm(running_mean=Tensor() as mean, running_var=Tensor() as variance):
            gain = (variance.double() + module.eps).rsqrt()
            gain = gain if module.weight is None else gain * module.weight.double()
            return gain, (0.0 if module.bias is None else module.bias.double()) - mean.double() * gain
        case Shift():
            return 1.0, module.offset.double()
        case Scale():
            return module.factor, 0.0
    raise UnsupportedModule(
        f"{type(module).__name__} does not fold into a line for each channel; expected batch normalisation with "
        "running statistics, Shift or Scale"
    )


@dataclass(frozen=True)
class Counting:
    """Spikes of neurons without memory, from the binary spikes ``[R, ...]`` that a binary ``synapse`` reads.

    ``weight`` are its signs, +1 and -1; a neuron of channel c fires where ``direction_c`` y_c >= ``least_c``, all
    integers. In exact arithmetic these are the spikes of synapse, glue and ``neuron`` in evaluation mode; rounding may
    carry a drive that lies on the threshold across it there, and cannot here. Counts are exact up to 2^24 inputs in
    float32.

    >>> from onward.neurons import LIF
    >>> from onward.weights import binarize
    >>> layer = binarize(nn.Linear(8, 4))
    >>> Counting.of(layer, nn.BatchNorm1d(4).eval(), neuron=LIF(decay=0.0))(torch.ones(1, 8)).shape
    torch.Size([1, 4])
    """

    synapse: nn.Module
    weight: Tensor
    direction: Tensor
    least: Tensor
    neuron: Affine

    @classmethod
    @torch.no_grad()
    def of(cls, synapse: nn.Module, *glue: nn.Module, neuron: nn.Module) -> Counting:
        """The layer that ``synapse``, ``glue`` (see `fold`) and ``neuron`` make.

        Raises `UnsupportedModule` for what cannot be folded, and `TopologyMismatch` for a neuron whose past matters.
        """
        fires, line = _without_memory(neuron), fold(synapse, *glue)
        positive, scale, rows = signs_of(synapse)
        signs = torch.where(positive, 1.0, -1.0).to(scale.dtype)
        weight = rows.back(signs, tuple(effective(synapse)["weight"].shape))
        return cls(synapse, weight, line.gain.sign().long(), _least(line, fires, positive.shape[1]), fires)

    @torch.no_grad()
    def __call__(self, spikes: Tensor) -> Tensor:
        """s."""
        counts = self.counts(spikes)
        fires = per_channel(self.direction, counts) * counts >= per_channel(self.least, counts)
        return self.neuron.sent(fires.to(spikes.dtype))

    def counts(self, spikes: Tensor) -> Tensor:
        """y, whole numbers of the fan-in at most, either way."""
        weight = self.weight.to(spikes.dtype)
        return ops_of(self.synapse).apply(self.synapse, {"weight": weight}, spikes).round().long()


def _without_memory(neuron: nn.Module) -> Affine:
    if isinstance(neuron, Affine) and neuron.decay == 0 and neuron.gain > 0:
        return neuron
    raise TopologyMismatch(
        f"{type(neuron).__name__} does not fire by its present drive alone; expected neurons without memory, such as "
        "LIF(decay=0.0)"
    )


def _least(line: Line, neuron: Affine, fan_in: int) -> Tensor:
    """The least count, in the direction of its channel, at which a neuron fires; ``fan_in`` + 1: it never does."""
    level = (torch.as_tensor(neuron.level).double() - neuron.drift) / neuron.gain - line.offset
    exact = level / line.gain.abs()
    least = exact.ceil() if neuron.ties_fire else exact.floor() + 1
    always = level <= 0 if neuron.ties_fire else level < 0
    flat = torch.where(always, -fan_in, fan_in + 1).to(least)
    return torch.where(line.gain == 0, flat, least.clamp(-fan_in, fan_in + 1)).long()
