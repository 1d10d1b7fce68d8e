"""Trying weights out: the same mini-batch runs again with weights moved along random directions, forward only.

All probes of a mini-batch advance chunk by chunk, side by side, each with membranes of its own, so that memory does not
grow with the number of steps. What else is random (dropout) is keyed, and hence common to them. Weights are moved one
layer at a time, in a copy that stands in for the layer's own while the layer is visited: beyond inference, that takes
the memory of the largest layer, and weights are afterwards what they were to the last bit, whatever happens.
Batch normalisation uses the statistics of the mini-batch in every probe; the first one alone moves the running ones.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from onward.core.drawn import Direction, Drawn, Ray, Term, names_of
from onward.core.draws import Draws, KeyedDraws, Law
from onward.core.errors import NonFiniteError
from onward.core.graph import Node
from onward.core.interpret import Forward, evaluating, frozen_statistics, nonzeros, run_walk, shapes, stands_still
from onward.core.network import Network
from onward.core.norms import Norms
from onward.core.objective import Objective
from onward.core.products import drive
from onward.core.rule import Holds, LearningRule, Lesson, Traits
from onward.core.sequence import Sequence
from onward.core.signal import Carry, Signal
from onward.core.synapse import Params, effective
from onward.kernels.rows import SparseRows

RECENT = 100
"""Mini-batches that the share of silent probes is about."""
LOOKS = 10
"""Mini-batches before anything is said about them."""
SILENT = 0.1
"""Share of silent probes that a user hears of."""


@dataclass(frozen=True)
class Shift:
    """Weights moved by ``strength`` along ``ray``; the network's own, if there is none."""

    ray: Direction | None = None
    strength: float = 0.0

    def stand_in(self, parameter: nn.Parameter, names: Mapping[nn.Parameter, str]) -> Tensor | None:
        """What stands in for a parameter; None where it stays."""
        name = names.get(parameter)
        return None if self.ray is None or name is None else self.ray.parameter(parameter, name, self.strength)


@contextmanager
def replaced(module: nn.Module, stand_in: Callable[[nn.Parameter], Tensor | None]) -> Iterator[None]:
    """Puts tensors in the place of parameters of ``module`` and its parts, and the parameters back afterwards."""
    kept: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for owner in module.modules():
            for name, parameter in owner._parameters.items():
                other = None if parameter is None else stand_in(parameter)
                if parameter is not None and other is not None:
                    kept.append((owner, name, parameter))
                    owner._parameters[name] = other  # type: ignore[assignment]
        yield
    finally:
        for owner, name, parameter in kept:
            owner._parameters[name] = parameter


def weights_now(module: nn.Module) -> Params:
    """The effective weights at this moment; reading them moves no buffer of a parametrization."""
    with evaluating(module):
        return effective(module)


