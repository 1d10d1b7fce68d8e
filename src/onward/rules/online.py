"""Online rules: any temporal credit with any spatial credit with any local credit, forward in time.

For each synapse l and step t:

    post^l[t] = psi(u^l[t] - V) * (g^l[t] + g_local^l[t]),   dW^l = sum_t post^l[t] pre^{l-1}[t]^T

``temporal`` decides pre, ``spatial`` decides g, ``local`` adds g_local. Nothing crosses time backwards, so memory
is O(1) in the number of steps. Updates are accumulated over the sequence, or made at every step (*online*).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.credit_walk import CreditWalk
from onward.core.draws import Draws
from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.core.inner import step_credit
from onward.core.interpret import Record, frozen_statistics, run_walk, shapes
from onward.core.network import Network
from onward.core.norms import Norms, PerStep
from onward.core.registry import Choice
from onward.core.rule import Holds, Lesson, Traits
from onward.core.sequence import Sequence
from onward.core.signal import Carry, Context
from onward.core.stepwise import Ran, Stepwise
from onward.core.trace import Presynaptic
from onward.credit import locals_, spatials, temporals
from onward.credit.base import (
    Head,
    Local,
    LocalChoice,
    Spatial,
    SpatialChoice,
    Temporal,
    TemporalChoice,
)
from onward.credit.ports import NOWHERE, check_paths, output_port
from onward.credit.posts import Posts
from onward.kernels.rows import SparseRows
from onward.kernels.scan import shift
from onward.rules.registry import NormScope, norms_of, rules


class Online(Stepwise):
    """One cell of the credit grid; see the module's docstring.

    ``error_delay`` lets hidden layers receive the error that many steps late, paired with the traces of then.
    """

    def __init__(
        self,
        temporal: Temporal,
        spatial: Spatial,
        local: Local,
        *,
        every_step: bool = False,
        error_delay: int = 0,
        norms: Norms | None = None,
    ):
        super().__init__()
        if error_delay and temporal.partial:
            raise ConfigError(
                f"an error delay of {error_delay} steps was given with a temporal credit that skips steps; late errors "
                "would meet steps that take no part: use error_delay 0, or temporal 'ottt' or 'sltt'"
            )
        self.temporal, self.spatial, self.local = temporal, spatial, local
        self.every_step, self.error_delay = every_step, error_delay
        self.norms = norms or PerStep()
        self._port = NOWHERE
        self._cautions: list[str] = []

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        s = self.spatial
        return Traits(
            backward="step" if s.crosses_spikes or s.layerwise else "none",
            memory="O(1)",
            per_step_error=True,
            weight_transport=s.weight_transport,
            stochastic=s.stochastic or self.temporal.stochastic or self.local.stochastic,
            perturbs=s.perturbs,
            max_chunk=1 if self.every_step else s.max_chunk,
            updates="step" if self.every_step else "sequence",
            inner=True,
        )

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """See `LearningRule.allocate`; raises `TopologyMismatch` for networks whose layers no error can reach."""
        sizes = shapes(net, sample, draws)
        self._port = output_port(net, sizes)
        check_paths(net, self.spatial.crosses_spikes)
        self.temporal.check(sample.steps)
        ports = [self._port, *self.local.allocate(net, sizes, sizes[-1][0], draws)]
        self.spatial.allocate(net, sizes, ports, draws)
        self._cautions = [*self._late_errors(sample.steps), *self.spatial.cautions(net, sample.steps)]
        weight = next(net.parameters())
        self.to(weight.device, torch.promote_types(weight.dtype, torch.float32))

    def begin(self, lesson: Lesson) -> None:
        """See `LearningRule.begin`."""
        self.spatial.begin(lesson.context, lesson.sink)

    def advance(self, lesson: Lesson, x: Tensor | SparseRows, takes_part: bool) -> Ran:
        """See `Stepwise.advance`."""
        before = lesson.carry.copy()
        with torch.set_grad_enabled(takes_part):
            return Ran(self._walk(lesson, lesson.carry, x), before, x, takes_part)

    @torch.no_grad()
    def credit(self, lesson: Lesson, ran: Ran) -> None:
        """See `Stepwise.credit`."""
        record = ran.record
        heads = [self._head(lesson, record), *self.local.heads(record, lesson.y, lesson.objective)]
        more = record.steps.stop < lesson.context.steps
        pres = {
            i: self.temporal.pre(lesson.net, lesson.net.nodes[i], pre, lesson.carry, more)
            for i, pre in record.pres.items()
        }
        inside = self._inside(lesson, record)
        if self.spatial.observes_first:
            self._observe(lesson, ran, heads)
        if ran.takes_part and self.spatial.teaches():
            self._deposit(lesson, record, pres, heads, inside)
        if not self.spatial.observes_first:
            self._observe(lesson, ran, heads)
        if self.every_step:
            self.spatial.finish(lesson.carry, lesson.sink)

    def runs(self, start: int, stop: int, context: Context) -> Iterator[tuple[int, int, bool]]:
        """See `LearningRule.runs`: the temporal choice says."""
        return self.temporal.runs(start, stop, context)

    def holds(self, net: Network, steps: range) -> Holds:
        """See `LearningRule.holds`: what the three choices keep together."""
        own = self.spatial.holds(net, steps)
        traced = frozenset(node.index for node in net.synapses if self.temporal.traces(net, node))
        return replace(own, credits=own.credits + self.local.credits, traced=traced)

    def finish(self, lesson: Lesson) -> None:
        """See `LearningRule.finish`."""
        if not self.every_step:
            self.spatial.finish(lesson.carry, lesson.sink)

    def direct_feedback(self) -> dict[int, Tensor]:
        """See `LearningRule.direct_feedback`."""
        return self.spatial.direct_feedback(self._port)

    def metrics(self) -> dict[str, float]:
        """See `LearningRule.metrics`."""
        return self.spatial.metrics()

    def warnings(self) -> list[str]:
        """See `LearningRule.warnings`."""
        return [*self._cautions, *self.spatial.remarks()]

    def _observe(self, lesson: Lesson, ran: Ran, heads: list[Head]) -> None:
        self.spatial.observe(ran.record, heads, lesson.carry, lambda: self._again(lesson, ran.before, ran.x))

    def _walk(self, lesson: Lesson, carry: Carry, x: Tensor | SparseRows) -> Record:
        walk = CreditWalk(lesson.net, carry, lesson.context, lesson.sink.params, self.spatial, self.norms)
        run_walk(walk, x)
        return walk.record

    def _again(self, lesson: Lesson, carry: Carry, x: Tensor | SparseRows) -> dict[str, Tensor]:
        """Each port's outputs when the chunk is run once more from ``carry``; running statistics stay."""
        with frozen_statistics(lesson.net):
            record = self._walk(lesson, carry, x)
        heads = [self._head(lesson, record), *self.local.heads(record, lesson.y, lesson.objective)]
        return {head.port.key: head.out for head in heads}

    def _head(self, lesson: Lesson, record: Record) -> Head:
        """The network's output as a port."""
        out, context = record.out.detach(), lesson.context
        gain = self.temporal.gain(context.steps)
        error = lesson.objective.errors(out, lesson.y, context.steps, context.samples) * gain
        losses = lesson.objective.step_losses(out, lesson.y, context.steps) * (gain / context.samples)
        return Head(self._port, out, error, losses, record.out, error, lesson.y)

    def _inside(self, lesson: Lesson, record: Record) -> dict[int, Tensor]:
        """Credit at the spikes of hidden neurons of which the objective asks something, by node index."""
        inner = lesson.objective.inner
        if inner is None:
            return {}
        gain = self.temporal.gain(lesson.context.steps)
        return {site: credit * gain for site, credit in step_credit(inner, record, lesson.carry, lesson.sink).items()}

    def _deposit(
        self,
        lesson: Lesson,
        record: Record,
        pres: dict[int, Presynaptic],
        heads: list[Head],
        inside: dict[int, Tensor],
    ) -> None:
        """Turns errors into credit, credit into posts, posts and pres into deposits."""
        posts = Posts(record, lesson.sink, self.spatial.crosses_spikes)
        if self.error_delay:
            posts.from_head(heads[0], posts.readout)
            heads = [self._late(lesson.carry, head) for head in heads]
            posts.from_head(heads[0], posts.teachable(heads[0]))
        else:
            posts.from_head(heads[0], [*posts.readout, *posts.teachable(heads[0])])
        for head in heads[1:]:
            posts.from_head(head, posts.teachable(head))
        for head in heads:
            posts.credit(self.spatial.credit(record, head))
        posts.credit(self.local.look(record, lesson.y, lesson.objective, lesson.sink))
        posts.inside(inside)
        for node, post in posts.settle():
            gain = self.temporal.bias_gain(lesson.net, node, record.start - lesson.net.wakes(node), len(post))
            lesson.sink.deposit(node, pres[node.index], post, gain)
        self.spatial.learn(record, heads, lambda node: self._spike_trace(lesson, record, node), lesson.sink)

    def _late_errors(self, steps: int) -> Iterator[str]:
        if self.error_delay >= steps:
            yield (
                f"errors arrive {self.error_delay} steps late in sequences of {steps} steps: hidden layers learn "
                "nothing; lower rule.error-delay or raise train.steps"
            )

    def _late(self, carry: Carry, head: Head) -> Head:
        """The head as it was ``error_delay`` steps before; nothing before the first step."""
        delayed = {}
        for name, now in (("error", head.error), ("losses", head.losses), ("seed", head.seed)):
            owner = f"{head.port.key} {name}"
            past = carry.queues.get(owner, now.new_zeros(self.error_delay, *now.shape[1:]))
            delayed[name], carry.queues[owner] = shift(now, past)
        return replace(head, **delayed, lag=self.error_delay)

    def _spike_trace(self, lesson: Lesson, record: Record, node: Node) -> Presynaptic:
        return self.temporal.toward_output(lesson.net, node, record.firings[node.index].out, lesson.carry)


