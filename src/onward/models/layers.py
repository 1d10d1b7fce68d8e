"""Networks from a line of text.

    128C3-AP2-256C3-AP2-512C3-FC

Layers are joined by ``-``. Every convolution and every hidden linear layer is followed by the norm of choice and a
spiking neuron; the last layer is the readout.

=============  ==================================================================================
token          layer
=============  ==================================================================================
``64C3``       64 filters of 3 x 3 (1-d and 3-d inputs alike), padding 1, then neurons
``64C3s2``     the same with stride 2; ``64C5s2p1``: and padding 1 instead of 2
``64T3s2``     the same transposed, so that sides double
``800``        a linear layer of 800 units, then neurons (or, at the end, 800 outputs)
``800d0.5``    any of these with dropout between its norm and its neurons
``AP2, MP2``   average or maximum pooling by 2
``GAP``        average over all positions
``SN``         neurons of their own, behind pooling
``D0.2``       dropout with probability 0.2, one mask a sequence
``FC``         the readout, one output a class
=============  ==================================================================================

A vector is made of what comes before a linear layer by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from torch import nn

from onward.core.errors import ConfigError
from onward.core.glue import Scale
from onward.core.neuron import Neuron
from onward.models.initial import Init, kaiming
from onward.neurons.filtered import LI
from onward.weights import ACTIVATION_SCALE, standardize

_CONV = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
_TRANSPOSED = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
_BATCH_NORM = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]
_AVERAGE = [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d]
_MAXIMUM = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d]
_ADAPTIVE = [nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d]
READOUT_GAIN = 0.3
"""Factor on a linear readout's initial weights, so that training starts with small outputs."""

_UNNUMBERED = ("readout", "membrane", "flatten")
_NUMBER, _SHARE = r"[1-9]\d{0,8}", r"0?\.\d+"
_TOKEN = re.compile(
    rf"((?P<filters>{_NUMBER})(?P<way>[CT])(?P<kernel>{_NUMBER})(s(?P<stride>{_NUMBER}))?(p(?P<padding>\d{{1,9}}))?"
    rf"|(?P<units>{_NUMBER}))(d(?P<mask>{_SHARE}))?"
    rf"|(?P<pool>AP|MP)(?P<by>{_NUMBER})|D(?P<drop>{_SHARE})|GAP|SN|FC",
    re.ASCII,
)


@dataclass(frozen=True)
class Style:
    """What the layers of a `Stack` have in common.

    ``norm`` is 'none', 'batch' or 'ws' (standardised weights and the activation scale 2.74); ``dropout`` acts on the
    drive, behind the norm. The readout is linear, its initial weights times ``gain``. With ``readout_tau`` its outputs
    leak into a membrane that never fires; with ``spiking_readout`` they are normalised and fire like any layer.
    """

    norm: str = "none"
    bias: bool = True
    dropout: float = 0.0
    init: Init = kaiming
    gain: float = READOUT_GAIN
    readout_tau: float | None = None
    spiking_readout: bool = False


class Fired(NamedTuple):
    """A spiking layer: the shape of its spikes, and where in the stack its neurons begin and end."""

    shape: tuple[int, ...]
    start: int
    stop: int


