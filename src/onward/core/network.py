"""Topology: a network is a list of nodes in the order in which one time step visits them.

It knows no learning rule: a rule supplies the interpretation of each node to `Network.walk`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from onward.core.errors import UnsupportedModule
from onward.core.graph import Builder, Kind, Node, children

V = TypeVar("V")
_BARRIERS = frozenset({Kind.SYNAPSE, Kind.NEURON, Kind.DELAY})


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
        build = Builder()
        self.output = build.add("", sequence, 0)
        self.nodes: tuple[Node, ...] = tuple(build.nodes)
        self._adopt(sequence)
        self._release = self._last_uses()
        self._readers = [self._all_readers(node) for node in self.nodes]
        self._keeping = [self._keeps(node) for node in self.nodes]
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
        return bool(self.closing)

    @property
    def closing(self) -> list[Node]:
        """The delays at which cycles begin: each reads a node visited after it."""
        return [node for node in self.nodes if self.closes_cycle(node)]

    @property
    def fitted_glue(self) -> list[Node]:
        """Glue with parameters of its own, such as normalisation layers and learned shifts."""
        kinds = (Kind.NORM, Kind.GLUE, Kind.JOIN)
        return [n for n in self.nodes if n.kind in kinds and any(True for _ in n.module.parameters())]

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
        """The first of the `readers` of ``node``, whose memory its traces keep; None if there is none."""
        return next(iter(self.readers(node)), None)

    def readers(self, node: Node) -> list[Node]:
        """The neurons that ``node`` reaches without a delay, *up to the next spike and no further*.

        Several, where the membrane's input itself is handed on past a neuron, as in MS-ResNets.
        """
        return [self.nodes[index] for index in self._readers[node.index]]

    def exact_zeros(self, node: Node) -> bool:
        """Whether credit of a step reaches ``node`` with the exact zeros that slopes of all its `readers` have."""
        readers: list[Any] = [reader.module for reader in self.readers(node)]
        return self._keeping[node.index] and all(neuron.exact_zeros for neuron in readers)

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

    def origins(self, node: Node) -> list[Node]:
        """The synapses, neurons, delays and the input that ``node`` reads, itself or through glue."""
        frontier, found = list(node.inputs), set[int]()
        while frontier:
            here = self.nodes[frontier.pop()]
            if here.kind in _BARRIERS or here.kind is Kind.INPUT:
                found.add(here.index)
            else:
                frontier += here.inputs
        return [self.nodes[i] for i in sorted(found)]

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
        for node in self.closing:
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

    def _adopt(self, sequence: nn.Sequential) -> None:
        """Registers the children of ``sequence`` as our own, under their names."""
        for key, child in children(sequence):
            if key not in self._modules and hasattr(self, key):
                raise UnsupportedModule(f"a layer is called {key!r}, which a Network uses itself; give it another name")
            self.add_module(key, child)

    def _all_readers(self, node: Node) -> list[int]:
        reached, found = {node.index}, []
        for later in self.nodes[node.index + 1 :]:
            if later.kind is not Kind.DELAY and reached.intersection(later.inputs):
                if later.kind is Kind.NEURON:
                    found.append(later.index)
                else:
                    reached.add(later.index)
        return found

    def _keeps(self, node: Node) -> bool:
        """Whether zeros of credit at the readers of ``node`` come back to it: nothing between mixes or adds credit."""
        reached = {node.index}
        for later in self.nodes[node.index + 1 :]:
            if later.kind not in (Kind.NEURON, Kind.DELAY) and reached.intersection(later.inputs):
                if later.kind in (Kind.SYNAPSE, Kind.NORM) or any(True for _ in later.module.parameters()):
                    return False
                reached.add(later.index)
        return not self.exposed(node)

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