class OnlineOptions(Choice):
    """Options of an online rule."""

    temporal: TemporalChoice = Field(description="what a synapse remembers of its input")
    spatial: SpatialChoice = Field(description="how an error reaches a layer")
    local: LocalChoice = Field(description="credit from local readouts, on top")
    schedule: Literal["sequence", "step"] = Field("sequence", description="update once a sequence, or at every step")
    error_delay: int = Field(0, ge=0, description="steps by which hidden layers receive the error late")
    norm_over: NormScope = "step"


def build(choice: OnlineOptions) -> Online:
    """An online rule from its options."""
    return Online(
        temporals.build(choice.temporal),
        spatials.build(choice.spatial),
        locals_.build(choice.local),
        every_step=choice.schedule == "step",
        error_delay=choice.error_delay,
        norms=norms_of(choice.norm_over),
    )


def preset(
    name: str,
    summary: str,
    *,
    temporal: dict,
    spatial: dict,
    local: str = "none",
    paper: str,
    published: str,
    inferred: str,
) -> None:
    """Names a cell of the grid after its paper."""
    rules.register(
        name,
        OnlineOptions,
        build,
        summary,
        defaults={"temporal": temporal, "spatial": spatial, "local": {"name": local}},
        facts={"paper": paper, "published": published, "inferred": inferred},
    )


preset(
    "online",
    "any cell of the credit grid: temporal x spatial x local (default: exact OTTT with back-propagation)",
    temporal={"name": "ottt", "fidelity": "exact"},
    spatial={"name": "bp"},
    paper="Xiao et al. 2022",
    published="see the chosen cell",
    inferred="see the chosen cell",
)
