"""A NIR graph as an Onward network.

Edges that meet are sums. Graphs inside of graphs are laid out flat. In a cycle, which must hold a neuron, the signal
that comes back is that of the step before: going backwards from the output, the edge that comes from a node whose own
sources are still being looked for is the one that takes a step.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onward.core import Network
from onward.core.errors import ConfigError
from onward.core.glue import Add, Scale
from onward.core.graph import Builder, Kind
from onward.core.neuron import Neuron
from onward.export.nir.neurons import NEURONS, from_nir, near_one
from onward.neurons import Affine, HardReset

MOST_NUMBERS = 2**28
"""Numbers that a node may send in a step."""
GRAPH = "graph"
Shape = tuple[int, ...]
Edges = list[tuple[str, str]]


@dataclass(frozen=True)
class Found:
    """A network, the shape of its input, and the number of its outputs."""

    net: Network
    features: Shape
    outputs: int


class Graph(nn.Module):
    """Layers by name, each of which reads the sum of what some others send; ``late`` edges take one time step."""

    def __init__(self, layers: Mapping[str, nn.Module], reads: Mapping[str, list[str]], late: set[tuple[str, str]]):
        super().__init__()
        self.reads, self.late = reads, late
        for name, layer in layers.items():
            self.add_module(name, layer)

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        sent, out = dict[str, int](), x
        past = {source: build.open(f"{name}.{source}.delay") for source in sorted({first for first, _ in self.late})}
        for key, layer in self.named_children():
            terms = [past[source] if (source, key) in self.late else sent[source] for source in self.reads[key]]
            total = terms[0] if terms else x
            for term in terms[1:]:
                total = build.node(f"{name}.{key}.add", Kind.ADD, Add(), total, term)
            sent[key] = out = build.add(f"{name}.{key}", layer, total)
        for source, delay in past.items():
            build.close(delay, sent[source])
        return out


def network_of(graph: Any, dt: float) -> Found:
    """The network that ``graph`` describes in steps of ``dt`` seconds; raises `ConfigError` in words."""
    flat = _flat(graph)
    nodes, edges = flat.nodes, flat.edges
    features = tuple(int(size) for size in np.ravel(nodes[flat.start].input_type["input"]))
    if not features or min(features) < 1 or prod(features) > MOST_NUMBERS:
        raise ConfigError(f"the input of the graph has shape {list(features)[:8]}; expected sizes of at least 1")
    order, late = _order(nodes, edges, flat.end)
    _check_reached(nodes, order, flat.start)
    layers = _Layers(nodes, edges, dt)
    layers.spread(flat.start, features)
    layers.check()
    return Found(_network(*layers.assembled(order, late)), features, prod(layers.sent[flat.end]))


def _network(modules: Mapping[str, nn.Module], reads: Mapping[str, list[str]], late: set[tuple[str, str]]) -> Network:
    """A chain as such, anything else as a `Graph`."""
    names = list(modules)
    chain = not late and all(reads[key] == [before] for before, key in pairwise(names))
    if chain:
        return Network(nn.Sequential(OrderedDict((k, m) for k, m in modules.items() if not isinstance(m, nn.Identity))))
    return Network(nn.Sequential(OrderedDict({GRAPH: Graph(modules, reads, late)})))


class _Layers:
    """The layers of nodes, made as soon as a shape reaches them."""

    def __init__(self, nodes: dict[str, Any], edges: Edges, dt: float):
        self.nodes, self.dt = nodes, dt
        self.sources: dict[str, list[str]] = {name: [] for name in nodes}
        self.targets: dict[str, list[str]] = {name: [] for name in nodes}
        for first, second in edges:
            self.sources[second].append(first)
            self.targets[first].append(second)
        self.made: dict[str, list[nn.Module]] = {}
        self.sent: dict[str, Shape] = {}

    def spread(self, start: str, features: Shape) -> None:
        """Makes all layers that a signal of shape ``features`` reaches from ``start``."""
        waiting = deque([(start, features)])
        while waiting:
            name, shape = waiting.popleft()
            if name not in self.made:
                self.made[name] = _modules(self.nodes[name], name, shape, self.dt)
                self.sent[name] = _shape_after(self.made[name][-1], self.nodes[name], name, shape)
                waiting.extend((target, self.sent[name]) for target in self.targets[name])

    def check(self) -> None:
        """Raises `ConfigError` for a node that no signal reaches, or that adds arrays of different shapes."""
        for name, sources in self.sources.items():
            if name not in self.made:
                raise ConfigError(f"{name} reads nothing but what comes back to it; expected a way from the input")
            for source in sources[1:]:
                if self.sent[source] != self.sent[sources[0]]:
                    raise ConfigError(
                        f"{name} reads an array of shape {list(self.sent[sources[0]])} from {sources[0]}, and one of "
                        f"{list(self.sent[source])} from {source}; expected the same, to be added"
                    )

    def assembled(
        self, order: list[str], late: set[tuple[str, str]]
    ) -> tuple[dict[str, nn.Module], dict[str, list[str]], set[tuple[str, str]]]:
        """Layers, what they read, and the late edges, by names that torch takes."""
        layers: dict[str, nn.Module] = {}
        reads: dict[str, list[str]] = {}
        entry = {name: f"{key_of(name)}_gain" if len(made) > 1 else key_of(name) for name, made in self.made.items()}
        for name in order:
            for key in dict.fromkeys((entry[name], key_of(name))):
                _check_key(key, layers)
                layers[key] = self.made[name][0 if key == entry[name] else -1]
                reads[key] = [entry[name]] if key != entry[name] else [key_of(s) for s in self.sources[name]]
        return layers, reads, {(key_of(first), entry[second]) for first, second in late}


def _check_key(key: str, taken: Mapping[str, nn.Module]) -> None:
    if key in taken or hasattr(nn.Module, key) or key in ("reads", "late"):
        raise ConfigError(f"two nodes would be called {key!r}, or one as torch calls something else; rename it")


def key_of(name: str) -> str:
    """The name of a node as torch takes it.

    >>> key_of("block1.body.conv1")
    'block1_body_conv1'
    """
    return name.replace(".", "_") or "_"


@dataclass(frozen=True)
class _Flat:
    """A graph without graphs in it; ``start`` and ``end`` are its input and its output."""

    nodes: dict[str, Any]
    edges: Edges
    start: str
    end: str


def _flat(graph: Any, prefix: str = "") -> _Flat:
    """``graph``, with the nodes of graphs inside of it in their places."""
    nodes, edges = dict[str, Any](), list[tuple[str, str]]()
    starts = {name: f"{prefix}{name}" for name in graph.nodes}
    ends = dict(starts)
    for name, node in graph.nodes.items():
        if _kind(node) == "NIRGraph":
            inner = _flat(node, f"{prefix}{name}.")
            starts[name], ends[name] = inner.start, inner.end
            nodes |= inner.nodes
            edges += inner.edges
        else:
            nodes[starts[name]] = node
    for first, second in graph.edges:
        if first not in ends or second not in starts:
            raise ConfigError(f"an edge leads from {first!r} to {second!r}, and only one of these nodes is there")
        edges.append((ends[first], starts[second]))
    if len(set(edges)) != len(edges):
        raise ConfigError("an edge is there twice; expected each pair of nodes once at most")
    return _Flat(nodes, edges, prefix + _only(graph, "Input"), prefix + _only(graph, "Output"))


def _only(graph: Any, kind: str) -> str:
    """The name of the only node of ``kind``."""
    found = [name for name, node in graph.nodes.items() if _kind(node) == kind]
    if len(found) != 1:
        raise ConfigError(f"a graph has {len(found)} nodes of type {kind}; expected one")
    return found[0]


def _order(nodes: Mapping[str, Any], edges: Edges, end: str) -> tuple[list[str], set[tuple[str, str]]]:
    """The nodes, each behind what it reads, and the edges that lead back."""
    sources = {name: [first for first, second in edges if second == name] for name in nodes}
    order, late, done = list[str](), set[tuple[str, str]](), set[str]()
    way: list[str] = [end]
    open_ends: list[Iterator[str]] = [iter(sources[end])]
    while way:
        source = next(open_ends[-1], None)
        if source is None:
            open_ends.pop()
            order.append(way.pop())
            done.add(order[-1])
        elif source in way:
            _check_cycle(nodes, way[way.index(source) :])
            late.add((source, way[-1]))
        elif source not in done:
            way.append(source)
            open_ends.append(iter(sources[source]))
    return order, late


def _check_cycle(nodes: Mapping[str, Any], cycle: list[str]) -> None:
    if not any(_kind(nodes[name]) in NEURONS for name in cycle):
        raise ConfigError(
            f"{', '.join(cycle[:4])} are a cycle without a neuron, in which a signal would wait for itself; expected "
            "cycles through neurons alone"
        )


def _check_reached(nodes: Mapping[str, Any], order: list[str], start: str) -> None:
    if start not in order:
        raise ConfigError("no way leads from the input of the graph to its output")
    idle = [name for name in nodes if name not in set(order)]
    if idle:
        raise ConfigError(f"no way leads from {', '.join(idle[:3])} to the output of the graph; leave out what is idle")


def _modules(node: Any, name: str, shape: Shape, dt: float) -> list[nn.Module]:
    """The layer of ``node``, behind a factor where it needs one."""
    kind = _kind(node)
    try:
        return from_nir(node, dt) if kind in NEURONS else [_MAKERS[kind](node, shape)]
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except (TypeError, ValueError, OverflowError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"{name} is no {kind} that could be made ({_first_line(error)})") from None


def _shape_after(module: nn.Module, node: Any, name: str, shape: Shape) -> Shape:
    """What ``module`` makes of an input of ``shape``, worked out without numbers."""
    if isinstance(module, Neuron):
        own = tuple(int(size) for size in node.input_type["input"])
        if prod(own) != 1 and own != shape:
            raise ConfigError(f"{name} has neurons of shape {list(own)}, and reads {list(shape)}")
        return shape
    try:
        found = tuple(deepcopy(module).to("meta")(torch.empty(1, *shape, dtype=torch.float64, device="meta")).shape[1:])
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{name} cannot read an array of shape {list(shape)} ({_first_line(error)})") from None
    if prod(found) > MOST_NUMBERS:
        raise ConfigError(f"{name} would send {prod(found):,} numbers; expected at most {MOST_NUMBERS:,}")
    return found


def _tensor(array: Any) -> Tensor:
    """Weights in float64, which holds those of any file."""
    values = torch.from_numpy(np.ascontiguousarray(array, np.float64))
    if not values.isfinite().all():
        raise ConfigError("weights are not finite")
    return values


def _linear(node: Any, shape: Shape) -> nn.Module:  # noqa: ARG001
    weight = _tensor(node.weight)
    if weight.dim() != 2:
        raise ConfigError(f"weights have shape {list(weight.shape)}; expected [outputs, inputs]")
    bias = _tensor(node.bias) if _kind(node) == "Affine" else None
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta"), weight, bias)


def _conv(node: Any, shape: Shape) -> nn.Module:
    weight = _tensor(node.weight)
    rank = 1 if _kind(node) == "Conv1d" else 2
    if weight.dim() != rank + 2 or len(shape) != rank + 1 or not weight.numel():
        raise ConfigError(f"weights of shape {list(weight.shape)} cannot read an array of shape {list(shape)}")
    words = {
        "stride": _sizes(node.stride, rank),
        "padding": node.padding if isinstance(node.padding, str) else _sizes(node.padding, rank),
        "dilation": _sizes(node.dilation, rank),
        "groups": int(node.groups),
    }
    ins = weight.shape[1] * words["groups"]
    make: Any = nn.Conv1d if rank == 1 else nn.Conv2d
    made = make(ins, weight.shape[0], tuple(weight.shape[2:]), device="meta", **words)
    return _filled(made, weight, _tensor(node.bias))


def _filled(module: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """``module``, which was made without numbers, with these."""
    for name, values in {"weight": weight, "bias": bias}.items():
        expected = getattr(module, name)
        if values is None:
            continue
        if values.shape != expected.shape:
            raise ConfigError(f"{name} has shape {list(values.shape)}; expected {list(expected.shape)}")
        setattr(module, name, nn.Parameter(values))
    return module


def _average(node: Any, shape: Shape) -> nn.Module:  # noqa: ARG001
    return _pooling(node)


def _sum(node: Any, shape: Shape) -> nn.Module:  # noqa: ARG001
    return _pooling(node, divisor_override=1)


def _pooling(node: Any, **options: Any) -> nn.Module:
    sizes: Any = [_sizes(x, 2) for x in (node.kernel_size, node.stride, node.padding)]
    return nn.AvgPool2d(*sizes, **options)


def _flatten(node: Any, shape: Shape) -> nn.Module:
    """All into one vector: some programs count the axes from the batch (start 1), NIR without it (start 0)."""
    start, end = int(node.start_dim), int(node.end_dim)
    if start not in (0, 1) or end not in (-1, len(shape) - 1, len(shape)):
        raise ConfigError(f"axes {start} to {end} are made flat; expected all of them")
    return nn.Flatten()


def _scale(node: Any, shape: Shape) -> nn.Module:  # noqa: ARG001
    values = _tensor(node.scale).unique()
    if len(values) != 1:
        raise ConfigError("factors differ; expected one for all, or put them into the weights around it")
    return Scale(near_one(float(values)))


def _threshold(node: Any, shape: Shape) -> nn.Module:  # noqa: ARG001
    values = _tensor(node.threshold).unique()
    if len(values) != 1 or float(values) <= 0:
        raise ConfigError("thresholds differ, or are not positive; expected one for all")
    return Affine(0.0, threshold=float(values), reset=HardReset(), ties_fire=False)


def _nothing(node: Any, shape: Shape) -> nn.Module:  # noqa: ARG001
    return nn.Identity()


_MAKERS: dict[str, Callable[[Any, Shape], nn.Module]] = {
    "Affine": _linear,
    "AvgPool2d": _average,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "Flatten": _flatten,
    "Input": _nothing,
    "Linear": _linear,
    "Output": _nothing,
    "Scale": _scale,
    "SumPool2d": _sum,
    "Threshold": _threshold,
}


def _sizes(values: Any, count: int) -> tuple[int, ...]:
    """``count`` whole numbers; one stands for all."""
    found = [int(value) for value in np.ravel(values)]
    if len(found) not in (1, count) or min(found) < 0 or max(found) > MOST_NUMBERS:
        raise ConfigError(f"sizes {found[:4]} were given; expected {count} that are not negative")
    return tuple(found * count if len(found) == 1 else found)


def _kind(node: Any) -> str:
    return type(node).__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
