"""Running a network under a rule while watching everything that a case may store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from golden.cases import Trial
from golden.networks import Model
from onward.core.draws import RecordedDraws
from onward.core.interpret import Record
from onward.core.objective import Objective
from onward.core.run import run_sequence
from onward.core.sequence import Frames, Sequence, Static
from onward.core.signal import Carry, dense
from onward.core.sink import GradSink
from onward.core.trace import trace
from onward.rules import rules

Results = Iterator[tuple[str, Tensor]]


class Tapped(Frames):
    """Frames that remember the chunks they handed out, so that gradients with respect to them can be asked for."""

    def __init__(self, x: Tensor):
        super().__init__(x)
        self.leaves: list[Tensor] = []

    def chunk(self, start: int, stop: int) -> Tensor:
        """A slice of the frames as a leaf of the graph."""
        self.leaves.append(self.x[start:stop].clone().requires_grad_())
        return self.leaves[-1]


class Watcher:
    """Gathers outputs, firings and, from a `Tapped` input, the gradient with respect to the input."""

    def __init__(self, model: Model, trial: Trial, objective: Objective, x: Sequence):
        self.model, self.trial, self.objective, self.x = model, trial, objective, x
        self.outs: list[Tensor] = []
        self.seen: dict[str, list[Tensor]] = {}
        self.dx: Tensor | None = None
        self._carry = Carry()

    def __call__(self, record: Record) -> None:
        """Sees a chunk; after the last one, while the graph still stands, takes the gradient."""
        self.outs.append(record.out)
        for index, firing in record.firings.items():
            name, neuron = self.model.neurons[index], self._module(index)
            sent = firing.out * self.trial.masks.get(name, 1)
            self._note(f"spike.{name}", firing.out)
            self._note(f"h.{name}", firing.potential)
            self._note(f"v.{name}", neuron.after_reset(firing))
            self._note(f"trace.{name}", dense(trace(sent, neuron.decay, self._carry, name)))
        if record.steps.stop == self.trial.steps and isinstance(self.x, Tapped):
            self.dx = self._gradient(self.x.leaves)

    def forward(self) -> Results:
        """Everything but gradients and losses, ``[T, B, ...]``."""
        yield "out", self.out
        for name, chunks in self.seen.items():
            yield name, torch.cat(chunks)

    @property
    def out(self) -> Tensor:
        """The outputs ``[T, B, m]``."""
        return torch.cat(self.outs).detach()

    def step_losses(self) -> Tensor:
        """The loss of each step ``[T]``."""
        return self.objective.step_losses(self.out, self.trial.input("y"), self.trial.steps).mean(1)

    def _module(self, index: int) -> Any:
        return self.model.net.nodes[index].module

    def _note(self, name: str, value: Tensor) -> None:
        self.seen.setdefault(name, []).append(value.detach())

    def _gradient(self, leaves: list[Tensor]) -> Tensor:
        y, steps = self.trial.input("y"), self.trial.steps
        with torch.enable_grad():
            out = torch.cat(self.outs)
            running = self.objective.step_losses(out, y, steps).sum(0)
            loss = self.objective.total(self.objective.reduce(None, out), running, y, steps)
        grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        return torch.cat([torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)])


class Session:
    """One mini-batch of one model under one rule."""

    def __init__(self, model: Model, trial: Trial, rule: str | Mapping[str, Any], objective: Objective):
        self.model, self.trial, self.objective = model, trial, objective
        self.rule = rules.build(rule)
        self.sink = GradSink(model.net)
        self.recorded = model.dropouts(trial.masks)
        self.loss = torch.empty(0)

    def choose(self, steps: Tensor) -> None:
        """Makes SLTT-K draw these steps."""
        scores = torch.ones(self.trial.steps, 1, dtype=torch.float64)
        scores[steps] = 0
        self.recorded["subset", ""] = scores

    def run(self, x: Sequence, chunk: int, after_step: Callable[[], None] | None = None) -> Watcher:
        """Walks the sequence; gradients are in the sink, or flushed where ``after_step`` did so."""
        net, y, draws = self.model.net, self.trial.input("y"), RecordedDraws(self.recorded)
        watcher = Watcher(self.model, self.trial, self.objective, x)
        self.rule.bind(net, self.objective, Frames(self.trial.x), draws)
        self.loss = run_sequence(
            net,
            self.rule,
            self.objective,
            x,
            y,
            self.sink,
            draws=draws,
            chunk=chunk,
            after_step=after_step,
            watch=watcher,
        ).loss
        self.sink.flush()
        return watcher

    def gradients(self) -> dict[str, Tensor]:
        """What was flushed since the last call, by the case's names."""
        return {name: _taken(parameter) for name, parameter in self.model.parameters.items()}


def _taken(parameter: torch.nn.Parameter) -> Tensor:
    grad, parameter.grad = parameter.grad, None
    return torch.zeros_like(parameter) if grad is None else grad


def inputs(trial: Trial, chunks: tuple[int, ...]) -> Iterator[tuple[int, Sequence]]:
    """The input in every chunking, tapped; and once in the form that training would use."""
    for chunk in chunks:
        yield chunk, Tapped(trial.x)
    yield trial.steps, plain(trial)


def plain(trial: Trial) -> Sequence:
    """One frame where the case says that all are the same, else all frames."""
    return Static(trial.x[0], trial.steps) if trial.config.get("static_input") else Frames(trial.x)
