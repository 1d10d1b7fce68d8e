"""E-prop: eligibilities of synapses meet learning signals of neurons, forward in time.

    dW_ji = sum_t L_j[t] ebar_ji[t],     ebar_ji[t] = kappa ebar_ji[t-1] + e_ji[t],     L_j[t] = sum_k B_jk e_k[t]
    e_ji[t] = psi_j[t] (a_i[t] - beta q_ji[t]),    q_ji[t+1] = psi_j[t] a_i[t] + (rho - beta psi_j[t]) q_ji[t]
    a_i[t] = lam a_i[t-1] + s_i[t]

lam, kappa and rho are the leaks of membrane, readout and adaptation, beta the strength of the latter; e is dL/do.
The gradient of the reset is left out, and so is what a spike does to other neurons of later steps. What is left is
exact with *symmetric* feedback and one spiking layer: recurrent, it is BPTT's gradient along paths that stay within a
neuron; without recurrence it is BPTT's (with a detached soft reset).

Firing rates are regularised, if c_reg is not 0, by what (c_reg / 2) sum_j (f_j - f_target)^2 takes of a neuron's own
spikes; f_j is the mean of z_j over N samples and T steps (and the places of a map, whose channel is one j):

    dW_ji += c_reg (f_j - f_target) (1 / (N T)) sum_{samples, t} e_ji[t]

Where neurons do not adapt and the readout has no memory (beta = kappa = 0), eligibilities are outer products and cost
what OTTT's traces do, O(n) a sample, for any synapse. Else every weight has up to two numbers of its own for each
sample, ``[B, out, in]``: memory and work O(B n^2) a step. Regularised rates take one more of every weight, for all
samples together. Independent of T either way. Source: Bellec et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.credit_walk import CreditWalk, pull_back
from onward.core.draws import Draws
from onward.core.errors import TopologyMismatch
from onward.core.graph import Node
from onward.core.inner import step_credit
from onward.core.interpret import Record, run_walk, shapes
from onward.core.network import Network
from onward.core.norms import Norms, PerStep
from onward.core.registry import Choice
from onward.core.rule import Holds, Lesson, Traits
from onward.core.sequence import Sequence
from onward.core.signal import ENDLESS, Carry, dense
from onward.core.stepwise import Ran, Stepwise
from onward.core.synapse import effective
from onward.core.trace import Presynaptic
from onward.credit.base import Credit, Head, Spatial
from onward.credit.bp import BackPropagation
from onward.credit.dfa import DFA, DKP
from onward.credit.eligibility import Eligibilities, Fed, Told, adaptation_of, as_gradients, by_place, fed_by, rows_of
from onward.credit.ottt import OTTT, Exact
from onward.credit.ports import NOWHERE, check_paths, output_port
from onward.credit.posts import Posts
from onward.kernels.rows import SparseRows
from onward.rules.registry import NormScope, norms_of, rules


class EProp(Stepwise):
    """See the module's docstring; ``feedback`` is what brings errors to layers, as in the credit grid."""

    def __init__(self, feedback: Spatial, norms: Norms | None = None, rates: Rates | None = None):
        super().__init__()
        self.feedback, self.norms, self.memory, self.rates = feedback, norms or PerStep(), OTTT(Exact()), rates
        self._port, self._kappa = NOWHERE, 0.0
        self._weighed: dict[int, list[Fed]] = {}

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return Traits(
            backward="step" if self.feedback.crosses_spikes else "none",
            memory="O(1)",
            per_step_error=True,
            weight_transport=self.feedback.weight_transport,
            stochastic=self.feedback.stochastic,
            inner=True,
        )

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """See `LearningRule.allocate`; raises `TopologyMismatch` where a weight needs an eligibility and has none."""
        if self.rates is not None and sample.steps == ENDLESS:
            raise TopologyMismatch(
                "eprop regularises the mean rates of a sequence, and a stream without an end has none; say how many "
                "steps a sequence has (steps), or set rule.c-reg to 0"
            )
        sizes = shapes(net, sample, draws)
        self._port, self._kappa = output_port(net, sizes), _readout_leak(net)
        check_paths(net, self.feedback.crosses_spikes)
        lasting = [node for node in net.hidden if self._kappa or self.rates or adaptation_of(node)]
        self._weighed = {neuron.index: fed_by(net, neuron) for neuron in lasting}
        self.feedback.allocate(net, sizes, [self._port], draws)
        weight = next(net.parameters())
        self.to(weight.device, torch.promote_types(weight.dtype, torch.float32))

    def begin(self, lesson: Lesson) -> None:
        """See `LearningRule.begin`."""
        self.feedback.begin(lesson.context, lesson.sink)

    @torch.enable_grad()
    def advance(self, lesson: Lesson, x: Tensor | SparseRows, takes_part: bool) -> Ran:
        """See `Stepwise.advance`: every step takes part."""
        before = lesson.carry.copy()
        walk = CreditWalk(lesson.net, lesson.carry, lesson.context, lesson.sink.params, self.feedback, self.norms)
        run_walk(walk, x)
        return Ran(walk.record, before, x, takes_part)

    @torch.no_grad()
    def credit(self, lesson: Lesson, ran: Ran) -> None:
        """See `Stepwise.credit`.

        Deposits where eligibilities are outer products; elsewhere what each weight's own makes of the signals.
        """
        net, carry, record = lesson.net, lesson.carry, ran.record
        head, more = self._head(lesson, record), record.steps.stop < lesson.context.steps
        pres = {i: self.memory.pre(net, net.nodes[i], pre, carry, more) for i, pre in record.pres.items()}
        signals, inside = self._signals(record, head), self._inside(lesson, record)
        posts = Posts(record, lesson.sink, self.feedback.crosses_spikes)
        posts.from_head(head, posts.readout)
        posts.credit(signals)
        posts.credit(inside)
        weighed = {fed.node.index for found in self._weighed.values() for fed in found}
        for node, post in posts.settle():
            if node.index not in weighed:
                gain = self.memory.bias_gain(net, node, record.start - net.wakes(node), len(post))
                lesson.sink.deposit(node, pres[node.index], post, gain)
        pulls = self._pulls(lesson, record)
        for index, found in self._weighed.items():
            told = Told(signals[index], inside.get(index), pulls.get(index))
            for fed in found:
                if fed.node.index in pres:
                    self._weigh(lesson, record, net.nodes[index], fed, pres[fed.node.index], told)
        self.feedback.learn(record, [head], lambda node: self._spike_trace(lesson, record, node), lesson.sink)

    def finish(self, lesson: Lesson) -> None:
        """See `LearningRule.finish`."""
        self.feedback.finish(lesson.carry, lesson.sink)

    def holds(self, net: Network, steps: range) -> Holds:
        """See `LearningRule.holds`."""
        traced = frozenset(node.index for node in net.synapses if self.memory.traces(net, node))
        numbers = [
            fed.node.index
            for index, found in self._weighed.items()
            for fed in found
            for _ in range(bool(self._kappa) + (adaptation_of(net.nodes[index]) is not None))
        ]
        fed = [fed.node.module for found in self._weighed.values() for fed in found] if self.rates else []
        sums = sum(parameter.nbytes for module in fed for parameter in effective(module).values())
        return Holds(credits=1, traced=traced, eligible=tuple(numbers), sums=sums)

    def _head(self, lesson: Lesson, record: Record) -> Head:
        """The network's output as a port."""
        out, context = record.out.detach(), lesson.context
        error = lesson.objective.errors(out, lesson.y, context.steps, context.samples)
        losses = lesson.objective.step_losses(out, lesson.y, context.steps) / context.samples
        return Head(self._port, out, error, losses, record.out, error, lesson.y)

    def _signals(self, record: Record, head: Head) -> Mapping[int, Credit]:
        """L of every hidden neuron: through the graph of the step, or through feedback of its own."""
        if not self.feedback.crosses_spikes:
            return self.feedback.credit(record, head)
        hidden = [node.index for node in head.port.below]
        found = pull_back(head.source, head.seed, [record.spikes[index] for index in hidden])
        return {index: signal for index, signal in zip(hidden, found, strict=True) if signal is not None}

    def _inside(self, lesson: Lesson, record: Record) -> dict[int, Tensor]:
        """What the objective asks of hidden neurons: credit at their spikes, in which no readout remembers."""
        inner = lesson.objective.inner
        found = {} if inner is None else step_credit(inner, record, lesson.carry, lesson.sink)
        if not self.feedback.crosses_spikes:
            return found
        spread = dict[int, Tensor]()
        for site, credit in found.items():
            below = [node.index for node in record.net.hidden if node.index <= site]
            reached = pull_back(record.spikes[site], credit, [record.spikes[index] for index in below])
            for index, signal in zip(below, reached, strict=True):
                if signal is not None:
                    spread[index] = spread[index] + signal if index in spread else signal
        return spread

    def _pulls(self, lesson: Lesson, record: Record) -> dict[int, Tensor]:
        """At the end of a sequence, what regularised rates make of the sums of eligibilities, by neuron."""
        if self.rates is None:
            return {}
        self.rates.count(record, lesson.carry)
        return self.rates.pulls(record, lesson.carry) if record.steps.stop == lesson.context.steps else {}

    def _weigh(self, lesson: Lesson, record: Record, neuron: Node, fed: Fed, pre: Presynaptic, told: Told) -> None:
        """Advances the eligibility of every weight of a synapse, and adds what it makes of what the neuron is told."""
        node, slope = fed.node, record.firings[neuron.index].slope
        mask = fed.mask(lesson.carry, slope[0])
        eligible = Eligibilities(
            lesson.carry, f"synapse {node.index}", self._kappa, adaptation_of(neuron), mask, self.rates is not None
        )
        rows = rows_of(node, dense(pre), self._ones(lesson.net, node, record), lesson.sink.params(node))
        steps = zip(rows, map(by_place, slope), told.steps(slope), strict=True)
        total = reduce(Tensor.add_, (eligible.step(a, psi, *signals) for a, psi, signals in steps))
        if told.pull is not None:
            total += told.pull[:, None] * eligible.sums
        lesson.sink.contribute(node, pre, as_gradients(total, lesson.sink.params(node)))

    def _ones(self, net: Network, node: Node, record: Record) -> list[float]:
        """The trace of the constant input that a bias weighs."""
        steps = len(record.steps)
        return self.memory.bias_gain(net, node, record.start - net.wakes(node), steps) or [1.0] * steps

    def _spike_trace(self, lesson: Lesson, record: Record, node: Node) -> Presynaptic:
        return self.memory.toward_output(lesson.net, node, record.firings[node.index].out, lesson.carry)


