"""Topology: a network is a list of nodes in the order in which one time step visits them.

A *synapse* has weights and a drive at its output; a *neuron* has a recurrence and none; everything between is
*glue* (normalisation, pooling, scaling, reshaping, addition, dropout, delay). The network knows no learning
rule: a rule supplies the interpretation of each node to `Network.walk`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from onward.core.errors import TopologyMismatch, UnsupportedModule
from onward.core.neuron import Neuron

V = TypeVar("V")


class Kind(Enum):
    """What a node does."""

    INPUT = "input"
    SYNAPSE = "synapse"
    NEURON = "neuron"
    NORM = "norm"
    DROPOUT = "dropout"
    DELAY = "delay"
    ADD = "add"
    GLUE = "glue"


_BARRIERS = frozenset({Kind.SYNAPSE, Kind.NEURON, Kind.DELAY})


@dataclass(frozen=True, eq=False)
class Node:
    """One place in the network; ``inputs`` are indices of other nodes, ``name`` is its module path."""

    index: int
    name: str
    kind: Kind
    module: nn.Module
    inputs: tuple[int, ...]

    def __repr__(self) -> str:
        return f"{self.name or self.kind.value}"


class Add(nn.Module):
    """Sum of two signals."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b."""
        return a + b


class Scale(nn.Module):
    """Multiplication by a constant.

    >>> Scale(2.74)(torch.ones(1)).item() > 2.7
    True
    """

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """factor * x."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The factor."""
        return f"{self.factor:.4g}"


class Delay(nn.Module):
    """A feed-forward delay of ``steps`` time steps; zeros come first."""

    def __init__(self, steps: int = 1):
        super().__init__()
        if steps < 1:
            raise TopologyMismatch(f"a delay of {steps} steps was given; expected at least 1")
        self.steps = steps

    def extra_repr(self) -> str:
        """The number of steps."""
        return f"{self.steps}"


@runtime_checkable
class Wired(Protocol):
    """A container that says how its parts are connected."""

    def wire(self, build: Builder, name: str, x: int) -> int:
        """Adds its nodes reading node ``x``; returns the index of its output."""
        ...


class Residual(nn.Module):
    """body(x) + shortcut(x); the shortcut is the identity unless given."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        body = build.add(f"{name}.body", self.body, x)
        return build.node(f"{name}.add", Kind.ADD, Add(), body, build.add(f"{name}.shortcut", self.shortcut, x))


class Recurrent(nn.Module):
    """A layer that also reads its own spikes of the step before: neuron(synapse(x) + recurrent(s[t-1]))."""

    def __init__(self, synapse: nn.Module, neuron: Neuron, recurrent: nn.Module):
        super().__init__()
        self.synapse, self.neuron, self.recurrent = synapse, neuron, recurrent

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        drive = build.add(f"{name}.synapse", self.synapse, x)
        past = build.open(f"{name}.delay")
        back = build.add(f"{name}.recurrent", self.recurrent, past)
        total = build.node(f"{name}.add", Kind.ADD, Add(), drive, back)
        out = build.add(f"{name}.neuron", self.neuron, total)
        return build.close(past, out)


class Feedback(nn.Module):
    """A stack whose first neuron also reads the stack's output of the step before, through ``back``.

    entry(x) + back(out[t-1]) -> body -> out. OTTT's VGG-F is one: entry the first convolution, back an upsampling
    and a convolution.
    """

    def __init__(self, entry: nn.Module, body: nn.Module, back: nn.Module):
        super().__init__()
        self.entry, self.body, self.back = entry, body, back

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        drive = build.add(f"{name}.entry", self.entry, x)
        past = build.open(f"{name}.delay")
        back = build.add(f"{name}.back", self.back, past)
        total = build.node(f"{name}.add", Kind.ADD, Add(), drive, back)
        return build.close(past, build.add(f"{name}.body", self.body, total))


class Builder:
    """Collects the nodes of a network while its containers are wired."""

    def __init__(self) -> None:
        self.nodes = [Node(0, "input", Kind.INPUT, nn.Identity(), ())]

    def add(self, name: str, module: nn.Module, x: int) -> int:
        """Adds ``module`` (a container or a single node) reading node ``x``; returns its output's index."""
        if isinstance(module, Wired):
            return module.wire(self, name, x)
        if isinstance(module, nn.Sequential):
            for key, child in module.named_children():
                x = self.add(f"{name}.{key}" if name else key, child, x)
            return x
        if isinstance(module, nn.Identity):
            return x
        return self.node(name, kind_of(name, module), module, x)

    def node(self, name: str, kind: Kind, module: nn.Module, *inputs: int) -> int:
        """Adds one node."""
        self.nodes.append(Node(len(self.nodes), name, kind, module, inputs))
        return len(self.nodes) - 1

    def open(self, name: str) -> int:
        """Adds a delay of one step whose input comes later in the step: the start of a cycle."""
        return self.node(name, Kind.DELAY, Delay(1), -1)

    def close(self, delay: int, source: int) -> int:
        """Connects the delay opened before to its source; returns the source."""
        old = self.nodes[delay]
        self.nodes[delay] = Node(old.index, old.name, old.kind, old.module, (source,))
        return source


