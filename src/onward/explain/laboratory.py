"""A rule on `onward.explain.tiny`: what it makes of a mini-batch when some errors are let through, others not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onward.core import GradSink, KeyedDraws, Objective, Sink, run_sequence
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.rule import LearningRule
from onward.core.signal import dense
from onward.core.sink import Forwarding
from onward.core.synapse import Params
from onward.core.trace import Postsynaptic, Presynaptic
from onward.explain.tiny import HIDDEN, STEPS, WIDTH, Case, Tiny, tiny
from onward.rules import rules

WARMUP = 1
"""Mini-batches before anything is looked at: feedback that is learned has to start somewhere."""
ALL = torch.ones(STEPS)


@dataclass(frozen=True)
class Light:
    """Which errors are let through: of ``steps`` ``[T]``; of one ``reader`` alone, where not all; or none, as in
    ``loss_alone``, which hides no loss."""

    steps: Tensor = ALL
    reader: int | None = None
    loss_alone: bool = False


class Spotlight(Objective):
    """``base``, as far as ``light`` lets it through.

    Whoever asks for errors of a chunk is a *reader*, numbered as they ask: the output first, then local readouts.
    ``readings`` are what they read.
    """

    def __init__(self, base: Objective, light: Light):
        self.base, self.light, self.reduce = base, light, base.reduce
        self.start = self.turn = 0
        self.readings: dict[int, list[Tensor]] = {}

    def begin(self, start: int) -> None:
        """The chunk from step ``start`` on was run."""
        self.start, self.turn = start, 0

    @property
    def per_step(self) -> bool:
        """See `Objective.per_step`."""
        return self.base.per_step

    def step_losses(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.step_losses`."""
        return self.base.step_losses(o, y, steps) * self._lit(o)[:, None]

    def errors(self, o: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """See `Objective.errors`."""
        reader, self.turn = self.turn, self.turn + 1
        self.readings.setdefault(reader, []).append(o.detach())
        dark = self.light.loss_alone or self.light.reader not in (None, reader)
        found = self.base.errors(o, y, steps, samples) * self._lit(o)[:, None, None]
        return torch.zeros_like(found) if dark else found

    def total(self, evidence: Tensor, running: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.total`."""
        return self.base.total(evidence, running, y, steps)

    def rate_errors(self, evidence: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """See `Objective.rate_errors`."""
        return self.base.rate_errors(evidence, y, steps, samples)

    def _lit(self, o: Tensor) -> Tensor:
        start = 0 if len(o) == STEPS else self.start
        return self.light.steps[start : start + len(o)].to(o)


class Tap(Forwarding):
    """Notes how large the posts of every synapse are at every step; ``clock`` knows where the chunk at hand begins.

    ``late``: all of them come when the sequence is over, in the order of its chunks.
    """

    def __init__(self, inner: Sink, clock: Spotlight, late: bool):
        super().__init__(inner)
        self.clock, self.late = clock, late
        self.posts: dict[int, Tensor] = {}
        self.steps: Counter[int] = Counter()

    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """See `Sink.deposit`."""
        size = dense(post).detach().flatten(1).norm(dim=1).double()
        self._note(node, size)
        super().deposit(node, pre, post, bias_gain)

    def contribute(self, node: Node, pre: Presynaptic, grads: Params) -> None:
        """See `Sink.contribute`."""
        self._note(node, torch.stack([grad.norm() for grad in grads.values()]).sum()[None].double())
        super().contribute(node, pre, grads)

    def _note(self, node: Node, size: Tensor) -> None:
        start = self.steps[node.index] if self.late else self.clock.start
        self.steps[node.index] += len(size)
        held = self.posts.setdefault(node.index, torch.zeros(STEPS, dtype=torch.float64))
        held[start : start + len(size)] += size


@dataclass(frozen=True)
class Found:
    """What a mini-batch left: ``grads`` of the weights of every layer, ``posts`` ``[L, T]``, ``spikes`` ``[H, T, n]``
    of the first sample, what readers read, and how often the network ran over the sequence."""

    grads: list[Tensor]
    posts: Tensor
    spikes: Tensor
    readings: list[Tensor]
    passes: int


@dataclass
class Laboratory:
    """A tiny network and a rule bound to it, warmed up: every experiment starts from the same state."""

    rule: LearningRule
    subject: Tiny
    chunk: int
    objective: Objective
    saved: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, **options: Any) -> Laboratory:
        """The laboratory of a rule; ``options`` go to `tiny`. Raises what `LearningRule.bind` does."""
        rule, subject = rules.build(case.choice), tiny(case, **options)
        rule.bind(subject.net, case.objective, subject.frames(), KeyedDraws(0))
        whole = rule.traits.memory == "O(T)" or rule.whole(subject.net)
        found = cls(rule, subject, STEPS if whole else 1, case.objective)
        for sequence in range(WARMUP):
            found._learn(Light(), sequence)
        found.saved = {name: value.clone() for name, value in rule.state_dict().items()}
        return found

    def learn(self, light: Light | None = None) -> Found:
        """A mini-batch whose errors are let through as ``light`` says; all of them, unless told otherwise."""
        self.rule.load_state_dict({name: value.clone() for name, value in self.saved.items()})
        return self._learn(light or Light(), WARMUP)

    def _learn(self, light: Light, sequence: int) -> Found:
        net, objective = self.subject.net, Spotlight(self.objective, light)
        net.zero_grad()
        tap, spikes = (
            Tap(GradSink(net), objective, self.rule.traits.memory == "O(T)"),
            torch.zeros(HIDDEN, STEPS, WIDTH, dtype=torch.bool),
        )

        def watch(record: Record) -> None:
            objective.begin(record.start)
            for layer, node in enumerate(net.neurons):
                sent = dense(record.firings[node.index].out).detach()[:, 0, :WIDTH]
                spikes[layer, record.start : record.start + len(sent)] = sent != 0

        with _counted(net.neurons[0].module) as given:
            run_sequence(
                net, self.rule, objective, self.subject.frames(), self.subject.labels, tap,
                draws=KeyedDraws(0), sequence=sequence, chunk=self.chunk, watch=watch,
            )  # fmt: skip
        tap.flush()
        nothing = torch.zeros(STEPS, dtype=torch.float64)
        posts = torch.stack([tap.posts.get(node.index, nothing) for node in self.subject.layers])
        readings = [torch.cat(parts) for parts in objective.readings.values()]
        return Found(
            [_gradient(node) for node in self.subject.layers], posts, spikes, readings, round(sum(given) / STEPS)
        )

    @contextmanager
    def without(self, layer: int) -> Iterator[None]:
        """While it lasts, the weights of ``layer`` are zero."""
        module: Any = self.subject.layers[layer].module
        kept = module.weight.data
        module.weight.data = torch.zeros_like(kept)
        try:
            yield
        finally:
            module.weight.data = kept


@contextmanager
def _counted(neuron: Any) -> Iterator[list[int]]:
    """Lists how many steps of drive the neuron is given at a time, while it lasts."""
    given = list[int]()

    def noting(way: Any) -> Any:
        def noted(x: Tensor, *rest: Any) -> Any:
            before = len(given)
            found = way(x, *rest)
            del given[before:]  # one way may go another
            given.append(len(x))
            return found

        return noted

    ways = ("scan", "simulate", "unroll")
    for way in ways:
        setattr(neuron, way, noting(getattr(neuron, way)))
    try:
        yield given
    finally:
        for way in ways:
            delattr(neuron, way)


def _gradient(node: Node) -> Tensor:
    weight: Any = node.module.weight
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
