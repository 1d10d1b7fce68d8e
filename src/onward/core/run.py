"""The library's only time loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onward.core.draws import Draws, KeyedDraws
from onward.core.errors import NonFiniteError, ShapeError, TopologyMismatch
from onward.core.group import ALONE, Group, Share
from onward.core.inner import total
from onward.core.interpret import Forward, Record, evaluating, run_walk
from onward.core.network import Network
from onward.core.objective import Objective
from onward.core.rule import LearningRule, Lesson, check_input
from onward.core.sequence import Sequence
from onward.core.signal import Carry, Context
from onward.core.sink import Sink
from onward.core.synapse import effective
from onward.kernels.host import keep_pages

MOST_STEPS = 32
MOST_BYTES = 384 * 2**20
HELD = 4  # numbers per neuron and step, as measured in convolutional networks


@dataclass
class Outcome:
    """What a sequence gave: mean ``loss``, ``evidence`` ``[B, m]`` for the prediction.

    ``trouble`` is NaN or infinity that one of several processes met: all must know before one may stop.
    """

    loss: Tensor
    evidence: Tensor
    trouble: NonFiniteError | None = None


class Rates:
    """Counts spikes per neuron, step and sample, chunk by chunk."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._seen = 0

    def __call__(self, record: Record) -> None:
        """Adds a chunk."""
        rows = record.out.shape[0] * record.out.shape[1]
        self._seen += rows
        for node in record.net.neurons:
            if not node.module.spiking:
                continue
            firing, name = record.firings[node.index], node.name
            rate = (firing.out > 0).float().mean() * rows
            self._sums[name] = self._sums.get(name, rate.new_zeros(())) + rate

    def means(self, group: Group = ALONE) -> dict[str, float]:
        """Mean spikes per neuron and step, by neuron name, over what all processes of ``group`` saw."""
        sums = torch.tensor([float(self._seen), *map(float, self._sums.values())], dtype=torch.float64)
        group.sum_([sums])
        return dict(zip(self._sums, (sums[1:] / sums[0]).tolist(), strict=True))


def active(net: Network, group: Group = ALONE) -> dict[str, float]:
    """The share of slopes that were not zero since this was last asked, by neuron name, where that is counted.

    Over all processes of ``group``, each of which weighs the same.
    """
    modules: list[tuple[str, Any]] = [(node.name, node.module) for node in net.neurons]
    counted = {name: share for name, module in modules if (share := module.active()) is not None}
    means = torch.tensor(list(counted.values()), dtype=torch.float64) / group.size
    group.sum_([means])
    return dict(zip(counted, means.tolist(), strict=True))


def run_sequence(
    net: Network,
    rule: LearningRule,
    objective: Objective,
    x: Sequence,
    y: Tensor,
    sink: Sink,
    *,
    draws: Draws,
    ids: Tensor | None = None,
    sequence: int = 0,
    chunk: int | None = None,
    share: Share | None = None,
    after_step: Callable[[], None] | None = None,
    watch: Callable[[Record], None] | None = None,
) -> Outcome:
    """Trains on one mini-batch: walks ``x`` through ``net`` in chunks of time and lets ``rule`` make deposits.

    ``ids`` ``[B]`` and the counter ``sequence`` key all randomness; ``share`` says what this process holds where
    several share the mini-batch. ``after_step`` (flush and update) makes the schedule online: chunks of one step.
    Memory O(chunk) in addition to what the rule's traits say. Afterwards call ``sink.flush()``.
    """
    check_input(x)
    keep_pages()
    chunk = fit_chunk(net, rule, x.steps if chunk is None else chunk, x.steps, online=after_step is not None)
    rule.check(net, x, chunk)
    ids = torch.arange(x.batch) if ids is None else ids
    if ids.shape != (x.batch,):
        raise ShapeError(f"sample ids of shape {list(ids.shape)} were given for a batch of {x.batch}")
    context = Context(draws, ids, sequence, x.steps, share or Share(x.batch), watch)
    sink.open()
    lesson = Lesson(net, objective, x, y, sink, context)
    rule.begin(lesson)
    evidence, running = None, torch.zeros(())
    for start in range(0, x.steps, chunk):
        out = rule.step(lesson, x.read(start, min(start + chunk, x.steps)))
        evidence = objective.reduce(evidence, out)
        running = running.to(out) + objective.step_losses(out, y, x.steps).sum(0)
        if after_step is not None:
            after_step()
            sink.open()
    assert evidence is not None
    rule.finish(lesson)
    loss = objective.total(evidence, running, y, x.steps)
    if objective.inner is not None:
        loss = loss + total(objective.inner, lesson.carry, x.steps)
    return Outcome(loss, evidence, lesson.trouble)