@dataclass(frozen=True)
class Rates:
    """(c_reg / 2) sum_j (f_j - f_target)^2 of the mean rates of hidden neurons, the channel of a map being one j."""

    c_reg: float
    f_target: float

    def count(self, record: Record, carry: Carry) -> None:
        """Adds the spikes of a chunk."""
        for node in record.net.hidden:
            spikes = record.firings[node.index].out.movedim(2, 0).flatten(1).sum(1)
            held = carry.sums.get(_count(node.index))
            carry.sums[_count(node.index)] = spikes if held is None else held + spikes

    def pulls(self, record: Record, carry: Carry) -> dict[int, Tensor]:
        """c_reg (f_j - f_target) / (N T P) for sums over samples, steps and places, by neuron: ``[out]``."""
        context, counts = record.context, {node.index: carry.sums[_count(node.index)] for node in record.net.hidden}
        context.share.group.sum_([*counts.values()])
        found = {}
        for index, spikes in counts.items():
            terms = context.samples * context.steps * record.firings[index].out[0, 0, 0].numel()
            found[index] = (spikes / terms - self.f_target) * (self.c_reg / terms)
        return found


def _count(index: int) -> str:
    return f"spikes of {index}"


def _readout_leak(net: Network) -> float:
    """The memory of the output; raises `TopologyMismatch` where it has several."""
    hidden, modules = set(net.hidden), list[Any]()
    modules += [node.module for node in net.neurons if node not in hidden]
    leaks = {module.decay for module in modules}
    if len(leaks) > 1:
        raise TopologyMismatch(
            f"neurons of the output leak by {' and '.join(f'{leak:g}' for leak in sorted(leaks))}, and eprop filters "
            "eligibilities as one readout does; give them the same leak"
        )
    return leaks.pop() if leaks else 0.0


