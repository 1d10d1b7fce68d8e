"""What a step of a rule that tries weights out holds at its peak: runs side by side, without a graph.

Between two chunks every run holds its states; of the chunk at hand one run at a time holds spikes and the drives they
came from, or, in dual numbers, spikes, potentials and tangents. Weights are moved in a copy, one layer at a time. Noise
is drawn in blocks; the gradient is stored only where the optimiser needs it whole.
"""

from __future__ import annotations

from functools import cached_property

from torch.nn.utils import parametrize

from onward.core.drawn import BLOCK
from onward.core.graph import Kind, Node
from onward.core.probe import RayRule
from onward.core.rule import Holds
from onward.plan.footprint import ACTIVATIONS, GRADIENTS, STATES, SUMS, WORKSPACE, Ledger, Passing, Runs, Stage
from onward.plan.outline import Layer

BLOCKS = 6
"""Blocks of noise that an update draws at a time: a sum, a direction, the ends of it, and numbers they are made of."""
DRAWN = 7
"""Masks in memory while one is drawn, since uniform numbers come from double precision."""
TERMS = 4
"""Tangents of a step that neurons make on the way to the one that they send."""


class Probed(Passing):
    """Runs with weights moved, each with states of its own."""

    each = 1
    """Numbers that stand for one of a state."""
    derived = 1.0
    """Copies of a layer's weights that derived ones (standardised) take beside those that were moved."""
    rounded = 0.5
    """The same for weights in bf16."""

    def __init__(self, stage: Stage, ledger: Ledger, rule: RayRule):
        super().__init__(stage, ledger)
        self.rule, self.fresh = rule, True

    @cached_property
    def still(self) -> set[int]:
        """See `Passing.still`; a step at a time, normalised frames count as well."""
        if self.net.cyclic:
            return super().still
        return {index for index, layer in self.outline.layers.items() if layer.still}

    def learn(self, sequence: Runs) -> None:
        """See `Scene.learn`: the first chunk of the first run, and one before which all runs hold states."""
        steps = len(sequence[0][0])
        for side in (0, self.rule.width)[: len(sequence)]:
            self.beside(side)
            self.forward(steps, Holds())
            self.drop(ACTIVATIONS)
            self.fresh = False

    def beside(self, runs: int) -> None:
        """Holds what ``runs`` runs keep between chunks; what is worked out once there is for the first run as well."""
        states = sum(self.state(node, self.outline.layers[node.index]) for node in self.net.neurons)
        delayed = sum(self.stage.step(self.outline.layers[node.index]) for node in self.net.of(Kind.DELAY))
        self.drop(STATES)
        self.drop(SUMS)
        self.hold(STATES, runs * self.each * (states + delayed))
        self.hold(SUMS, self.rule.carries() + self.masks + max(runs, 1) * self.once)

    def visit(self, node: Node, layer: Layer, steps: int, holds: Holds) -> float:
        """See `Scene.visit`; dropout masks are drawn in the first chunk."""
        if node.kind is Kind.DROPOUT and self.fresh:
            self.borrow(DRAWN * self.stage.step(layer))
        return super().visit(node, layer, steps, holds)

    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """See `Scene.neuron`; the first chunk makes the state that it starts from."""
        self.hold(STATES, self.fresh * self.state(node, layer))
        super().neuron(node, layer, steps, holds)

    def update(self) -> None:
        """See `Scene.update`: what the rule remembers is made anew, and the gradient is drawn."""
        for part in (STATES, SUMS):
            self.drop(part)
        self.borrow(self.rule.renews())
        learned = [p for p in self.net.parameters() if p.requires_grad]
        self.hold(GRADIENTS, self.stage.stores * sum(p.nbytes for p in learned))
        self.borrow(BLOCKS * self.products.item * max(min(p.numel(), BLOCK) for p in learned))

    def product(self, node: Node, steps: int) -> float:
        """See `Passing.product`: by weights that were moved."""
        return self.moved(node) + super().product(node, steps)

    def moved(self, node: Node) -> float:
        """Bytes of weights in the place of a synapse's own, and of what products read of them."""
        copies = self.derived * parametrize.is_parametrized(node.module) + self.rounded * self.stage.short
        return sum(p.nbytes for p in node.module.parameters()) + copies * self.products.weight(node)


class Followed(Probed):
    """Runs in dual numbers."""

    each, derived = 2, 4.0
    rounded = 0.0  # weights and tangents, half a copy each, in the place of the tangents that were drawn

    @cached_property
    def still(self) -> set[int]:
        """See `Passing.still`: tangents differ from step to step, and no drive is kept."""
        return set()

    def visit(self, node: Node, layer: Layer, steps: int, holds: Holds) -> float:
        """See `Scene.visit`; tangents wait for readers beside what they belong to."""
        both = 2 * self.stage.step(layer) * steps
        match node.kind:
            case Kind.NEURON:
                self.neuron(node, layer, steps, holds)
                return 0
            case Kind.SYNAPSE:
                moving = any(origin.kind is not Kind.INPUT for origin in self.net.origins(node))
                self.hold(WORKSPACE, both)
                self.borrow(self.product(node, steps) + moving * both)
                return both
            case _ if self.copies(node):
                self.hold(WORKSPACE, both)
                return both
        return 0

    def neuron(self, node: Node, layer: Layer, steps: int, holds: Holds) -> None:
        """See `Scene.neuron`: what a gradient through time would need; slopes, and tangents step by step and joined."""
        own = self.stage.chunk(layer, steps)
        self.hold(STATES, self.fresh * self.each * self.state(node, layer))
        self.hold(ACTIVATIONS, self.leaves(node, layer, steps, through_time=True))
        self.borrow(2 * own + max(own, TERMS * self.stage.step(layer)) + self.each * self.state(node, layer))
        self.hold(ACTIVATIONS, own)
