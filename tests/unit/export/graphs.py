"""Networks that NIR has words for, and what their files say, worked out the slow way."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from onward.core import Network
from onward.core.containers import Feedback, Recurrent, Residual
from onward.core.glue import Scale, Shift
from onward.export.nir import Exchanged, write_network
from onward.export.purpose import Purpose
from onward.neurons import IF, LI, LIF, Affine, CubaLIF, Graded, HardReset
from onward.weights import binarize, standardize


def lif(tau: float = 2.0, **options: Any) -> Affine:
    return LIF(tau, reset=HardReset(), threshold=0.4, **options)


def layers(**named: nn.Module) -> Network:
    return Network(nn.Sequential(OrderedDict(named)))


def chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def trained_norm(norm: Any) -> nn.Module:
    """Batch normalisation with statistics and gains that are not 0 and 1."""
    norm.running_mean.uniform_(-0.3, 0.3)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.3, 0.3)
    return norm


def write(path: Path, net: Network, features: tuple[int, ...], **options: Any) -> Exchanged:
    net.eval()
    classes = net(torch.zeros(1, 1, *features)).shape[2:].numel()
    return write_network(path, net, Purpose(features=features, classes=classes, steps=5), **options)


def zoo() -> dict[str, tuple[Network, tuple[int, ...], set[str]]]:
    """Networks by what they try: the network, its features, and nodes that its graph must have."""
    torch.manual_seed(0)
    image, vector = (2, 6, 6), (6,)
    cuba = CubaLIF(lif(decay_input=True), 0.3)
    pooled = {"conv": nn.Conv2d(2, 3, 3, padding=1), "n": lif(), "pool": nn.AvgPool2d(2), "flat": nn.Flatten()}
    return {
        "linear": (layers(a=nn.Linear(6, 5, bias=False), n=lif(), b=nn.Linear(5, 3)), vector, {"Linear", "Affine"}),
        "if": (
            layers(a=nn.Linear(6, 5), n=IF(reset=HardReset(0.1), ties_fire=False), b=nn.Linear(5, 3)),
            vector,
            {"IF"},
        ),
        "rest": (layers(a=nn.Linear(6, 5), n=LIF(3.0, reset=HardReset(-0.2)), b=nn.Linear(5, 3)), vector, {"LIF"}),
        "cuba": (layers(a=nn.Linear(6, 5), n=cuba, b=nn.Linear(5, 3)), vector, {"CubaLIF"}),
        "li": (layers(a=nn.Linear(6, 5), n=lif(), b=nn.Linear(5, 3), m=LI(3.0)), vector, {"LI"}),
        "li, averaging": (
            layers(a=nn.Linear(6, 5), n=lif(), b=nn.Linear(5, 3), m=LI(3.0, decay_input=True)),
            vector,
            {"LI"},
        ),
        "integrator": (layers(a=nn.Linear(6, 5), n=lif(), b=nn.Linear(5, 3), m=LI(decay=1.0)), vector, {"I"}),
        "spiking output": (layers(a=nn.Linear(6, 5), n=lif()), vector, {"LIF"}),
        "conv": (layers(**pooled, fc=nn.Linear(27, 3)), image, {"Conv2d", "AvgPool2d", "Flatten"}),
        "conv 1d": (
            layers(a=nn.Conv1d(2, 3, 3, stride=2, padding=1), n=lif(), f=nn.Flatten(), b=nn.Linear(15, 3)),
            (2, 9),
            {"Conv1d"},
        ),
        "conv, groups": (
            layers(a=nn.Conv2d(2, 4, (3, 1), padding="same", groups=2), n=lif(), f=nn.Flatten(), b=nn.Linear(144, 3)),
            image,
            {"Conv2d"},
        ),
        "sum pool": (
            layers(p=nn.AvgPool2d(2, divisor_override=1), a=nn.Conv2d(2, 3, 2, dilation=2, bias=False), n=lif()),
            image,
            {"SumPool2d"},
        ),
        "global pool": (
            layers(a=nn.Conv2d(2, 3, 3), n=lif(), p=nn.AdaptiveAvgPool2d(1), f=nn.Flatten(), b=nn.Linear(3, 3)),
            image,
            {"AvgPool2d"},
        ),
        "batch norm": (
            layers(a=nn.Conv2d(2, 3, 3, bias=False), norm=trained_norm(nn.BatchNorm2d(3)), n=lif(), shift=nn.Flatten()),
            image,
            {"Conv2d"},
        ),
        "vector norm": (
            layers(a=nn.Linear(6, 5), norm=trained_norm(nn.BatchNorm1d(5)), s=Shift(5), drop=nn.Dropout(0.5), n=lif()),
            vector,
            {"Affine"},
        ),
        "standardised": (
            layers(a=standardize(nn.Linear(6, 5)), n=lif(), s=Scale(2.74), b=standardize(nn.Linear(5, 3)), m=lif()),
            vector,
            {"Affine"},
        ),
        "scaled sum": (
            layers(a=nn.Linear(6, 6), n=lif(), r=Residual(Scale(0.5), chain(nn.Linear(6, 6), lif())), m=lif()),
            vector,
            {"Scale"},
        ),
        "binary": (layers(a=nn.Linear(6, 5), n=lif(), b=binarize(nn.Linear(5, 3)), m=lif()), vector, {"Affine"}),
        "residual": (
            layers(a=nn.Linear(6, 6), n=lif(), r=Residual(chain(nn.Linear(6, 6), lif())), b=nn.Linear(6, 3)),
            vector,
            {"LIF"},
        ),
        "norm behind a sum": (
            layers(
                r=Residual(nn.Linear(6, 5), nn.Linear(6, 5, bias=False)),
                norm=trained_norm(nn.BatchNorm1d(5)),
                n=lif(),
                b=nn.Linear(5, 3),
            ),
            vector,
            {"Affine"},
        ),
        "pre-activation": (
            layers(a=nn.Linear(6, 6), r=Residual(chain(lif(), nn.Linear(6, 6))), n=lif(), b=nn.Linear(6, 3)),
            vector,
            {"LIF"},
        ),
        "recurrent": (
            layers(r=Recurrent(nn.Linear(6, 5), lif(), nn.Linear(5, 5, bias=False)), b=nn.Linear(5, 3)),
            vector,
            {"LIF"},
        ),
        "feedback": (
            layers(
                f=Feedback(
                    nn.Linear(6, 5),
                    chain(lif(), nn.Linear(5, 4), lif()),
                    chain(nn.Linear(4, 5, bias=False), Scale(2.0)),
                ),
                b=nn.Linear(4, 3),
            ),
            vector,
            {"LIF"},
        ),
    }


def lossy() -> dict[str, Network]:
    """Networks that NIR cannot say all of, by the words for what it cannot."""
    graded = Graded(0.6, 0.5, learn_threshold=True)
    bias = Recurrent(nn.Linear(6, 5), lif(), nn.Linear(5, 5))
    return {
        "soft reset": layers(a=nn.Linear(6, 5), n=LIF(threshold=0.5), b=nn.Linear(5, 3)),
        "subtracts 0.6": layers(a=nn.Linear(6, 5), n=graded, b=nn.Linear(5, 3)),
        "starts from a potential of 0.2": layers(a=nn.Linear(6, 5), n=lif(initial=0.2), b=nn.Linear(5, 3)),
        "adds its bias from the second step on": layers(r=bias, b=nn.Linear(5, 3)),
    }


def euler(node: Any, x: np.ndarray, dt: float) -> np.ndarray:
    """Spikes of a LIF or IF node for currents ``[T, N]``, by the equations that NIR states."""
    v, spikes = np.zeros(x.shape[1]), []
    for current in x:
        leak = (node.v_leak - v + node.r * current) / node.tau if hasattr(node, "tau") else node.r * current
        v = v + dt * leak
        fires = v > node.v_threshold
        v = np.where(fires, node.v_reset, v)
        spikes.append(fires)
    return np.stack(spikes)
