"""What a training step holds at its peak, acted out on paper: the order of allocations is that of the engine.

A layer that sends n numbers takes S = n x batch x steps of the chunk x 4 bytes for each tensor of a chunk. What a rule
with O(1) memory records of a chunk is, per synapse, its drive (S) and the non-zeros of its input (8 bytes each); per
neuron, spikes and slopes (2 S, and S more where the potential is not recalled from the drive) and the membranes before
and after; and what the rule says it holds (`onward.core.rule.Holds`). Credit adds a postsynaptic factor (S) for every
drive, all of them before the first is deposited. Through time, the same is recorded for every chunk of the sequence,
and the way back takes five S more for the layer it is at. All else is workspace: taken and returned at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from functools import cached_property
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from onward.core.draws import Draws
from onward.core.glue import mask_size
from onward.core.graph import Kind, Node
from onward.core.group import Share
from onward.core.rule import Holds, LearningRule
from onward.core.signal import Context
from onward.plan.outline import Layer, Outline
from onward.plan.workspace import Products

STATES, SUMS, ACTIVATIONS = "neuron states", "traces and sums", "activations"
CREDIT, GRADIENTS, WORKSPACE = "credit", "gradients", "workspace"

ONCE = (Kind.SYNAPSE, Kind.NORM, Kind.DROPOUT)
"""What is worked out once a sequence, and kept, where all it reads stands still."""
MOVING = (Kind.NEURON, Kind.DELAY, Kind.ADD)
"""Behind these nothing stands still."""

Runs = tuple[tuple[range, bool], ...]
"""The steps of each run of a sequence, and whether they take part in credit."""


class Ledger:
    """Bytes held, by part; ``most`` is how they stood at the peak."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._now = self._peak = 0

    def hold(self, part: str, amount: float) -> None:
        """Takes memory until `drop`."""
        taken = round(amount)
        self.held[part] += taken
        self._now += taken
        if self._now > self._peak:
            self._peak, self.most = self._now, self.held.copy()

    def drop(self, part: str, amount: float | None = None) -> None:
        """Gives memory back: all of the part, unless told how much."""
        given = self.held[part] if amount is None else round(amount)
        self.held[part] -= given
        self._now -= given

    def borrow(self, amount: float) -> None:
        """Takes workspace and gives it back."""
        self.hold(WORKSPACE, amount)
        self.drop(WORKSPACE, amount)


class Stage:
    """A network and a rule, ready for mini-batches of ``batch`` samples.

    ``short``: products take factors in bf16. ``stores``: gradients that could be drawn anew are stored.
    """

    def __init__(self, outline: Outline, rule: LearningRule, batch: int, short: bool = False, stores: bool = True):
        self.outline, self.net, self.rule, self.batch = outline, outline.net, rule, batch
        self.short, self.stores = short, stores
        self.products = Products(outline, batch, short)

    def of_means(self) -> Stage:
        """The same for means over time."""
        return Stage(self.outline.of_means(), self.rule, self.batch, self.short)

    def step(self, layer: Layer) -> int:
        """Bytes of what ``layer`` sends in one step."""
        return layer.size * self.batch * self.products.item

    def chunk(self, layer: Layer, steps: int) -> int:
        """Bytes of what it sends in a chunk; of one step where all are the same."""
        return self.step(layer) * (1 if layer.still else steps)


def runs(rule: LearningRule, draws: Draws, steps: int, chunk: int, sequence: int) -> Runs:
    """The runs in which ``rule`` works through sequence number ``sequence`` of ``steps`` in chunks of ``chunk``."""
    context = Context(draws, torch.arange(1), sequence, steps, Share(1))
    chunks = (rule.runs(start, min(start + chunk, steps), context) for start in range(0, steps, chunk))
    return tuple((range(first, stop), part) for found in chunks for first, stop, part in found)


