"""An Onward network as a NIR graph.

Every layer becomes a node of its own name. What NIR has no node for, and is linear in each channel, goes into the
weights beside it, as networks compute in evaluation mode: batch normalisation (x - mean) g / sqrt(var + eps) + o,
learned shifts, constant factors, the heights of spikes; such weights are stored in float64. Standardised and binary
weights are written as the numbers they come to. Sums are edges that meet; dropout leaves no trace; an edge that closes
a cycle has no delay of its own, since programs that run graphs step by step send along it what was there a step before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from onward.core import Frames, Network
from onward.core.errors import UnsupportedModule
from onward.core.glue import Scale, Shift
from onward.core.graph import Kind, Node
from onward.core.interpret import Forward
from onward.core.run import outputs
from onward.core.synapse import effective
from onward.export.nir.neurons import to_nir
from onward.export.nir.package import package
from onward.weights.folding import affine_glue

INPUT, OUTPUT = "input", "output"
Shape = tuple[int, ...]


@dataclass
class Draft:
    """A synapse whose weights, in float64, may still change."""

    node: Node
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, node: Node) -> Draft:
        """The weights that ``node`` computes with."""
        weights = effective(node.module)
        return cls(node, weights["weight"], weights.get("bias"))

    def reads(self, gain: float) -> None:
        """Takes over a factor on what the synapse reads."""
        self.weight = self.weight * gain

    def sends(self, gain: Tensor | float, offset: Tensor | float) -> None:
        """Takes over a line through what the synapse sends, channel by channel."""
        gains = torch.as_tensor(gain, dtype=torch.float64).expand(len(self.weight))
        bias = torch.zeros(len(self.weight), dtype=torch.float64) if self.bias is None else self.bias
        self.weight = self.weight * gains.view(-1, *[1] * (self.weight.dim() - 1))
        self.bias = bias * gains + offset

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Weight and bias."""
        return _array(self.weight), None if self.bias is None else _array(self.bias)


def _array(values: Tensor) -> np.ndarray:
    """In float32 where that holds all of it, else in float64."""
    short = values.float()
    return (short if torch.equal(short.double(), values) else values).numpy()


@dataclass(frozen=True)
class Source:
    """A term of a sum: what the NIR node ``name`` sends, times ``gain``; ``draft`` may still take more over."""

    name: str
    gain: float = 1.0
    draft: Draft | None = None


Value = tuple[Source, ...]


@dataclass
class Drawn:
    """The graph, and what of the network it does not say."""

    graph: Any
    lost: list[str] = field(default_factory=list)


@torch.no_grad()
def draw(net: Network, features: Shape, dt: float, metadata: dict[str, Any]) -> Drawn:
    """``net``, for inputs of shape ``features``, as a graph for steps of ``dt`` seconds.

    Raises `UnsupportedModule` naming the first layer that NIR has no words for.
    """
    net = deepcopy(net).double().cpu().eval()
    writer = _Writer(net, _shapes(net, features), dt)
    out = net.walk((Source(INPUT),), writer)
    return Drawn(writer.graph(out, metadata), writer.lost)