class EPropOptions(Choice):
    """Options of e-prop."""

    feedback: Literal["symmetric", "random", "adaptive"] = Field(
        "symmetric",
        description="learning signals through the readout's own weights (and those between layers), through fixed "
        "random matrices, or through matrices learned like the readout",
    )
    scale: float = Field(
        0.5, gt=0, description="standard deviation of random feedback's entries, times the root of the classes"
    )
    c_reg: float = Field(0.0, ge=0, description="strength of the regularisation of firing rates; 0: none")
    f_target: float = Field(
        0.01, ge=0, description="the rate, in spikes a step, that it pulls every hidden neuron towards"
    )
    norm_over: NormScope = "step"


def _build(choice: EPropOptions) -> EProp:
    rates = Rates(choice.c_reg, choice.f_target) if choice.c_reg else None
    return EProp(_FEEDBACK[choice.feedback](choice.scale), norms_of(choice.norm_over), rates)


_FEEDBACK: dict[str, Callable[[float], Spatial]] = {
    "symmetric": lambda scale: BackPropagation(),
    "random": DFA,
    "adaptive": DKP,
}
rules.register(
    "eprop",
    EPropOptions,
    _build,
    "e-prop: eligibilities of every weight, adaptation and the readout's memory included, meet learning signals",
    facts={"paper": "Bellec et al. 2020", "published": "equations", "inferred": "layers below the last spiking one"},
)
