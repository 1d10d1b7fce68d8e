"""A network and its rule inside a loop of your own: a step in, its output out, a target in, gradients in ``.grad``."""

from __future__ import annotations

import torch
from torch import Tensor

from onward.core.draws import Draws, KeyedDraws
from onward.core.errors import ConfigError, ShapeError
from onward.core.group import Share
from onward.core.network import Network
from onward.core.objective import Objective, Sum
from onward.core.rule import LearningRule, Lesson
from onward.core.run import fit_chunk
from onward.core.sequence import Frames, Static
from onward.core.signal import ENDLESS, Context
from onward.core.sink import GradSink, Sink
from onward.core.stepwise import Ran, Stepwise


class Stepper:
    """Steps ``net`` through a stream and learns while it runs; when the optimiser steps is for the loop to say.

    With ``steps`` T, a stream is a sequence of T steps: the loss is their mean, and gradients add up to those that
    `onward.run_sequence` gives. Without, it has no end, and the loss of every step counts as it is. ``sample``
    ``[B, *features]`` is a step's input in shape; ``sink`` may be a transform's. Memory O(1) in the number of steps
    that `learn` has seen, O(k) in those since. Raises `ConfigError` for rules that learn from whole sequences alone.

    >>> import onward
    >>> net = Network(torch.nn.Sequential(torch.nn.Linear(4, 8), onward.LIF(), torch.nn.Linear(8, 2)))
    >>> rule, objective = onward.rules.build("ottt"), onward.PerStep(onward.CrossEntropy())
    >>> stepper = Stepper(net, rule, objective, torch.zeros(1, 4))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> for t in range(100):
    ...     output = stepper.step(torch.rand(1, 4))
    ...     loss = stepper.learn(torch.tensor([t % 2]))
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> output.shape, stepper.time
    (torch.Size([1, 2]), 100)
    """

    def __init__(
        self,
        net: Network,
        rule: LearningRule,
        objective: Objective,
        sample: Tensor,
        *,
        steps: int | None = None,
        draws: Draws | None = None,
        sink: Sink | None = None,
    ):
        if not isinstance(rule, Stepwise):
            raise ConfigError(_whole_sequences(rule))
        self.net, self.rule, self.sink = net, rule, sink or GradSink(net)
        self.draws, self.steps = draws or KeyedDraws(0), ENDLESS if steps is None else steps
        self.objective = Unending(objective) if steps is None else objective
        if not rule.bound_to(net):
            rule.bind(net, objective, Static(sample, self.steps), self.draws)
        self._sequence, self._lesson = 0, None
        self._waiting: list[Ran] = []

    @property
    def time(self) -> int:
        """How many steps of the present sequence were taken."""
        return 0 if self._lesson is None else self._lesson.carry.step

    def step(self, x: Tensor) -> Tensor:
        """The output ``[B, m]`` of a time step ``x`` ``[B, *features]``, or ``[K, B, m]`` of a chunk ``[K, B, ...]``.

        Weights are read anew, so that they may have changed since the last step. Raises `NonFiniteError` with layer
        and step.
        """
        single = x.dim() == len(self.rule.features) + 1
        chunk = Frames(x[None] if single else x)
        lesson = self._lesson = self._lesson or self._started(chunk)
        self._check(chunk, lesson)
        self.sink.open()
        most = fit_chunk(self.net, self.rule, chunk.steps, chunk.steps, online=False)
        outs = []
        for start in range(0, chunk.steps, most):
            for ran in self.rule.advancing(lesson, chunk.chunk(start, min(start + most, chunk.steps))):
                ran.record.check_finite()
                self._waiting.append(ran)
                outs.append(ran.record.out.detach())
        out = torch.cat(outs)
        return out[0] if single else out

    def learn(self, target: Tensor) -> Tensor:
        """Adds to ``.grad`` what ``target`` ``[B]`` says of all steps since the last call; returns their loss.

        Call it before the weights change. Raises `ConfigError` where there was no step, `ShapeError` where outputs
        and labels do not fit.
        """
        lesson = self._lesson
        if lesson is None or not self._waiting:
            raise ConfigError("learn() was called with no step to learn from; call step(x) first, then learn(target)")
        self.objective.check(self._waiting[0].record.out, target)
        lesson.y, loss = target, torch.zeros(())
        for ran in self._waiting:
            out = ran.record.out.detach()
            loss = loss.to(out) + self.objective.step_losses(out, target, self.steps).sum(0).mean()
            self.rule.credit(lesson, ran)
        self._waiting = []
        self.sink.flush()
        return loss

    def finish(self) -> None:
        """Ends the sequence: the rule does what it does then (OPZO moves its feedback), and the next one begins.

        Steps that no `learn` followed teach nothing.
        """
        if self._lesson is not None:
            self.sink.open()
            self.rule.finish(self._lesson)
            self.sink.flush()
        self.reset()

    def reset(self) -> None:
        """Forgets membranes, traces and steps that wait for a target; random numbers are those of a new sequence."""
        self._sequence += self._lesson is not None
        self._lesson, self._waiting = None, []

    def _started(self, x: Frames) -> Lesson:
        """The lesson of a sequence that begins with ``x``."""
        self.rule.check(self.net, x, 1)
        context = Context(self.draws, torch.arange(x.batch), self._sequence, self.steps, Share(x.batch))
        lesson = Lesson(self.net, self.objective, x, torch.empty(0), self.sink, context)
        self.sink.open()
        self.rule.begin(lesson)
        return lesson

    def _check(self, x: Frames, lesson: Lesson) -> None:
        """Raises `ShapeError` for steps that do not go on with the sequence at hand."""
        self.rule.check(self.net, x, 1)
        if x.batch != lesson.x.batch:
            raise ShapeError(
                f"a step of {x.batch} samples was given in a stream of {lesson.x.batch}; call reset() first"
            )
        if lesson.carry.step + x.steps > self.steps:
            raise ShapeError(
                f"step {lesson.carry.step + x.steps} was given of a sequence of {self.steps}; call finish() at its "
                "end, or leave out steps for a stream without one"
            )


class Unending(Objective):
    """``given`` for a stream without an end: the loss and the error of a step are not divided by a number of steps."""

    def __init__(self, given: Objective):
        self.given, self.reduce, self.inner = given, Sum(), given.inner

    @property
    def per_step(self) -> bool:
        """As given."""
        return self.given.per_step

    def step_losses(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.step_losses`."""
        return self.given.step_losses(o, y, 1)

    def errors(self, o: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """See `Objective.errors`."""
        return self.given.errors(o, y, 1, samples)

    def total(self, evidence: Tensor, running: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.total`: the sum so far."""
        return running.mean()


def _whole_sequences(rule: LearningRule) -> str:
    """Why a rule cannot learn step by step, and what can."""
    traits = rule.traits
    if traits.from_loss:
        why = "tries out other weights on whole sequences"
    elif traits.rate:
        why = "learns from the mean output of a whole sequence"
    elif traits.backward == "time":
        why = "keeps every step until the last one, and goes back through all of them"
    else:
        why = "learns at the end of a sequence"
    return (
        f"{type(rule).__name__} {why}, so that nothing can be learned step by step; choose a rule that runs forward in "
        "time, such as ottt, sltt, opzo, dfa or eprop, or give whole sequences to onward.run_sequence"
    )