class Scene(ABC):
    """What all rules do alike; ``crosses``: errors travel back across spikes; ``graph``: one for that is being made."""

    def __init__(self, stage: Stage, ledger: Ledger):
        self.stage, self.outline, self.net, self.products = stage, stage.outline, stage.net, stage.products
        self.hold, self.borrow, self.drop = ledger.hold, ledger.borrow, ledger.drop
        self.crosses = self.graph = stage.rule.traits.backward != "none"
        self.graded: set[int] = set()

    @abstractmethod
    def learn(self, sequence: Runs) -> None:
        """From the first time step to the last deposit."""

    @abstractmethod
    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """What neurons leave behind."""

    def update(self) -> None:
        """Gradients of effective weights become those of the parameters behind them; all else is over."""
        for part in (ACTIVATIONS, STATES, SUMS, CREDIT):
            self.drop(part)
        for node in self.net.synapses:
            if parametrize.is_parametrized(node.module):
                self.hold(GRADIENTS, sum(p.nbytes for p in node.module.parameters()))
                self.borrow(2 * self.products.weight(node))

    def forward(self, steps: int, holds: Holds) -> None:
        """Walks a chunk through the network."""
        waiting: dict[int, float] = {}
        for node in self.net.nodes[1:]:
            if node.index in self.outline.layers:
                waiting[node.index] = self.visit(node, self.outline.layers[node.index], steps, holds)
            for index in node.inputs:
                if self.outline.readers[index][-1] is node:
                    self.drop(WORKSPACE, waiting.pop(index, 0))
        self.drop(WORKSPACE)
        firing = [self.outline.layers[node.index] for node in self.net.neurons if node.index in self.outline.layers]
        largest = max((self.stage.chunk(layer, steps) for layer in firing), default=0)
        self.borrow(1.25 * largest)  # spikes are counted as booleans, then as numbers
        out = self.outline.layers[self.net.output]
        self.hold(ACTIVATIONS, 4 * self.stage.chunk(out, steps))  # outputs, errors, their seed, probabilities

    def visit(self, node: Node, layer: Layer, steps: int, holds: Holds) -> float:
        """Holds what the node leaves behind; returns the bytes that only wait for its readers."""
        match node.kind:
            case Kind.SYNAPSE:
                self.synapse(node, layer, steps, holds)
            case Kind.NEURON:
                self.neuron(node, layer, steps, holds)
            case _ if self.copies(node):
                return self.glue(node, layer, steps, holds)
        return 0

    def synapse(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """The non-zeros of the input, the drive, and what making it takes."""
        read, own = self.outline.read(node), self.stage.chunk(layer, steps)
        self.hold(ACTIVATIONS, self.products.rows(node, steps) + own)
        extra = self.products.drive(node, 1 if read.still else steps)
        if not self.noisy(node, holds):
            return self.borrow(extra)
        noise = holds.noise / steps
        if self.products.gathers(node, steps, noise):
            return self.borrow(extra + own * (1 + noise))  # the drives of spikes and of noise apart
        if self.net.nodes[node.inputs[0]].kind is not Kind.NEURON:
            return self.borrow(extra + self.stage.chunk(read, steps))
        self.hold(ACTIVATIONS, self.stage.chunk(read, steps))  # spikes and noise are summed where the record has them
        return self.borrow(extra)

    def glue(self, node: Node, layer: Layer, steps: int, holds: Holds) -> float:
        """The glue's output, for the graph or a reader to keep, or waiting for its reader alone."""
        own = self.stage.chunk(layer, steps)
        noise = own * holds.noise / steps if self.noisy(node, holds) else 0
        kept = self.saved(node) and (self.graph or self.drives(node) or self.feeds_synapse(node))
        self.hold(ACTIVATIONS if kept else WORKSPACE, own)
        self.hold(WORKSPACE, noise)
        return noise + (0 if kept else own)

    def deposit(self, node: Node, steps: int, memory: float) -> None:
        """The gradient of a synapse, and what the product takes; ``memory`` is that of a trace."""
        if node.index not in self.graded:
            self.graded.add(node.index)
            self.hold(GRADIENTS, self.products.weight(node))
        still = self.outline.read(node).still and steps > 1
        summed = self.stage.step(self.outline.layers[node.index]) if still else 0
        self.borrow(memory + summed + self.products.deposit(node, 1 if still else steps))

    def other_gradients(self) -> None:
        """Those of parameters that are no synapse's: of norms, of thresholds, and the rule's own."""
        own = {id(p) for node in self.net.synapses for p in node.module.parameters()}
        rest = [p for p in (*self.net.parameters(), *self.stage.rule.parameters()) if id(p) not in own]
        self.hold(GRADIENTS, sum(p.nbytes for p in rest if p.requires_grad))

    def noisy(self, node: Node, holds: Holds) -> bool:
        """Whether injected noise reaches ``node``."""
        return holds.sent and bool(set(self.outline.hidden).intersection(self.outline.sources[node.index]))

    def drives(self, node: Node) -> bool:
        """Whether glue stands between a synapse and its neuron."""
        return any(source.kind is Kind.SYNAPSE for source in self.outline.sources[node.index])

    def saved(self, node: Node) -> bool:
        """Whether who reads ``node`` needs its numbers on the way back; sums and masks do without."""
        return any(reader.kind not in (Kind.ADD, Kind.DROPOUT) for reader in self.outline.readers[node.index])

    def feeds_synapse(self, node: Node) -> bool:
        """Whether a synapse keeps what glue sends as its input."""
        return any(reader.kind is Kind.SYNAPSE for reader in self.outline.readers[node.index])

    def copies(self, node: Node) -> bool:
        """Whether glue makes a tensor of its own: all but what only sees maps in another shape, as they lie."""
        read = self.outline.read(node)
        alike = read.sparse or not read.channels_last or 1 in (read.places, read.features[0])
        return not (isinstance(node.module, nn.Flatten | nn.Unflatten) and alike)

    def leaves(self, node: Node, layer: Layer, steps: int, through_time: bool) -> float:
        """Bytes of the chunks that neurons leave behind."""
        module: Any = node.module
        count = module.leaves(self.outline.chunk(layer, steps, self.stage.batch), through_time)
        return count * self.stage.chunk(layer, steps)

    def spikes(self, node: Node, layer: Layer, steps: int) -> float:
        """The same where nobody asks for slopes."""
        return self.leaves(node, layer, steps, through_time=False) - self.stage.chunk(layer, steps)

    @cached_property
    def masks(self) -> int:
        """Bytes of the dropout masks of a sequence."""
        dropped = [node for node in self.net.of(Kind.DROPOUT) if node.index in self.outline.layers]
        layers = {node: self.outline.layers[node.index] for node in dropped}
        return sum(
            self.stage.step(layer) // layer.size * prod(mask_size(node.module, layer.features))
            for node, layer in layers.items()
        )

    def state(self, node: Node, layer: Layer) -> int:
        """Bytes of a neuron's state."""
        module: Any = node.module
        return len(module.start(self.outline.like.expand(1, 1))) * self.stage.step(layer)


class WithinSteps(Scene):
    """Rules with O(1) memory: a chunk is recorded, taught, and forgotten."""

    def learn(self, sequence: Runs) -> None:
        """See `Scene.learn`; of runs that are alike, one is enough."""
        total, seen = sequence[-1][0].stop, set()
        for steps, part in sequence:
            holds = self.stage.rule.holds(self.net, steps)
            alike = (len(steps), part, steps.start == 0, steps.stop < total, holds)
            if alike not in seen:
                seen.add(alike)
                self.run(*alike)

    def run(self, steps: int, part: bool, first: bool, more: bool, holds: Holds) -> None:
        """A run of steps: forward, credit and deposits, and perhaps forward once more.

        Traces and sums of before are held until the end, for what may start from them again.
        """
        traces = sum(self.stage.step(self.outline.read(n)) for n in self.net.synapses if n.index in holds.traced)
        eligible = [self.products.of_samples(self.net.nodes[index]) for index in holds.eligible]
        self.drop(SUMS)
        self.hold(SUMS, self.masks + holds.read + (0 if first else traces + holds.sums + sum(eligible)))
        self.graph = part and self.crosses
        self.forward(steps, holds)
        self.remember(steps, more, holds)
        self.hold(SUMS, traces if more else 0)
        if part:
            self.teach(steps, holds)
        self.hold(SUMS, sum(eligible) if first else 0)
        self.drop(CREDIT)
        self.hold(SUMS, holds.sums)
        # One layer at a time, an amount is made in two copies, and a sum with it: about as much as all sums, once.
        self.borrow(holds.sums / (2 if first else 1))
        for _ in range(holds.passes - 1):
            self.forward(steps, holds)
        self.drop(ACTIVATIONS)
        self.drop(STATES)

    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """See `Scene.neuron`: spikes and slopes, the states before and after, noise."""
        self.hold(STATES, 2 * self.state(node, layer))
        self.hold(ACTIVATIONS, self.leaves(node, layer, steps, through_time=False))
        if node in self.outline.hidden:
            noise, drives = holds.noise * self.stage.step(layer), holds.drives * self.stage.chunk(layer, steps)
            self.hold(ACTIVATIONS, noise + drives)

    def teach(self, steps: int, holds: Holds) -> None:
        """Credit of every layer, then the deposits."""
        if not self.graded:
            self.other_gradients()
        for node in self.outline.hidden if holds.credits else []:
            own = self.stage.chunk(self.outline.layers[node.index], steps)
            self.borrow(2 * own)  # noise step by step and joined, or an adjoint and what it starts from
            self.hold(CREDIT, holds.credits * own)
        order = self.outline.readout_first
        for node in reversed(self.net.synapses) if self.crosses else order:
            self.post(node, steps, holds)
        self.passed(steps)
        for node in order:
            self.deposit(node, steps, self.memory(node, steps, holds) + self.products.posts(node, steps))

    def passed(self, steps: int) -> None:
        """The way back is over; the graph of a chunk stays, since more credit may take it."""

    def post(self, node: Node, steps: int, holds: Holds) -> None:
        """The postsynaptic factor of a drive: by the graph from the layer above, or from credit at the spikes."""
        self.hold(CREDIT, self.stage.step(self.outline.layers[node.index]) * steps)
        reader = self.outline.reader[node.index]
        if reader is None:
            return
        listed = self.products.posts(node, steps)
        back = (
            self.products.transposed(node, steps) + listed if self.crosses and self.outline.sources[node.index] else 0
        )
        apart = self.crosses or reader.inputs[0] != node.index  # from what the graph, or glue, hands down
        seeds = self.stage.chunk(self.outline.layers[reader.index], steps) * (apart + min(holds.credits, 1))
        self.borrow(seeds + back)

    def memory(self, node: Node, steps: int, holds: Holds) -> float:
        """A trace's memory, on the smaller side of the product."""
        read = self.outline.read(node)
        if node.index not in holds.traced or (read.still and steps > 1):
            return 0
        dense, post = self.stage.chunk(read, steps), self.stage.step(self.outline.layers[node.index]) * steps
        return dense if dense < post and not self.products.listed(node, steps) else post

    def remember(self, steps: int, more: bool, holds: Holds) -> None:
        """Traces of events are made from events among their zeros."""
        for node in self.net.synapses:
            if more and node.index in holds.traced and self.outline.read(node).sparse:
                self.borrow(self.stage.chunk(self.outline.read(node), steps))


class Passing(Scene):
    """A chunk passes without a graph, and leaves nothing but what neurons did and the drives they came from."""

    def __init__(self, stage: Stage, ledger: Ledger):
        super().__init__(stage, ledger)
        self.graph = False

    @cached_property
    def still(self) -> set[int]:
        """The nodes that send the same at every step."""
        found = {0} if self.outline.layers[0].still else set()
        for node in self.net.nodes[1:]:
            if node.kind not in MOVING and found.issuperset(node.inputs):
                found.add(node.index)
        return found

    @property
    def once(self) -> int:
        """Bytes of what is worked out once a sequence, and kept, since all it reads stands still."""
        kept = [index for index in self.still if self.net.nodes[index].kind in ONCE]
        return sum(self.stage.step(self.outline.layers[index]) for index in kept)

    def visit(self, node: Node, layer: Layer, steps: int, holds: Holds) -> float:
        """See `Scene.visit`; non-zeros are listed for a product alone, and a drive is kept by its neuron alone."""
        if node.kind is Kind.NEURON or (node.kind is not Kind.SYNAPSE and not self.copies(node)):
            return super().visit(node, layer, steps, holds)
        if node.index in self.still:
            return 0
        own = self.stage.chunk(layer, steps)
        kept = node.kind is Kind.DELAY or any(n.kind is Kind.NEURON for n in self.outline.readers[node.index])
        self.hold(ACTIVATIONS if kept else WORKSPACE, own)
        if node.kind is Kind.SYNAPSE:
            self.borrow(self.product(node, steps))
        return 0 if kept else own

    def product(self, node: Node, steps: int) -> float:
        """Bytes of what making a drive takes."""
        return self.products.rows(node, steps) + self.products.drive(node, steps)

    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """See `Scene.neuron`: spikes, and the state after them."""
        self.hold(STATES, self.state(node, layer))
        self.hold(ACTIVATIONS, self.spikes(node, layer, steps))


class ThroughTime(Scene):
    """Rules with a graph through time: every chunk is recorded until the way back."""

    def learn(self, sequence: Runs) -> None:
        """See `Scene.learn`: forward through the whole sequence, back, then the deposits."""
        chunks = [len(steps) for steps, _ in sequence]
        self.hold(SUMS, self.masks)
        for steps in chunks:
            self.forward(steps, Holds())
        self.other_gradients()
        for steps in reversed(chunks):
            for node in reversed(self.net.nodes[1:]):
                self.back(node, self.outline.layers[node.index], steps)
        for steps, _ in groupby(chunks):
            for node in self.net.synapses * 2:  # the second time, all gradients are there
                self.deposit(node, steps, 0)

    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """See `Scene.neuron`; the state after every chunk is part of its record."""
        self.hold(STATES, self.state(node, layer))
        self.hold(ACTIVATIONS, self.leaves(node, layer, steps, through_time=True))

    def back(self, node: Node, layer: Layer, steps: int) -> None:
        """The way back through a node; what only the graph needed is freed behind it."""
        own, step = self.stage.chunk(layer, steps), self.stage.step(layer)
        match node.kind:
            case Kind.SYNAPSE:
                self.hold(CREDIT, step * steps)
            case Kind.NEURON:
                # Credit of spikes and of the potential, and slopes; then the gradient step by step, with five terms of
                # a step on the way, which is joined and scaled; two of the state.
                self.borrow(3 * own + max(own + 5 * step, 2 * own) + 2 * self.state(node, layer))
            case _ if self.copies(node):
                self.borrow(2 * own)
                if not self.feeds_synapse(node):
                    self.drop(ACTIVATIONS, own)