class Stack:
    """Builds a network layer by layer, keeping track of shapes ``(channels, *positions)``."""

    def __init__(
        self,
        features: tuple[int, ...],
        classes: int,
        neuron: Callable[[], Neuron],
        style: Style | None = None,
    ):
        self.shape, self.classes, self.neuron, self.style = features, classes, neuron, style or Style()
        self.layers = nn.Sequential()
        self.fired: list[Fired] = []
        self._counts: dict[str, int] = {}

    @property
    def rank(self) -> int:
        """Number of position axes."""
        return len(self.shape) - 1

    def branch(self, style: Style | None = None) -> Stack:
        """An empty stack that starts from the present shape."""
        return Stack(self.shape, self.classes, self.neuron, style or self.style)

    def conv(
        self, filters: int, kernel: int, stride: int = 1, padding: int | None = None, bias: bool | None = None
    ) -> nn.Module:
        """A convolution reading the present shape; the shape becomes its output's. Padding is half a kernel."""
        rank, pad = self._positions(), kernel // 2 if padding is None else padding
        layer = _CONV[rank - 1](self.shape[0], filters, kernel, stride, pad, bias=self._biased(bias))
        self._reshape(filters, [(side + 2 * pad - kernel) // stride + 1 for side in self.shape[1:]])
        return self._ready(layer)

    def transposed(
        self, filters: int, kernel: int, stride: int = 1, padding: int | None = None, bias: bool | None = None
    ) -> nn.Module:
        """A transposed convolution; with an odd kernel and half of it as padding, sides grow ``stride`` times."""
        rank, pad = self._positions(), kernel // 2 if padding is None else padding
        layer = _TRANSPOSED[rank - 1](
            self.shape[0], filters, kernel, stride, pad, output_padding=stride - 1, bias=self._biased(bias)
        )
        self._reshape(filters, [side * stride + kernel - 1 - 2 * pad for side in self.shape[1:]])
        return self._ready(layer)

    def linear(self, units: int, bias: bool | None = None) -> nn.Module:
        """A linear layer reading the present shape, made flat; the shape becomes its output's."""
        self.flatten()
        layer = nn.Linear(self.shape[0], units, bias=self._biased(bias))
        self.shape = (units,)
        return self._ready(layer)

    def spiking(self, kind: str, synapse: nn.Module, dropout: float | None = None) -> None:
        """A synapse, its norm, its dropout, its neurons."""
        self.append(kind, synapse)
        self.normalise()
        self.drop(self.style.dropout if dropout is None else dropout)
        self.fire()

    def normalise(self) -> None:
        """Batch normalisation, in networks that have it."""
        if self.style.norm == "batch":
            self.append("norm", _BATCH_NORM[max(self.rank - 1, 0)](self.shape[0]))

    def drop(self, probability: float) -> None:
        """Dropout, where there is any."""
        if probability:
            self.append("dropout", nn.Dropout(probability))

    def fire(self) -> None:
        """Neurons, and the activation scale of networks with standardised weights."""
        start = len(self.layers)
        self.append("neuron", self.neuron())
        if self.style.norm == "ws":
            self.append("scale", Scale(ACTIVATION_SCALE))
        self.fired.append(Fired(self.shape, start, len(self.layers)))

    def pool(self, kind: str, by: int, stride: int | None = None, padding: int = 0) -> None:
        """Average (AP) or maximum (MP) pooling."""
        if self.rank < 1 or min(self.shape[1:]) < by:
            raise ConfigError(
                f"{kind}{by} cannot pool features {list(self.shape)}; expected [channels, ...] with sides of at "
                f"least {by}: pool by less, or in fewer places"
            )
        stride = stride or by
        self.append("pool", (_AVERAGE if kind == "AP" else _MAXIMUM)[self.rank - 1](by, stride, padding))
        self._reshape(self.shape[0], [(side + 2 * padding - by) // stride + 1 for side in self.shape[1:]])

    def adaptive_pool(self, side: int) -> None:
        """Averages that leave ``side`` positions an axis; a side smaller than that is repeated."""
        if self.rank:
            self.append("pool", _ADAPTIVE[self.rank - 1](side))
            self.shape = (self.shape[0], *[side] * self.rank)

    def flatten(self) -> None:
        """One vector a sample."""
        if self.rank:
            self.append("flatten", nn.Flatten())
            self.shape = (prod(self.shape),)

    def readout(self, outputs: int | None = None) -> nn.Sequential:
        """The linear readout, and its membrane or neurons where it has some; returns the finished stack."""
        self.flatten()
        layer = nn.Linear(self.shape[0], outputs or self.classes)
        self.style.init(layer)
        layer.weight.data.mul_(self.style.gain)
        self.append("readout", layer)
        self.shape = (layer.out_features,)
        if self.style.spiking_readout:
            self.normalise()
            self.append("neuron", self.neuron())
        elif self.style.readout_tau is not None:
            self.append("membrane", LI(self.style.readout_tau))
        return self.layers

    def append(self, kind: str, module: nn.Module) -> None:
        """Adds a module under a numbered name."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        name = kind if kind in _UNNUMBERED else f"{kind}{self._counts[kind]}"
        self.layers.add_module(name, module)

    def _positions(self) -> int:
        if not 1 <= self.rank <= 3:
            raise ConfigError(
                f"a convolution cannot read features {list(self.shape)}; expected [channels, ...] with 1 to 3 axes"
            )
        return self.rank

    def _biased(self, bias: bool | None) -> bool:
        return self.style.bias if bias is None else bias

    def _reshape(self, channels: int, sides: list[int]) -> None:
        if min(sides) < 1:
            raise ConfigError(
                f"a layer makes sides {sides} of features {list(self.shape)}; pad more, or use a smaller kernel"
            )
        self.shape = (channels, *sides)

    def _ready(self, layer: nn.Module) -> nn.Module:
        self.style.init(layer)
        return standardize(layer) if self.style.norm == "ws" else layer


def parse_tokens(text: str) -> list[re.Match[str]]:
    """The tokens of a layer string; raises `ConfigError` naming the first that means nothing."""
    found = []
    for place, token in enumerate(text.split("-"), 1):
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ConfigError(
                f"layer {place} of {text!r} is {token!r}; expected 64C3 (convolution), 64C3s2, 64T3s2 (transposed), "
                "800 (linear), AP2, MP2, GAP, SN (neurons), D0.2 (dropout) or FC (readout)"
            )
        found.append(match)
    return found


def parse_layers(text: str) -> list[re.Match[str]]:
    """The tokens of a whole network; raises `ConfigError` where the last is no readout."""
    found = parse_tokens(text)
    if not (found[-1].group().isdigit() or found[-1].group() == "FC"):
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
    *inner, last = parse_layers(text)
    for match in inner:
        _place(match, stack)
    return stack.readout(int(last["units"]) if last["units"] else None)


def build_hidden(text: str, stack: Stack) -> None:
    """Adds the layers before the readout, all of which ``text`` describes; raises `ConfigError` if none fires."""
    for match in parse_tokens(text):
        _place(match, stack)
    if not stack.fired:
        raise ConfigError(f"{text!r} has no spiking layer; expected one such as 64C3 or 400")


def synapse_of(match: re.Match[str], stack: Stack) -> nn.Module:
    """The convolution or linear layer of a token, reading the present shape of ``stack``."""
    if match["units"]:
        return stack.linear(int(match["units"]))
    build = stack.conv if match["way"] == "C" else stack.transposed
    padding = int(match["padding"]) if match["padding"] else None
    return build(int(match["filters"]), int(match["kernel"]), int(match["stride"] or 1), padding)


def kind_of(match: re.Match[str]) -> str | None:
    """What a layer with weights is called; None for other tokens."""
    return "fc" if match["units"] else "conv" if match["filters"] else None


def mask_of(match: re.Match[str]) -> float | None:
    """The dropout that a layer's token asks for."""
    return float(match["mask"]) if match["mask"] else None


def _place(match: re.Match[str], stack: Stack) -> None:
    """Adds what one token before the readout describes."""
    kind = kind_of(match)
    if kind is not None:
        stack.spiking(kind, synapse_of(match, stack), mask_of(match))
    elif match["pool"]:
        stack.pool(match["pool"], int(match["by"]))
    elif match["drop"]:
        stack.append("dropout", nn.Dropout(float(match["drop"])))
    elif match.group() == "GAP":
        stack.adaptive_pool(1)
    elif match.group() == "SN":
        stack.fire()
    else:
        raise ConfigError(f"FC is the readout and can only come last in {match.string!r}")


def widened(text: str, width: float) -> str:
    """A layer string with its numbers of filters scaled.

    >>> widened("64C3-AP2-96T3s2-400", 0.5)
    '32C3-AP2-48T3s2-400'
    """
    return re.sub(r"(\d+)(?=[CT])", lambda match: f"{scaled(int(match[1]), width)}", text)


def scaled(filters: int, width: float) -> int:
    """``filters`` times ``width``, at least 1."""
    return max(1, round(filters * width))
