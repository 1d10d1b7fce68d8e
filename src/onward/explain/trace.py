"""How credit reaches a layer, found out by experiment on `onward.explain.tiny`.

    pairs[l][s][t]   how much a presynaptic spike at step s and the error of step t together change layer l's weights:
                     the gradient at a probe that spikes at s alone
    posts[l][r][t]   how much the error of step t tells layer l's neurons at step r, as deposits say it
    alone[l][t]      the gradient at a probe that never spikes: if it is not zero, weights change whatever synapses
                     hear, and pairs tell nothing more

Then two interventions: a probe that nobody hears, or hardly, learns or does not (weights, signs, or neither are read
backwards), and layer 1 still learns or does not when no error passes the neurons of layer 2 (through layers, or past
them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from onward.core import (
    CrossEntropy,
    GradSink,
    KeyedDraws,
    Objective,
    PerStep,
    Readout,
    Sink,
    run_sequence,
)
from onward.core.graph import Node
from onward.core.objective import Mean
from onward.core.rule import LearningRule
from onward.core.signal import dense
from onward.core.sink import Forwarding
from onward.core.synapse import Params
from onward.core.trace import Postsynaptic, Presynaptic
from onward.explain.tiny import CLASSES, PROBE, SAMPLES, STEPS, MakeNeuron, Tiny, tiny
from onward.rules import rules

WARMUP = 4
"""Mini-batches before anything is looked at: feedback that is learned has to start somewhere."""
SEEN = 1e-6
"""Of the largest number of its kind: what is smaller was not seen."""
WHISPER = 1e-9
"""How loud a probe that is hardly heard is."""

Temporal = Literal["back in time", "trace", "instant", "rates", "loss"]
Read = Literal["weights", "signs", "nothing"]
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Route:
    """How credit reaches one layer: in ``time``, from above ``through`` the layers between or ``direct``, or both.

    ``pairs`` and ``posts`` as in the module's docstring, by their largest; a rule that hears one error of the whole
    sequence has one column.
    """

    time: Temporal
    through: bool
    direct: bool
    pairs: Matrix
    posts: Matrix


@dataclass(frozen=True)
class Traced:
    """What was found of a rule: a route for every layer; which numbers are ``read`` backwards.

    ``passes`` is how often the network ran over the sequence. ``own`` lists what the rule keeps and ``learned`` what it
    learns, by name and size. ``cyclic``: the tiny network has a loop.
    """

    routes: tuple[Route, ...]
    read: Read
    passes: float
    own: Mapping[str, int]
    learned: Mapping[str, int]
    cyclic: bool

    @property
    def time(self) -> Temporal:
        """How credit of the first layer lies in time."""
        return self.routes[0].time


class Spotlight(Objective):
    """``base``, with the losses of steps weighed by ``light`` ``[T]``; ``start`` is where the chunk at hand begins."""

    def __init__(self, base: Objective, light: Tensor):
        self.base, self.light, self.start, self.reduce = base, light, 0, base.reduce

    @property
    def per_step(self) -> bool:
        """See `Objective.per_step`."""
        return self.base.per_step

    def step_losses(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.step_losses`."""
        return self.base.step_losses(o, y, steps) * self._on(o)[:, None]

    def errors(self, o: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """See `Objective.errors`."""
        return self.base.errors(o, y, steps, samples) * self._on(o)[:, None, None]

    def total(self, evidence: Tensor, running: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.total`."""
        return self.base.total(evidence, running, y, steps)

    def rate_errors(self, evidence: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """See `Objective.rate_errors`."""
        return self.base.rate_errors(evidence, y, steps, samples)

    def _on(self, o: Tensor) -> Tensor:
        start = 0 if len(o) == len(self.light) else self.start
        return self.light[start : start + len(o)].to(o)


class Tap(Forwarding):
    """Notes how large the posts of every synapse are at every step; ``clock`` knows where the chunk at hand begins."""

    def __init__(self, inner: Sink, clock: Spotlight):
        super().__init__(inner)
        self.clock = clock
        self.posts: dict[int, Tensor] = {}

    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """See `Sink.deposit`."""
        size = dense(post).detach().flatten(1).norm(dim=1).double()
        start = 0 if len(size) == STEPS else self.clock.start
        self._note(node, start, size)
        super().deposit(node, pre, post, bias_gain)

    def contribute(self, node: Node, pre: Presynaptic, grads: Params) -> None:
        """See `Sink.contribute`."""
        self._note(node, self.clock.start, torch.stack([grad.norm() for grad in grads.values()]).sum()[None].double())
        super().contribute(node, pre, grads)

    def _note(self, node: Node, start: int, size: Tensor) -> None:
        held = self.posts.setdefault(node.index, torch.zeros(STEPS, dtype=torch.float64))
        held[start : start + len(size)] += size


@dataclass
class Laboratory:
    """A tiny network and a rule bound to it, warmed up: every experiment starts from the same state."""

    rule: LearningRule
    subject: Tiny
    whole: bool
    objective: Objective
    saved: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, choice: Any, make: MakeNeuron, cyclic: bool, **options: Any) -> Laboratory:
        """The laboratory of a rule; ``options`` go to `tiny`."""
        rule, subject = rules.build(choice), tiny(make, cyclic, **options)
        reads = Readout(CrossEntropy(), Mean()) if rule.traits.rate else PerStep(CrossEntropy())
        rule.bind(subject.net, reads, subject.frames(torch.zeros(STEPS)), KeyedDraws(0))
        whole = rule.traits.memory == "O(T)" or rule.whole(subject.net)
        found = cls(rule, subject, whole, reads)
        for sequence in range(WARMUP):
            found._learn(torch.zeros(STEPS), torch.ones(STEPS), sequence)
        found.saved = {name: value.clone() for name, value in rule.state_dict().items()}
        return found

    def learn(self, pulses: Tensor, light: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The gradients of the layers' weights, and the posts, when probes spike at ``pulses`` and errors are lit."""
        self.rule.load_state_dict({name: value.clone() for name, value in self.saved.items()})
        return self._learn(pulses, light, WARMUP)

    def _learn(self, pulses: Tensor, light: Tensor, sequence: int) -> tuple[list[Tensor], dict[int, Tensor]]:
        net, objective = self.subject.net, Spotlight(self.objective, light)
        net.zero_grad()
        tap = Tap(GradSink(net), objective)

        def watch(record: Any) -> None:
            objective.start = record.start

        run_sequence(
            net, self.rule, objective, self.subject.frames(pulses), self.subject.labels, tap,
            draws=KeyedDraws(0), sequence=sequence, chunk=STEPS if self.whole else 1, watch=watch,
        )  # fmt: skip
        tap.flush()
        grads = [_gradient(node) for node in self.subject.layers]
        return grads, tap.posts


def _gradient(node: Node) -> Tensor:
    weight: Any = node.module.weight
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()


def traced(choice: Any, make: MakeNeuron, cyclic: bool) -> Traced:
    """The experiments on the rule that ``choice`` describes, with neurons from ``make``.

    Costs some forty mini-batches of two samples on sixteen neurons.
    """
    lab = Laboratory.of(choice, make, cyclic)
    posts, alone = _unpaired(lab)
    scalar = bool(alone.any())
    pairs = alone[:, None].expand(-1, STEPS, -1) if scalar else _pairs(lab)
    read = "nothing" if scalar else _read(choice, make, cyclic)
    ways = (False, False) if scalar else _ways(lab, choice, make, cyclic, read)
    routes = [_route(lab, number, pairs[number], posts[number], scalar, ways) for number in range(len(pairs))]
    own, learned = _sizes(lab.rule.named_buffers()), _sizes(lab.rule.named_parameters())
    return Traced(tuple(routes), read, _passes(lab), own, learned, cyclic)


def _route(lab: Laboratory, number: int, pairs: Tensor, posts: Tensor, scalar: bool, ways: tuple[bool, bool]) -> Route:
    """The route to layer ``number``; that of the readout is always direct."""
    through, direct = (False, not scalar) if number == len(lab.subject.layers) - 1 else ways
    if scalar:
        time: Temporal = "loss"
    else:
        time = "rates" if lab.rule.traits.rate else _in_time(pairs, posts)
    return Route(time, through, direct, _matrix(pairs), _matrix(posts))


def _lights(lab: Laboratory) -> Tensor:
    """One row a column of the pairings: each step's error by itself, or all of them."""
    return torch.ones(1, STEPS) if not lab.objective.per_step else torch.eye(STEPS)


def _unpaired(lab: Laboratory) -> tuple[Tensor, Tensor]:
    """Where probes are silent: ``posts`` ``[L, T, columns]``, and the gradients at them, ``alone`` ``[L, columns]``."""
    found, layers = [lab.learn(torch.zeros(STEPS), light) for light in _lights(lab)], lab.subject.layers
    nothing = torch.zeros(STEPS, dtype=torch.float64)
    posts = torch.stack([torch.stack([told.get(node.index, nothing) for _, told in found], 1) for node in layers])
    alone = [[_outgoing(grads[number]).norm() for grads, _ in found] for number in range(len(layers))]
    return posts, torch.tensor(alone, dtype=torch.float64)


def _pairs(lab: Laboratory) -> Tensor:
    """``pairs`` ``[L, T, columns]``; where probes are silent, gradients at them are zero."""
    found = [[lab.learn(pulses, light)[0] for light in _lights(lab)] for pulses in torch.eye(STEPS)]
    sizes = [
        [[_outgoing(grads[number]).norm() for grads in row] for row in found]
        for number in range(len(lab.subject.layers))
    ]
    return torch.tensor(sizes, dtype=torch.float64)


def _outgoing(grad: Tensor) -> Tensor:
    """The probe's weights to all but the next probe."""
    return grad[:, PROBE] if len(grad) == CLASSES else grad[:PROBE, PROBE]


def _in_time(pairs: Tensor, posts: Tensor) -> Temporal:
    earlier = torch.ones(STEPS, STEPS).triu(1).bool()
    if bool((posts[earlier] > SEEN * posts.amax()).any()):
        return "back in time"
    return "trace" if bool((pairs[earlier] > SEEN * pairs.amax()).any()) else "instant"


def _read(choice: Any, make: MakeNeuron, cyclic: bool) -> Read:
    """What is read backwards: is a neuron taught that nobody hears, or hardly anybody?"""
    unheard, whispering = (_taught(Laboratory.of(choice, make, cyclic, heard=heard)) for heard in (0.0, WHISPER))
    if unheard > SEEN:
        return "nothing"
    return "signs" if whispering > SEEN else "weights"


def _taught(lab: Laboratory) -> float:
    """How much the first layer's probe is taught, as a share of what all its neurons are."""
    grads, _ = lab.learn(torch.tensor([1.0, 0, 1, 0]), torch.ones(STEPS))
    return float(grads[0][PROBE, :PROBE].norm() / grads[0].norm().clamp_min(1e-300))


def _ways(lab: Laboratory, choice: Any, make: MakeNeuron, cyclic: bool, read: Read) -> tuple[bool, bool]:
    """Whether errors reach the first layer through the second, and whether past it."""
    if lab.rule.traits.rate:
        return True, read == "nothing"
    deaf = Laboratory.of(choice, make, cyclic, deaf=True)
    everything, light = torch.zeros(STEPS), torch.ones(STEPS)
    (heard, *_), _ = lab.learn(everything, light)
    (left, *_), _ = deaf.learn(everything, light)
    whole = float(heard.norm())
    return float((heard - left).norm()) > SEEN * whole, float(left.norm()) > SEEN * whole


def _passes(lab: Laboratory) -> float:
    """How often the first layer's neurons ran over the sequence: drives they were given, over those of one pass."""
    neuron: Any = lab.subject.net.neurons[0].module
    ways, given = ("scan", "simulate", "unroll"), list[int]()

    def noting(way: Any) -> Any:
        def noted(x: Tensor, *rest: Any) -> Any:
            before = len(given)
            found = way(x, *rest)
            del given[before:]  # one way may go another
            given.append(len(x))
            return found

        return noted

    for way in ways:
        setattr(neuron, way, noting(getattr(neuron, way)))
    try:
        lab.learn(torch.zeros(STEPS), torch.ones(STEPS))
    finally:
        for way in ways:
            delattr(neuron, way)
    return sum(given) / STEPS


def _matrix(found: Tensor) -> Matrix:
    largest = float(found.amax())
    scaled = found / largest if largest else found
    return tuple(tuple(float(value) if value > SEEN else 0.0 for value in row) for row in scaled)


def _sizes(tensors: Any) -> dict[str, int]:
    return {name: value.numel() for name, value in tensors if value.numel() > SAMPLES}