class _Writer:
    """Visits the nodes of a network and notes those of the graph."""

    def __init__(self, net: Network, shapes: dict[int, Shape], dt: float):
        self.net, self.shapes, self.dt = net, shapes, dt
        self.nodes: dict[str, Any] = {}
        self.drafts: dict[str, Draft] = {}
        self.edges: list[tuple[str, str]] = []
        self.past: dict[str, Value] = {}
        self.lost: list[str] = []
        self._uses = Counter(i for node in net.nodes for i in node.inputs) + Counter([net.output])

    def __call__(self, node: Node, *inputs: Value) -> Value | None:
        """Notes ``node``; what several nodes read is as it is from here on."""
        if self.net.closes_cycle(node):
            return self._cycle(node, inputs)
        value = self._visit(node, inputs)
        return value if self._uses[node.index] == 1 else tuple(replace(source, draft=None) for source in value)

    def graph(self, out: Value, metadata: dict[str, Any]) -> Any:
        """The graph that ends with ``out``."""
        nir, shape = package(), self.shapes[self.net.output]
        self._connect(out, OUTPUT, shape)
        for name, draft in self.drafts.items():
            self.nodes[name] = self._synapse_node(draft)
        ends = {INPUT: nir.Input(np.array(self.shapes[0])), OUTPUT: nir.Output(np.array(shape))}
        nodes = {INPUT: ends[INPUT], **self.nodes, OUTPUT: ends[OUTPUT]}
        edges = [(name, end) for source, end in self.edges for name in self._closed(source)]
        return nir.NIRGraph(nodes, edges, metadata=metadata, type_check=False)

    def _visit(self, node: Node, inputs: tuple[Value, ...]) -> Value:
        match node.kind:
            case Kind.SYNAPSE:
                return self._synapse(node, inputs[0])
            case Kind.NEURON:
                return self._neuron(node, inputs[0])
            case Kind.ADD:
                return _merged(source for value in inputs for source in value)
            case Kind.DROPOUT:
                return inputs[0]
            case Kind.NORM | Kind.GLUE:
                return self._glue(node, inputs[0])
        raise _unknown(node)

    def _cycle(self, node: Node, inputs: tuple[Value, ...]) -> Value | None:
        """What a delay sends at the start of a step, and, at its end, where that comes from."""
        if not inputs:
            return (Source(node.name),)
        self.past[node.name] = inputs[0]
        return None

    def _closed(self, name: str) -> list[str]:
        """The nodes that an edge from ``name`` comes from."""
        if name not in self.past:
            return [name]
        if any(source.gain != 1 for source in self.past[name]):
            raise UnsupportedModule(
                f"{name} leads a signal back that is multiplied by a factor, which NIR has no place for; put the "
                "factor into a layer with weights"
            )
        return [source.name for source in self.past[name]]

    def _synapse(self, node: Node, value: Value) -> Value:
        _check_synapse(node, self._shape_before(node))
        draft, name = Draft.of(node), self._free(node.name)
        draft.reads(self._connect(value, name, self._shape_before(node), absorbs=True))
        self.drafts[name] = draft
        self.nodes[name] = None  # keeps its place until all is folded
        return (Source(name, draft=draft),)

    def _neuron(self, node: Node, value: Value) -> Value:
        name, shape = self._free(node.name), self.shapes[node.index]
        written = to_nir(node.module, node.name, shape, self.dt)
        self._connect(value, name, shape)
        self.nodes[name] = written.node
        self.lost += written.lost
        return (Source(name, written.height),)

    def _glue(self, node: Node, value: Value) -> Value:
        module: Any = node.module
        if isinstance(module, _BatchNorm | Shift | Scale):
            return self._line(node, value)
        made = _pooling(node, self.shapes) if _pools(module) else _flatten(node, self.shapes)
        name = self._free(node.name)
        gain = self._connect(value, name, self._shape_before(node), absorbs=True)
        self.nodes[name] = made
        return (Source(name, gain),)

    def _line(self, node: Node, value: Value) -> Value:
        """Folds a line for each channel into what ``value`` comes from."""
        gain, offset = affine_glue(node.module)
        found = list(value)
        takes = next((place for place, source in enumerate(found) if source.draft), None)
        if takes is None and bool(torch.as_tensor(offset).any()):
            raise _unfolded(node, "adds to")
        for place, source in enumerate(found):
            if source.draft is not None:
                source.draft.sends(gain, offset if place == takes else 0.0)
            else:
                found[place] = replace(source, gain=source.gain * _one_factor(node, gain))
        return tuple(found)

    def _connect(self, value: Value, name: str, shape: Shape, absorbs: bool = False) -> float:
        """Edges from all of ``value`` to ``name``; returns the factor that is left to the reader, if it ``absorbs``."""
        common = value[0].gain if absorbs and len({source.gain for source in value}) == 1 else 1.0
        for source in value:
            self.edges.append((self._scaled(source, shape, source.gain / common), name))
        return common

    def _scaled(self, source: Source, shape: Shape, gain: float) -> str:
        """The node that sends ``gain`` times what ``source`` does."""
        if gain == 1:
            return source.name
        name = self._free(f"{source.name}_scale")
        self.nodes[name] = package().Scale(np.full(shape, gain))
        self.edges.append((source.name, name))
        return name

    def _shape_before(self, node: Node) -> Shape:
        return self.shapes[node.inputs[0]]

    def _free(self, name: str) -> str:
        """``name``, or one like it that no node has."""
        name = name.replace("/", "_")
        while name in (INPUT, OUTPUT) or name in self.nodes:
            name += "_"
        return name

    def _synapse_node(self, draft: Draft) -> Any:
        nir, module, (weight, bias) = package(), draft.node.module, draft.arrays()
        if self.net.wakes(draft.node) and bias is not None and bias.any():
            self.lost.append(
                f"{draft.node.name} adds its bias from the second step on, when a signal first comes back to it, and "
                "other programs from the first"
            )
        if isinstance(module, nn.Linear):
            return nir.Linear(weight) if bias is None else nir.Affine(weight, bias)
        bias = np.zeros(len(weight), weight.dtype) if bias is None else bias
        size = self._shape_before(draft.node)[1:]
        words = (_padding(module.padding), _numbers(module.dilation), module.groups, bias)
        if isinstance(module, nn.Conv1d):
            stride, padding, dilation = (_only(x) for x in (module.stride, module.padding, module.dilation))
            return nir.Conv1d(size[0], weight, stride, padding, dilation, module.groups, bias)
        return nir.Conv2d(size, weight, _numbers(module.stride), *words)