class Probing(Forward):
    """A chunk forward, each layer with its weights moved while it is visited."""

    def __init__(self, lesson: Lesson, run: Run, names: Mapping[nn.Parameter, str], norms: Norms):
        reads = lesson.sink.reads  # a method of our own among our attributes would keep the record from being freed
        super().__init__(lesson.net, run.carry, lesson.context, lambda node: reads(weights_now(node.module)), norms)
        self.stand_in = partial(run.shift.stand_in, names=names)

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.synapse`; what one frame drives is worked out once a sequence."""
        x = signal.clean
        if isinstance(x, Tensor) and stands_still(x):
            return self.at_rest(node, signal, lambda frame: self._moved_drive(node, frame))
        out = self._moved_drive(node, nonzeros(x))
        return Signal(out, out)

    def _moved_drive(self, node: Node, x: Tensor | SparseRows) -> Tensor:
        with replaced(node.module, self.stand_in):
            return drive(node.module, self.params(node), x)

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.neuron`."""
        with replaced(node.module, self.stand_in):
            return super().neuron(node, signal)

    def norm(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.norm`."""
        with replaced(node.module, self.stand_in):
            return super().norm(node, signal)

    def glue(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.glue`."""
        with replaced(node.module, self.stand_in):
            return super().glue(node, signal)


@dataclass
class Run:
    """One probe's way through a sequence: its membranes, and what it adds up to the loss with, in double precision."""

    shift: Shift
    carry: Carry
    evidence: Tensor | None = None
    running: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, objective: Objective, out: Tensor, y: Tensor, steps: int) -> None:
        """Adds the outputs of a chunk; after the last one, membranes are let go."""
        wide = out.double()
        self.evidence = objective.reduce(self.evidence, wide)
        self.running = self.running.to(wide) + objective.step_losses(wide, y, steps).sum(0)
        if self.carry.step == steps:
            self.carry = Carry(masks=self.carry.masks, step=steps)

    def loss(self, lesson: Lesson) -> Tensor:
        """This process's share of the mean loss over the whole batch."""
        assert self.evidence is not None
        mean = lesson.objective.total(self.evidence, self.running, lesson.y, lesson.context.steps)
        return mean * (len(lesson.y) / lesson.context.samples)


@dataclass
class Runs(Carry):
    """The carry of several probes; ``rays`` are their directions."""

    rays: list[Direction] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


class RayRule(LearningRule):
    """Base of rules that learn from the slopes of the loss along ``directions`` random rays.

    `metrics` are of the last mini-batch (the mean slope along its rays), and the share of rays that were silent, which
    means that nothing changed along them, over the last `RECENT`.
    """

    slope: Tensor
    silent: Tensor
    looks: Tensor

    def __init__(self, directions: int, law: Law, norms: Norms):
        super().__init__()
        self.directions, self.law, self.norms = directions, law, norms
        self.register_buffer("slope", torch.zeros((), dtype=torch.float64))
        self.register_buffer("silent", torch.zeros((), dtype=torch.float64))
        self.register_buffer("looks", torch.zeros((), dtype=torch.int64))

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return Traits(
            backward="none",
            memory="O(1)",
            per_step_error=False,
            weight_transport=False,
            stochastic=True,
            from_loss=True,
        )

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """Nothing to keep; one step of the sample shows whether the network can take it."""
        shapes(net, sample, draws)

    def rays(self, draws: Draws, sequence: int) -> list[Ray]:
        """The random directions of mini-batch ``sequence``."""
        return [Ray(draws, self.law, f"probe/{number}", sequence) for number in range(self.directions)]

    @property
    @abstractmethod
    def width(self) -> int:
        """How many runs go side by side, for plans of memory."""

    @abstractmethod
    def passes(self, lesson: Lesson) -> list[Any]:
        """What runs side by side through the sequence; the outputs of the first are those that others see."""

    @abstractmethod
    def walk(self, lesson: Lesson, one: Any, x: Tensor | SparseRows, see: Callable[[Any], None]) -> Tensor:
        """A chunk of one pass, which ``see`` looks at."""

    @torch.no_grad()
    def step(self, lesson: Lesson, x: Tensor | SparseRows) -> Tensor:
        """See `LearningRule.step`: the first pass alone moves running statistics."""
        first, *others = self.passes(lesson)
        out = self.walk(lesson, first, x, lesson.saw)
        for one in others:
            with frozen_statistics(lesson.net):
                self.walk(lesson, one, x, lesson.check)
        return out

    def look(self, slopes: Tensor, silent: Tensor) -> None:
        """Notes the slopes ``[n]`` of the loss along the rays, and which rays were silent."""
        self.looks += 1
        self.slope.copy_(slopes.mean())
        self.silent += (silent.double().mean() - self.silent) / min(int(self.looks), RECENT)

    def holds(self, net: Network, steps: range) -> Holds:
        """See `LearningRule.holds`."""
        return Holds()

    def carries(self) -> int:
        """Bytes that a mini-batch keeps beside its runs, for plans of memory."""
        return 0

    def renews(self) -> int:
        """Bytes that are taken for a moment while the rule takes in what it remembers, for plans of memory."""
        return 2 * sum(buffer.nbytes for buffer in self.buffers())

    def metrics(self) -> dict[str, float]:
        """See `LearningRule.metrics`."""
        return {"projected gradient": float(self.slope), "silent probes": float(self.silent)} if self.looks else {}

    def silence(self, remedy: str) -> list[str]:
        """What to say of silent probes, if they are too many; ``remedy`` is the way out."""
        if int(self.looks) < LOOKS or float(self.silent) <= SILENT:
            return []
        seen = min(int(self.looks), RECENT)
        return [
            f"{float(self.silent):.0%} of the probes of the last {seen} mini-batches left the loss exactly as it was, "
            f"since it is constant between jumps where outputs are spikes; {remedy}"
        ]


class ProbingRule(RayRule):
    """Base of rules that run a sequence with weights moved along rays."""

    @abstractmethod
    def shifts(self, rays: list[Direction]) -> list[Shift]:
        """The probes of a mini-batch; the outputs of the first are those that others see."""

    @abstractmethod
    def deposit(self, lesson: Lesson, runs: Runs) -> None:
        """Turns what the probes brought into a gradient that is drawn."""

    @property
    def width(self) -> int:
        """See `RayRule.width`."""
        return len(self.shifts([*self.rays(KeyedDraws(0), 0)]))

    def directed(self, lesson: Lesson) -> Runs:
        """The directions of a mini-batch, which no run follows yet: the rays as they are, unless a rule bends them."""
        return Runs(rays=[*self.rays(lesson.context.draws, lesson.context.sequence)])

    def begin(self, lesson: Lesson) -> None:
        """See `LearningRule.begin`."""
        runs, masks = self.directed(lesson), dict[int, Tensor]()
        runs.runs = [Run(shift, Carry(masks=masks)) for shift in self.shifts(runs.rays)]
        lesson.carry = runs

    def passes(self, lesson: Lesson) -> list[Run]:
        """See `RayRule.passes`."""
        assert isinstance(lesson.carry, Runs)
        return lesson.carry.runs

    def walk(self, lesson: Lesson, one: Run, x: Tensor | SparseRows, see: Callable[[Any], None]) -> Tensor:
        """See `RayRule.walk`."""
        walk = Probing(lesson, one, names_of(lesson.net), self.norms)
        out = run_walk(walk, x)
        see(walk.record)
        one.add(lesson.objective, out, lesson.y, lesson.context.steps)
        return out

    @torch.no_grad()
    def finish(self, lesson: Lesson) -> None:
        """See `LearningRule.finish`."""
        assert isinstance(lesson.carry, Runs)
        self.deposit(lesson, lesson.carry)


def finite(losses: Tensor) -> Tensor:
    """``losses``, if they are; raises `NonFiniteError`."""
    if not losses.isfinite().all():
        raise NonFiniteError("the loss of a probe")
    return losses


def terms(coefficients: Tensor, directions: list[Any]) -> list[Term]:
    """Coefficients ``[n]`` and their directions."""
    return [Term(c, direction) for c, direction in zip(coefficients.tolist(), directions, strict=True)]


def drawn(lesson: Lesson, told: Tensor, weigh: Callable[[Tensor], list[Term]]) -> None:
    """Hands the sink a gradient of all parameters of the network."""
    lesson.sink.add_drawn(Drawn(told, weigh, names_of(lesson.net)))
