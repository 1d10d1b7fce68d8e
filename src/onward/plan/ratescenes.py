"""What a step of a rule that learns from rates holds at its peak: a simulation without a graph, then one walk in rates.

Of a chunk the simulation holds spikes and the drives they came from, of the sequence the sums that the rule asks for
(`RateRule.summed`). At the end one graph leads through the network of rates, as large as a single step; beside it is
what the rule keeps (`RateRule.keeps`). A rule that must see the sequence whole has a graph of all of it instead.
"""

from __future__ import annotations

from onward.core.graph import Kind, Node
from onward.core.rates import MASK, RateRule
from onward.core.rule import Holds
from onward.core.sequence import PIECE
from onward.plan.footprint import (
    ACTIVATIONS,
    CREDIT,
    STATES,
    SUMS,
    Ledger,
    Passing,
    Runs,
    Stage,
    WithinSteps,
)
from onward.plan.outline import Layer
from onward.plan.workspace import INDEX

EVENT = 4 * INDEX
"""Bytes an event takes while it is put among its zeros: its place three times, its count twice."""
ON_THE_WAY = 3
"""Vectors that a solver takes for a moment to find a residual."""
GLUE = (Kind.NORM, Kind.DROPOUT, Kind.ADD, Kind.JOIN, Kind.GLUE)
"""What a graph is made of beside synapses and neurons."""


class OneWay(WithinSteps):
    """One graph, which is gone when credit has passed."""

    def passed(self, steps: int) -> None:
        """See `WithinSteps.passed`: what glue sends is kept where a synapse or a neuron reads it."""
        for node in self.net.nodes[1:]:
            kept = any(reader.kind in (Kind.SYNAPSE, Kind.NEURON) for reader in self.outline.readers[node.index])
            if node.kind in GLUE and self.copies(node) and self.saved(node) and not kept:
                self.drop(ACTIVATIONS, self.stage.chunk(self.outline.layers[node.index], steps))


class Whole(OneWay):
    """The sequence is one chunk in one graph, in which neurons are clamps of their mean drive."""

    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """See `Scene.neuron`: spikes without slopes, and where the clamp passes gradients."""
        self.hold(STATES, 2 * self.state(node, layer))
        self.hold(ACTIVATIONS, self.spikes(node, layer, steps) + MASK * self.stage.step(layer))


class Simulated(Passing):
    """The network runs as it is, and what was summed teaches it."""

    def __init__(self, stage: Stage, ledger: Ledger, rule: RateRule):
        super().__init__(stage, ledger)
        self.summed = [self.outline.layers[node.index] for node in rule.summed(self.net)]
        self.rates = InRates(stage, ledger, rule)

    def learn(self, sequence: Runs) -> None:
        """See `Scene.learn`: the first chunk, which the others repeat, then the rates."""
        states = sum(self.state(node, self.outline.layers[node.index]) for node in self.net.neurons)
        sums = [self.rates.kinds * self.stage.step(layer) for layer in self.summed]
        self.hold(STATES, states)
        self.hold(SUMS, self.masks + self.once + sum(sums))
        self.forward(len(sequence[0][0]), Holds())
        self.borrow(max(sums, default=0))  # a new sum while the old one is there
        self.drop(ACTIVATIONS)
        self.drop(STATES, states)
        self.rates.learn(sequence)


class InRates(OneWay):
    """One walk through the network of rates, in a graph, on top of what the simulation left."""

    def __init__(self, stage: Stage, ledger: Ledger, rule: RateRule):
        super().__init__(stage.of_means(), ledger)
        self.graph, self.keeps, self.ledger = True, rule.keeps(self.net), ledger
        self.shown = stage.outline.layers[0]
        self.kinds = 1 if rule.leak == 1 else 2  # of means: weighted, and plain where that is another

    def learn(self, sequence: Runs) -> None:
        """See `Scene.learn`: means, the walk, what comes around cycles, deposits."""
        steps = sequence[-1][0].stop
        self.mean_input(steps)
        for index, count in self.keeps.means.items():
            self.hold(ACTIVATIONS, count * self.stage.step(self.outline.layers[index]))
        self.forward(1, Holds())
        if self.keeps.vectors and self.net.closing:
            self.solve(steps)
        self.teach(1, Holds())

    def mean_input(self, steps: int) -> None:
        """The means of an input that moves; of events, two pieces are dense at a time."""
        if self.shown.still:
            return
        one = self.stage.step(self.shown)
        events = self.shown.share * self.shown.size * self.stage.batch * min(steps, PIECE)
        self.hold(ACTIVATIONS, self.kinds * one)
        self.borrow(one * min(steps, 2 * PIECE) + EVENT * events if self.shown.sparse else one)

    def solve(self, steps: int) -> None:
        """The solver's vectors, of which the solution stays; before, a second walk, of which next to nothing does."""
        size = sum(self.stage.step(self.outline.layers[node.index]) for node in self.net.closing)
        if self.keeps.second:
            before = self.ledger.held[ACTIVATIONS]
            self.mean_input(steps)
            self.forward(1, Holds())
            self.drop(ACTIVATIONS, self.ledger.held[ACTIVATIONS] - before)
        self.hold(CREDIT, self.keeps.vectors * size)
        self.borrow(ON_THE_WAY * size + max(self.products.transposed(node, 1) for node in self.net.synapses))
        self.drop(CREDIT)
        self.hold(CREDIT, size)

    def glue(self, node: Node, layer: Layer, steps: int, holds: Holds) -> float:
        """See `Scene.glue`; what delays send is among the means."""
        return 0 if node.kind is Kind.DELAY else super().glue(node, layer, steps, holds)

    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """See `Scene.neuron`: a clamp."""
        self.hold(ACTIVATIONS, self.keeps.clamp * self.stage.step(layer))
        self.borrow(self.stage.step(layer))
