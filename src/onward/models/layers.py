"""Networks from a line of text.

    128C3-AP2-256C3-AP2-512C3-FC

Layers are joined by ``-``. Every convolution and every hidden linear layer is followed by the norm of choice and a
spiking neuron; the last layer is the readout.

=============  ==================================================================================
token          layer
=============  ==================================================================================
``64C3``       64 filters of 3 x 3 (1-d and 3-d inputs alike), padding 1, then neurons
``64C3s2``     the same with stride 2
``800``        a linear layer of 800 units, then neurons (or, at the end, 800 outputs)
``AP2, MP2``   average or maximum pooling by 2
``GAP``        average over all positions
``D0.2``       dropout with probability 0.2, one mask a sequence
``FC``         the readout, one output a class
=============  ==================================================================================

A vector is made of what comes before a linear layer by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

from torch import nn

from onward.core.errors import ConfigError
from onward.core.glue import Scale
from onward.core.neuron import Neuron
from onward.neurons.filtered import LI
from onward.weights import ACTIVATION_SCALE, standardize

_CONV = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
_BATCH_NORM = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]
_AVERAGE = [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d]
_MAXIMUM = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d]
_GLOBAL = [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d]
_TOKEN = re.compile(
    r"(?P<conv>(N)C(N)(?:s(N))?)|(?P<linear>N)|(?P<pool>(AP|MP)(N))|(?P<drop>D(0?\.\d+))|GAP|FC".replace(
        "N", r"[1-9]\d{0,8}"
    ),
    re.ASCII,
)


class Stack:
    """Builds a network layer by layer, keeping track of shapes ``(channels, *positions)``.

    ``norm`` is 'none', 'batch' or 'ws' (standardised weights and the activation scale 2.74). With ``readout_tau`` the
    readout's outputs leak into a membrane that never fires.
    """

    def __init__(
        self,
        features: tuple[int, ...],
        classes: int,
        neuron: Callable[[], Neuron],
        norm: str = "none",
        readout_tau: float | None = None,
    ):
        self.shape, self.classes, self.neuron, self.norm = features, classes, neuron, norm
        self.readout_tau = readout_tau
        self.layers = nn.Sequential()
        self._counts: dict[str, int] = {}

    @property
    def rank(self) -> int:
        """Number of position axes."""
        return len(self.shape) - 1

    def conv(self, filters: int, kernel: int, stride: int = 1) -> nn.Module:
        """A convolution reading the present shape; the shape becomes its output's."""
        if not 1 <= self.rank <= 3:
            raise ConfigError(
                f"a convolution cannot read features {list(self.shape)}; expected [channels, ...] with 1 to 3 axes"
            )
        layer = _CONV[self.rank - 1](self.shape[0], filters, kernel, stride, kernel // 2)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        sides = [(side + 2 * (kernel // 2) - kernel) // stride + 1 for side in self.shape[1:]]
        self.shape = (filters, *sides)
        return standardize(layer) if self.norm == "ws" else layer

    def spiking_conv(self, filters: int, kernel: int, stride: int = 1) -> None:
        """A convolution, its norm, its neurons."""
        self.append("conv", self.conv(filters, kernel, stride))
        if self.norm == "batch":
            self.append("norm", _BATCH_NORM[self.rank - 1](filters))
        self.fire()

    def spiking_linear(self, units: int) -> None:
        """A hidden linear layer, its norm, its neurons."""
        self.flatten()
        layer = nn.Linear(self.shape[0], units)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        self.append("fc", standardize(layer) if self.norm == "ws" else layer)
        if self.norm == "batch":
            self.append("norm", nn.BatchNorm1d(units))
        self.shape = (units,)
        self.fire()

    def fire(self) -> None:
        """Neurons, and the activation scale of networks with standardised weights."""
        self.append("neuron", self.neuron())
        if self.norm == "ws":
            self.append("scale", Scale(ACTIVATION_SCALE))

    def pool(self, kind: str, by: int) -> None:
        """Average (AP) or maximum (MP) pooling."""
        if self.rank < 1 or min(self.shape[1:]) < by:
            raise ConfigError(
                f"{kind}{by} cannot pool features {list(self.shape)}; expected [channels, ...] with sides of at "
                f"least {by}: pool by less, or in fewer places"
            )
        self.append("pool", (_AVERAGE if kind == "AP" else _MAXIMUM)[self.rank - 1](by))
        self.shape = (self.shape[0], *[side // by for side in self.shape[1:]])

    def global_pool(self) -> None:
        """Average over all positions."""
        if self.rank:
            self.append("pool", _GLOBAL[self.rank - 1](1))
            self.shape = (self.shape[0], *[1] * self.rank)

    def flatten(self) -> None:
        """One vector a sample."""
        if self.rank:
            self.append("flatten", nn.Flatten())
            self.shape = (prod(self.shape),)

    def readout(self, outputs: int | None = None, gain: float = 0.3) -> nn.Sequential:
        """The linear readout, and its membrane where it has one; returns the finished stack."""
        self.flatten()
        layer = nn.Linear(self.shape[0], outputs or self.classes)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layer.weight.data.mul_(gain)
        self.append("readout", layer)
        if self.readout_tau is not None:
            self.append("membrane", LI(self.readout_tau))
        return self.layers

    def append(self, kind: str, module: nn.Module) -> None:
        """Adds a module under a numbered name."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        name = kind if kind in ("readout", "membrane", "flatten") else f"{kind}{self._counts[kind]}"
        self.layers.add_module(name, module)


def parse_layers(text: str) -> list[re.Match[str]]:
    """The tokens of a layer string; raises `ConfigError` naming the first that means nothing."""
    found = []
    for place, token in enumerate(text.split("-"), 1):
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ConfigError(
                f"layer {place} of {text!r} is {token!r}; expected 64C3 (convolution), 64C3s2, 800 (linear), AP2, MP2, "
                "GAP, D0.2 (dropout) or FC (readout)"
            )
        found.append(match)
    if not (found[-1]["linear"] or found[-1].group() == "FC"):
        raise ConfigError(
            f"{text!r} ends with {found[-1].group()!r}; the last layer is the readout: FC, or a number of outputs"
        )
    return found


def build_layers(text: str, stack: Stack) -> nn.Sequential:
    """The network that ``text`` describes.

    >>> from onward.neurons import LIF
    >>> net = build_layers("8C3-AP2-16-FC", Stack((1, 8, 8), 10, LIF))
    >>> [name for name, _ in net.named_children()]
    ['conv1', 'neuron1', 'pool1', 'flatten', 'fc1', 'neuron2', 'readout']
    """
    tokens = parse_layers(text)
    for match in tokens[:-1]:
        if match["conv"]:
            stack.spiking_conv(int(match[2]), int(match[3]), int(match[4] or 1))
        elif match["linear"]:
            stack.spiking_linear(int(match["linear"]))
        elif match["pool"]:
            stack.pool(match[7], int(match[8]))
        elif match["drop"]:
            stack.append("dropout", nn.Dropout(float(match[10])))
        elif match.group() == "GAP":
            stack.global_pool()
        else:
            raise ConfigError(f"FC is the readout and can only come last in {text!r}")
    return stack.readout(int(tokens[-1]["linear"]) if tokens[-1]["linear"] else None)
