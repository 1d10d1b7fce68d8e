"""The tiny network of the properties, and the same for the loops."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onward.core import Network
from onward.neurons import LIF
from onward.testing.zoo import CLASSES, STEPS, make
from reference import dense, plain

EXACT = {"name": "online", "temporal": {"name": "ottt", "fidelity": "exact"}, "spatial": "bp"}


def tiny(hidden: list[int], decay: float = 0.5, *, detach: bool = True, seed: int = 1) -> Network:
    """12 inputs, LIF layers, a memoryless readout of 5."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, units in zip([12, *hidden], hidden, strict=False):
        layers += [nn.Linear(fan_in, units), LIF(decay=decay, detach_reset=detach)]
    net = Network(nn.Sequential(*layers, nn.Linear(hidden[-1], CLASSES))).double()
    for p in net.parameters():
        p.data.mul_(2)
    return net


def as_dense(net: Network, decay: float = 0.5) -> dense.Dense:
    """The same network for the loops."""
    modules = [node.module for node in net.synapses]
    return dense.Dense([(m.weight.detach(), m.bias.detach()) for m in modules], decay)


def named(net: Network, grads: dense.Grads) -> dict[str, Tensor]:
    """Loop gradients under the network's names."""
    pairs = zip(net.synapses, grads, strict=True)
    return {f"{node.name}.{key}": g for node, both in pairs for key, g in zip(("weight", "bias"), both, strict=True)}


def batch(steps: int = STEPS, size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.rand(steps, size, 12, generator=generator, dtype=torch.float64) * 2
    return x, torch.randint(CLASSES, (size,), generator=generator)


def step_loss(y: Tensor, steps: int = STEPS) -> plain.Loss:
    return lambda o: F.cross_entropy(o, y) / steps


def sequence_loss(y: Tensor) -> plain.Loss:
    return lambda out: torch.stack([F.cross_entropy(o, y) for o in out]).mean()


def body(name: str) -> nn.Module:
    """The modules of a network of the zoo, for a simulation that knows nothing of `Network`."""
    return nn.Sequential(OrderedDict(make(name).named_children()))
