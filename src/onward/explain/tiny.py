"""A network of four layers and four time steps, with neurons in every layer that probe credit and disturb nothing.

    inputs + 4 -> 5 + 4 neurons -> 5 + 4 neurons -> 5 + 4 neurons -> 3 outputs

The last units of every layer, the *probes*, are driven by the last inputs alone, each at a step of its own, and weigh
nothing (or ``heard``) in what others hear. So spikes of a probe change no output, and the gradient of its outgoing
weights shows how a rule pairs a presynaptic spike with errors; that of its incoming weights shows whether a neuron
needs to be heard to be taught.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from onward.core import Feedback, Frames, Network, Neuron, Objective
from onward.core.graph import Node
from onward.core.registry import Choice

STEPS, SAMPLES, INPUTS, WIDTH, HIDDEN, CLASSES = 4, 2, 4, 5, 3, 3
UNITS = WIDTH + STEPS
"""Neurons of a layer, and a probe for every step."""
RATE = 0.4
"""Spikes a neuron and step that weights are scaled towards."""
FACTORS = tuple(2.0**k for k in range(-4, 6))
BACK = 0.1
"""How strong a loop is, beside a weight from layer to layer."""
MakeNeuron = Callable[[], Neuron]


@dataclass(frozen=True)
class Case:
    """A rule by its ``choice``, the neurons that it is tried on, what they are to minimise, and whether in a loop."""

    choice: Choice
    make: MakeNeuron
    objective: Objective
    cyclic: bool = False


class Barrier(nn.Module):
    """Lets signals through, and no error back."""

    def forward(self, x: Tensor) -> Tensor:
        """x, of slope 0."""
        return x.detach() + 0 * x


@dataclass(frozen=True)
class Tiny:
    """The network; ``layers`` are its synapses from input to output, ``stimulus`` what all but the probes hear."""

    net: Network
    layers: tuple[Node, ...]
    stimulus: Tensor

    def frames(self) -> Frames:
        """The stimulus, and in the first sample spikes of the probes."""
        probes = torch.zeros(STEPS, SAMPLES, STEPS, dtype=torch.float64)
        probes[:, 0] = torch.eye(STEPS)
        return Frames(torch.cat([self.stimulus, probes], 2))

    @property
    def labels(self) -> Tensor:
        """The classes of the samples."""
        return torch.arange(SAMPLES) % CLASSES


def tiny(case: Case, *, heard: float = 0.0, deaf: bool = False) -> Tiny:
    """The network of ``case``; in a loop, the last hidden layer speaks to the first one.

    ``heard`` is what probes weigh in the next layer. ``deaf``: no error passes back into the first layer; in a loop,
    none from the readout.
    """
    random = torch.Generator().manual_seed(3)
    stimulus = (torch.rand(STEPS, SAMPLES, INPUTS, generator=random, dtype=torch.float64) < 0.6).double()
    neurons, weights, signal, height = [case.make().double() for _ in range(HIDDEN)], list[Tensor](), stimulus, 1.0
    for neuron in neurons:
        weight, signal = _scaled(neuron, signal, random)
        pulse = _pulse(neuron)
        weights.append(_with_probes(weight, heard, pulse / height))
        height = _height(neuron, pulse)
    readout = torch.randn(CLASSES, WIDTH, generator=random, dtype=torch.float64) / height
    weights.append(torch.cat([readout, torch.full((CLASSES, STEPS), heard, dtype=torch.float64)], 1))
    *layers, last = [_linear(weight) for weight in weights]
    wall = Barrier() if deaf else nn.Identity()
    if case.cyclic:
        net = Network(nn.Sequential(_looped(neurons, layers, BACK / height, random), wall, last))
    else:
        entry, *above = zip(layers, neurons, strict=True)
        net = Network(nn.Sequential(*entry, wall, *chain(*above), last))
    return Tiny(
        net, tuple(node for layer in (*layers, last) for node in net.synapses if node.module is layer), stimulus
    )


def _looped(neurons: list[Neuron], layers: list[nn.Linear], scale: float, random: torch.Generator) -> Feedback:
    back = torch.zeros(UNITS, UNITS, dtype=torch.float64)
    back[:WIDTH, :WIDTH] = torch.randn(WIDTH, WIDTH, generator=random, dtype=torch.float64) * scale
    entry, *above = layers
    body = nn.Sequential(neurons[0], *chain(*zip(above, neurons[1:], strict=True)))
    return Feedback(entry, body, _linear(back))


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data = weight.clone()
    return layer


def _with_probes(weight: Tensor, heard: float, pulse: float) -> Tensor:
    """Columns that weigh ``heard``, and rows of which each hears one probe of the layer below alone."""
    whole = torch.full((UNITS, weight.shape[1] + STEPS), heard, dtype=torch.float64)
    whole[:WIDTH, :-STEPS], whole[WIDTH:, :-STEPS], whole[WIDTH:, -STEPS:] = weight, 0, pulse * torch.eye(STEPS)
    return whole


def _out(neuron: Neuron, drive: Tensor) -> Tensor:
    return neuron.simulate(drive, neuron.start(drive[0])).out


@torch.no_grad()
def _scaled(neuron: Neuron, signal: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights under which neurons fire about as often as `RATE` says, and what they send then."""
    weight = torch.rand(WIDTH, signal.shape[2], generator=random, dtype=torch.float64) * 1.2 - 0.2
    found = [(factor, _out(neuron, signal @ weight.T * factor)) for factor in FACTORS]
    factor, sent = min(found, key=lambda pair: abs(float((pair[1] != 0).double().mean()) - RATE))
    return weight * factor, sent


@torch.no_grad()
def _pulse(neuron: Neuron) -> float:
    """A fifth more than the least drive of one step that is answered by a spike at once."""
    for factor in FACTORS:
        drive = torch.zeros(STEPS, 1, 1, dtype=torch.float64)
        drive[0] = factor
        if bool(_out(neuron, drive)[0]):
            return 1.2 * factor
    return FACTORS[-1]


@torch.no_grad()
def _height(neuron: Neuron, pulse: float) -> float:
    """What a neuron sends when it fires."""
    return float(_out(neuron, torch.full((1, 1, 1), pulse, dtype=torch.float64))) or 1.0