def _check_synapse(node: Node, reads: Shape) -> None:
    """Raises `UnsupportedModule` for what is no linear layer of vectors and no convolution that NIR knows."""
    module: Any = node.module
    kind = parametrize.type_before_parametrizations(module)
    if kind not in (nn.Linear, nn.Conv1d, nn.Conv2d):
        raise UnsupportedModule(
            f"{node.name} is {kind.__name__}, for which NIR has no node; expected Linear, Conv1d or Conv2d"
        )
    if kind is nn.Linear and len(reads) != 1:
        raise UnsupportedModule(
            f"{node.name} is a linear layer that reads an array of shape {list(reads)}; those of NIR read vectors: "
            "put nn.Flatten before it"
        )
    if kind is not nn.Linear and module.padding_mode != "zeros":
        raise UnsupportedModule(f"{node.name} pads by {module.padding_mode!r}; convolutions of NIR pad by zeros")


def _pools(module: nn.Module) -> bool:
    return isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d)


def _pooling(node: Node, shapes: dict[int, Shape]) -> Any:
    module, nir = node.module, package()
    if isinstance(module, nn.AvgPool2d):
        kernel, stride, padding = (np.array(_pair(x)) for x in (module.kernel_size, module.stride, module.padding))
        whole = not module.ceil_mode and (module.count_include_pad or not padding.any())
        if whole and module.divisor_override in (None, 1):
            make = nir.SumPool2d if module.divisor_override else nir.AvgPool2d
            return make(kernel, stride, padding)
        raise UnsupportedModule(
            f"{node.name} is {module}, and averages of NIR count what is padded and no more than whole windows"
        )
    before, after = shapes[node.inputs[0]][1:], shapes[node.index][1:]
    if any(b % a for b, a in zip(before, after, strict=True)):
        raise UnsupportedModule(f"{node.name} makes {list(after)} of {list(before)}, which are no windows of one size")
    window = np.array([b // a for b, a in zip(before, after, strict=True)])
    return nir.AvgPool2d(window, window, np.zeros_like(window))


def _flatten(node: Node, shapes: dict[int, Shape]) -> Any:
    module: Any = node.module
    if isinstance(module, nn.Flatten) and len(shapes[node.index]) == 1:
        return package().Flatten({"input": np.array(shapes[node.inputs[0]])}, 0, -1)
    raise _unknown(node)


def _merged(sources: Iterable[Source]) -> Value:
    """Terms of a sum; one that comes twice comes once and twice as high."""
    found: dict[str, Source] = {}
    for source in sources:
        before = found.get(source.name)
        found[source.name] = source if before is None else replace(source, gain=source.gain + before.gain, draft=None)
    return tuple(found.values())


def _one_factor(node: Node, gain: Tensor | float) -> float:
    """A factor that is the same for all channels; raises `UnsupportedModule` for others."""
    values = torch.as_tensor(gain, dtype=torch.float64).unique()
    if len(values) != 1:
        raise _unfolded(node, "scales the channels of")
    return float(values)


def _pair(x: Any) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else tuple(x)


def _numbers(x: Any) -> tuple[int, ...]:
    return tuple(x)


def _padding(x: Any) -> Any:
    return x if isinstance(x, str) else tuple(x)


def _only(x: Any) -> Any:
    return x if isinstance(x, str) else x[0]


def _unknown(node: Node) -> UnsupportedModule:
    kind = parametrize.type_before_parametrizations(node.module).__name__
    return UnsupportedModule(
        f"{node.name} is {kind}, for which NIR has no node; expected Linear, Conv1d, Conv2d, AvgPool2d, Flatten, sums, "
        "batch normalisation, factors and neurons"
    )


def _unfolded(node: Node, does: str) -> UnsupportedModule:
    kind = type(node.module).__name__
    return UnsupportedModule(
        f"{node.name} is {kind}, which {does} what does not come from a layer with weights that nobody else reads; NIR "
        "has no node for it, and no weights can take it over"
    )


class _Shapes(Forward):
    """Notes what every node sends."""

    def __init__(self, found: dict[int, Shape], *context: Any):
        super().__init__(*context)
        self.found = found

    def __call__(self, node: Node, *signals: Any) -> Any:
        """See `Interpreter.__call__`."""
        out = super().__call__(node, *signals)
        if out is not None:
            self.found[node.index] = tuple(out.sent.shape[2:])
        return out


@torch.no_grad()
def _shapes(net: Network, features: Shape) -> dict[int, Shape]:
    """The shape of what every node sends; costs two time steps of one sample."""
    found: dict[int, Shape] = {0: tuple(features)}
    like = next(net.parameters())
    for _ in outputs(net, Frames(like.new_zeros(2, 1, *features)), chunk=1, walk=partial(_Shapes, found)):
        pass
    return found