def kind_of(name: str, module: nn.Module) -> Kind:
    """What a single module is; raises `UnsupportedModule` for one the engine cannot place."""
    if isinstance(module, Neuron):
        return Kind.NEURON
    if isinstance(module, _BatchNorm):
        return Kind.NORM
    if isinstance(module, nn.Dropout | _DropoutNd):
        return Kind.DROPOUT
    if isinstance(module, Delay):
        return Kind.DELAY
    if isinstance(module, nn.LayerNorm | nn.GroupNorm):
        return Kind.GLUE
    own = list(module.parameters(recurse=False))
    if own or parametrize.is_parametrized(module):
        return Kind.SYNAPSE
    if any(True for _ in module.children()):
        raise UnsupportedModule(
            f"{name or type(module).__name__} is a container the network cannot look into ({type(module).__name__}); "
            "use nn.Sequential, Residual, Recurrent or Feedback, or give it a wire(build, name, x) method"
        )
    return Kind.GLUE


class Network(nn.Module):
    """A spiking network: any `nn.Sequential` of stock layers, our neurons and our containers.

    State-dict keys are those of ``body``. Called on ``[T, B, ...]`` it returns the outputs ``[T, B, ...]`` without
    noise or gradient (see `onward.core.run.evaluate` for whole data sets).

    >>> from onward.neurons import LIF
    >>> net = Network(nn.Sequential(nn.Linear(4, 3), LIF(), nn.Linear(3, 2)))
    >>> [str(node) for node in net.synapses], net.cyclic
    (['0', '2'], False)
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        sequence = body if isinstance(body, nn.Sequential) else nn.Sequential(body)
        for key, child in sequence.named_children():
            self.add_module(key, child)
        build = Builder()
        self.output = build.add("", sequence, 0)
        self.nodes: tuple[Node, ...] = tuple(build.nodes)
        self._release = self._last_uses()
        self._readers = [self._first_reader(node) for node in self.nodes]
        self._wakes = self._first_steps()

    @property
    def synapses(self) -> list[Node]:
        """The nodes with weights and a drive."""
        return self.of(Kind.SYNAPSE)

    @property
    def neurons(self) -> list[Node]:
        """The nodes with a membrane."""
        return self.of(Kind.NEURON)

    @property
    def cyclic(self) -> bool:
        """Whether an edge leads back in the order of a step, so that time cannot be chunked."""
        return any(self.closes_cycle(node) for node in self.nodes)

    @property
    def fitted_glue(self) -> list[Node]:
        """Glue with parameters of its own: normalisation layers."""
        return [n for n in self.nodes if n.kind in (Kind.NORM, Kind.GLUE) and any(True for _ in n.module.parameters())]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[T, B, ...]`` for dense inputs ``[T, B, ...]``, without noise or gradient."""
        from onward.core.run import outputs
        from onward.core.sequence import Frames

        with torch.no_grad():
            return torch.cat(list(outputs(self, Frames(x), chunk=len(x))))

    def of(self, kind: Kind) -> list[Node]:
        """The nodes of one kind, in order."""
        return [node for node in self.nodes if node.kind is kind]

    @property
    def hidden(self) -> list[Node]:
        """The neurons whose output reaches the network's output through at least one synapse."""
        exposed = self._reached_back(self.output)
        return [node for node in self.neurons if node.index not in exposed]

    def reader(self, node: Node) -> Node | None:
        """The first neuron that ``node`` reaches without a delay; None if it reaches the output instead.

        A synapse takes its credit from there, *up to the next spike and no further*.
        """
        index = self._readers[node.index]
        return None if index is None else self.nodes[index]

    def exposed(self, node: Node) -> bool:
        """Whether some way from ``node`` to the output passes neither a spike nor a delay."""
        return self._leads_out(node, {Kind.NEURON, Kind.DELAY})

    def reaches_output(self, node: Node) -> bool:
        """Whether some way from ``node`` to the output passes no delay."""
        return self._leads_out(node, {Kind.DELAY})

    def sender(self, node: Node) -> Node | None:
        """The nearest neuron upstream of ``node``, delays included; None if it reads the network's input."""
        frontier, seen = list(node.inputs), set()
        while frontier:
            index = max(frontier)
            frontier.remove(index)
            if self.nodes[index].kind is Kind.NEURON:
                return self.nodes[index]
            if index not in seen:
                seen.add(index)
                frontier += self.nodes[index].inputs
        return None

    def sources(self, node: Node) -> list[Node]:
        """The synapses and neurons that reach ``node`` through glue alone."""
        reached = [self.nodes[i] for i in sorted(self._reached_back(node.index) - {node.index})]
        return [other for other in reached if other.kind in (Kind.SYNAPSE, Kind.NEURON)]

    def wakes(self, node: Node) -> int:
        """The first time step at which a signal reaches ``node``: 1 behind a delay that closes a cycle, else 0."""
        return self._wakes[node.index]

    def closes_cycle(self, node: Node) -> bool:
        """Whether ``node`` is a delay that reads a node visited after it."""
        return node.kind is Kind.DELAY and node.inputs[0] > node.index

    def walk(self, x: V, visit: Callable[..., V | None]) -> V:
        """Visits every node in the order of one time step: ``visit(node, *inputs)``.

        Delays that close a cycle are visited without input, and once more at the end with what they will send next.
        """
        values: list[V | None] = [x] + [None] * (len(self.nodes) - 1)
        for node in self.nodes[1:]:
            inputs = () if self.closes_cycle(node) else [values[i] for i in node.inputs]
            values[node.index] = visit(node, *inputs)
            for done in self._release[node.index]:
                values[done] = None
        for node in self.nodes:
            if self.closes_cycle(node):
                visit(node, values[node.inputs[0]])
        out = values[self.output]
        assert out is not None
        return out

    def _leads_out(self, node: Node, barriers: set[Kind]) -> bool:
        reached = {node.index}
        for later in self.nodes[node.index + 1 :]:
            if later.kind not in barriers and reached.intersection(later.inputs):
                reached.add(later.index)
        return self.output in reached

    def _first_reader(self, node: Node) -> int | None:
        reached = {node.index}
        for later in self.nodes[node.index + 1 :]:
            if later.kind is not Kind.DELAY and reached.intersection(later.inputs):
                if later.kind is Kind.NEURON:
                    return later.index
                reached.add(later.index)
        return None

    def _first_steps(self) -> list[int]:
        steps: list[int] = []
        for node in self.nodes:
            steps.append(1 if self.closes_cycle(node) else min((steps[i] for i in node.inputs), default=0))
        return steps

    def _reached_back(self, index: int) -> set[int]:
        """``index`` and what reaches it through glue alone, the synapses and neurons at the far end included."""
        reached, frontier = set(), [index]
        while frontier:
            here = frontier.pop()
            if here in reached:
                continue
            reached.add(here)
            if here == index or self.nodes[here].kind not in _BARRIERS:
                frontier += self.nodes[here].inputs if self.nodes[here].kind is not Kind.SYNAPSE else ()
        return reached

    def _last_uses(self) -> list[list[int]]:
        """For each node, which earlier values nobody reads after it."""
        last = {i: node.index for node in self.nodes for i in node.inputs if not self.closes_cycle(node)}
        kept = {self.output} | {node.inputs[0] for node in self.nodes if self.closes_cycle(node)}
        release: list[list[int]] = [[] for _ in self.nodes]
        for value, reader in last.items():
            if value not in kept:
                release[reader].append(value)
        return release