@torch.no_grad()
def evaluate(
    net: Network,
    objective: Objective,
    x: Sequence,
    y: Tensor,
    *,
    chunk: int | None = None,
    watch: Callable[[Record], None] | None = None,
    ids: Tensor | None = None,
) -> Outcome:
    """Runs ``net`` in evaluation mode on a mini-batch: no noise, no dropout, no gradient, nothing kept.

    Only neurons with ``test_noise`` draw; ``ids`` ``[B]`` are what their draws are keyed by, the places in the batch
    by default.
    """
    check_input(x)
    evidence, running = None, torch.zeros(())
    with evaluating(net):
        for out in outputs(net, x, chunk=chunk or x.steps, watch=watch, ids=ids):
            if evidence is None:
                objective.check(out, y)
            evidence = objective.reduce(evidence, out)
            running = running.to(out) + objective.step_losses(out, y, x.steps).sum(0)
    assert evidence is not None
    return Outcome(objective.total(evidence, running, y, x.steps), evidence)


@torch.no_grad()
def logits(
    net: Network,
    objective: Objective,
    x: Sequence,
    *,
    chunk: int,
    watch: Callable[[Record], None] | None = None,
) -> Tensor:
    """What ``net``, in evaluation mode, says of each sample of a mini-batch ``[B, m]``: see `Objective.logits`."""
    evidence = None
    with evaluating(net):
        for out in outputs(net, x, chunk=chunk, watch=watch):
            evidence = objective.reduce(evidence, out)
    assert evidence is not None
    return objective.logits(evidence, x.steps)


def outputs(
    net: Network,
    x: Sequence,
    *,
    chunk: int,
    watch: Callable[[Record], None] | None = None,
    walk: Callable[..., Forward] = Forward,
    ids: Tensor | None = None,
):
    """Yields the outputs ``[K, B, m]`` of ``net`` chunk by chunk, in the mode it is in; ``walk`` makes the visitor."""
    context = Context(KeyedDraws(0), torch.arange(x.batch) if ids is None else ids, 0, x.steps, Share(x.batch), watch)
    weights = {node.index: effective(node.module) for node in net.synapses}
    carry, chunk = Carry(), 1 if net.cyclic else chunk
    for start in range(0, x.steps, chunk):
        visitor = walk(net, carry, context, lambda node: weights[node.index])
        out = run_walk(visitor, x.read(start, min(start + chunk, x.steps)))
        visitor.record.check_finite()
        if watch is not None:
            watch(visitor.record)
        yield out


def fit_chunk(net: Network, rule: LearningRule, chunk: int, steps: int, *, online: bool) -> int:
    """The chunk that network and rule can take of a sequence of ``steps``: at most ``chunk``, or all.

    Cycles and online updates take one step.
    """
    if chunk < 1:
        raise TopologyMismatch(f"a chunk of {chunk} steps was given; expected at least 1")
    if rule.whole(net):
        return steps
    limit = rule.traits.max_chunk
    return 1 if net.cyclic or online else min(chunk, limit or chunk)


def auto_chunk(sizes: dict[int, torch.Size], batch: int, steps: int, itemsize: int = 4) -> int:
    """The longest chunk up to 32 steps whose activations take about 384 MB at most.

    ``sizes`` as from `onward.core.interpret.shapes`; about four numbers were seen held per neuron and step.
    """
    per_step = HELD * batch * itemsize * sum(size.numel() for size in sizes.values())
    return max(1, min(MOST_STEPS, steps, MOST_BYTES // max(1, per_step)))
