"""Back-propagation through time with surrogate gradients.

    dL/dW^l = sum_t delta^l[t] s^{l-1}[t]^T
    delta^l[t] = psi(u^l[t] - V) * (W^{l+1})^T delta^{l+1}[t] + eps^l[t] * delta^l[t+1]

eps is lam (1 - V psi), or lam when the reset is detached (a switch of the neuron). Exact for the surrogate.
Memory O(T n), T spatial and T - 1 temporal products a layer. Serves every objective. Sources: Neftci et al. 2019;
Fang et al. 2023; the baseline of Xiao et al. 2022 and Meng et al. 2023.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onward.core.backprop import Recorded, Tape, deposit_all
from onward.core.draws import Draws
from onward.core.graph import Node
from onward.core.inner import add_up, fit, whole_credit
from onward.core.interpret import Record, run_walk, shapes
from onward.core.network import Network
from onward.core.neuron import Firing
from onward.core.norms import Norms, PerStep
from onward.core.registry import Choice
from onward.core.rule import LearningRule, Lesson, Traits
from onward.core.sequence import Sequence
from onward.core.signal import Signal, dense
from onward.kernels.rows import SparseRows
from onward.rules.registry import NormScope, norms_of, rules


class ThroughTime(Recorded):
    """A chunk in one graph with all chunks before it; of neurons at ``sites``, what they send is kept in it."""

    def __init__(self, lesson: Lesson, norms: Norms):
        super().__init__(lesson, norms)
        self.sites = lesson.objective.inner.sites if lesson.objective.inner is not None else ()

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.neuron`."""
        module: Any = node.module
        x = dense(signal.sent)
        state = self.carry.states.get(node.index) or module.start(x[0])
        out, state, potential = module.unroll(x, state, self.draw(node))
        self.carry.states[node.index] = state
        self.record.firings[node.index] = Firing(
            out.detach(), potential.new_empty(0), tuple(s.detach() for s in state), lambda: potential
        )
        out = self.disturbed(node, out)
        if node.index in self.sites:
            self.record.spikes[node.index] = out
        return Signal(out, out)

    def past(self, signal: Signal) -> Signal:
        """Gradients cross time."""
        return signal


class BPTT(LearningRule):
    """Back-propagation through time; see the module's docstring."""

    def __init__(self, norms: Norms | None = None):
        super().__init__()
        self.norms = norms or PerStep()

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return Traits(
            backward="time", memory="O(T)", per_step_error=False, weight_transport=True, stochastic=False, inner=True
        )

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """Nothing to keep; one step of the sample shows whether the network can take it."""
        shapes(net, sample, draws)

    def begin(self, lesson: Lesson) -> None:
        """See `LearningRule.begin`."""
        lesson.carry = Tape()

    def step(self, lesson: Lesson, x: Tensor | SparseRows) -> Tensor:
        """See `LearningRule.step`."""
        assert isinstance(lesson.carry, Tape)
        with torch.enable_grad():
            walk = ThroughTime(lesson, self.norms)
            out = run_walk(walk, x)
        lesson.saw(walk.record)
        lesson.carry.records.append(walk.record)
        if lesson.objective.inner is not None:
            add_up(lesson.objective.inner, walk.record, lesson.carry)
        return out.detach()

    def finish(self, lesson: Lesson) -> None:
        """One gradient of the whole sequence with respect to every drive, then one deposit a synapse and chunk."""
        assert isinstance(lesson.carry, Tape)
        records = lesson.carry.records
        with torch.enable_grad():
            loss = _loss(lesson, torch.cat([record.out for record in records]))
        heads, credits = _asked_inside(lesson, records)
        deposit_all(lesson, records, [loss, *heads], [torch.ones_like(loss), *credits])


def _asked_inside(lesson: Lesson, records: list[Record]) -> tuple[list[Tensor], list[Tensor]]:
    """What hidden neurons sent, and the credit there, where the objective asks something of them."""
    inner, context = lesson.objective.inner, lesson.context
    if inner is None:
        return [], []
    fit(inner, lesson.carry, context, lesson.sink)
    found = whole_credit(inner, lesson.carry, context)
    heads = [(record.spikes[site], credit) for site, credit in found.items() for record in records]
    return [sent for sent, _ in heads], [credit.expand_as(sent) for sent, credit in heads]


def _loss(lesson: Lesson, out: Tensor) -> Tensor:
    """This process's share of the mean loss over the whole batch."""
    objective, steps = lesson.objective, lesson.context.steps
    running = objective.step_losses(out, lesson.y, steps).sum(0)
    mean = objective.total(objective.reduce(None, out), running, lesson.y, steps)
    return mean * (len(lesson.y) / lesson.context.samples)


class BPTTOptions(Choice):
    """Options of BPTT."""

    norm_over: NormScope


rules.register(
    "bptt",
    BPTTOptions,
    lambda choice: BPTT(norms_of(choice.norm_over)),
    "back-propagation through time: the exact surrogate gradient, memory O(T)",
    defaults={"norm_over": "step"},
    facts={"paper": "Neftci et al. 2019", "published": "equations and code", "inferred": "none"},
)
