"""How a sequence moves with its weights: a chunk of time in dual numbers, x + dx epsilon.

Synapses are linear in input and weights, so that their tangents are two more products by the engine's own kernels; all
else is left to torch's forward mode. Tangents of membranes wait in the carry as the membranes do, so that memory does
not grow with the number of steps. A spike's tangent is the surrogate slope times the potential's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from onward.core.drawn import Direction, assembled
from onward.core.graph import Node
from onward.core.interpret import Interpreter, nonzeros, run_walk
from onward.core.neuron import Firing
from onward.core.norms import Norms
from onward.core.probe import replaced, weights_now
from onward.core.products import drive
from onward.core.rule import Lesson
from onward.core.signal import Carry, Signal, dense
from onward.core.synapse import Params
from onward.kernels.rows import SparseRows


@dataclass
class Along:
    """One direction's way through a sequence: membranes, evidence and loss so far, with their tangents."""

    ray: Direction
    carry: Carry
    sums: dict[str, Any] = field(default_factory=dict)


class Dual(Interpreter):
    """A chunk in dual numbers; to be used within a dual level. ``record`` holds what a run without tangents would."""

    def __init__(self, lesson: Lesson, along: Along, names: Mapping[nn.Parameter, str], norms: Norms):
        super().__init__(lesson.net, along.carry, lesson.context, norms)
        self.reads, self.ray, self.names = lesson.sink.reads, along.ray, names

    def dual(self, parameter: nn.Parameter) -> Tensor | None:
        """A parameter that moves along the ray; None for one that is frozen."""
        name = self.names.get(parameter)
        if name is None:
            return None
        noise = assembled(parameter, partial(self.ray.block, name))
        return forward_ad.make_dual(parameter.detach(), noise)

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """W x + b, and dW x + db + W dx."""
        with replaced(node.module, self.dual):
            weights, moves = _parted(weights_now(node.module), self.reads)
        rows, dx = nonzeros(primal(signal.clean)), tangent(signal.clean)
        out = drive(node.module, weights, rows)
        moved = drive(node.module, moves, rows)
        if dx is not None:
            moved = moved + drive(node.module, _without_bias(weights), dx)
        dual = forward_ad.make_dual(out.contiguous(), moved.contiguous())
        return Signal(dual, dual)

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.neuron`; the past is followed, as through time."""
        module: Any = node.module
        x = dense(signal.sent)
        with replaced(module, self.dual):
            out, state, potential = module.unroll(
                x, self.carry.states.get(node.index) or module.start(x[0]), self.draw(node)
            )
        self.carry.states[node.index] = state
        plain = tuple(primal(s) for s in state)
        self.record.firings[node.index] = Firing(primal(out), out.new_empty(0), plain, lambda: primal(potential))
        out = self.disturbed(node, out)
        return Signal(out, out)

    def norm(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.norm`."""
        with replaced(node.module, self.dual):
            return super().norm(node, signal)

    def glue(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.glue`."""
        with replaced(node.module, self.dual):
            return super().glue(node, signal)

    def join(self, node: Node, signals: list[Signal]) -> Signal:
        """See `Interpreter.join`."""
        with replaced(node.module, self.dual):
            return super().join(node, signals)

    def past(self, signal: Signal) -> Signal:
        """Tangents cross time."""
        return signal


def advance(lesson: Lesson, along: Along, x: Any, names: Mapping[nn.Parameter, str], norms: Norms) -> Any:
    """Takes one direction through a chunk; returns its record, without tangents."""
    _first_dual()
    with forward_ad.dual_level():
        thaw(along)
        walk = Dual(lesson, along, names, norms)
        out = run_walk(walk, x)
        _add(lesson, along, out)
        walk.record.out = primal(out)
        freeze(along)
    return walk.record


@cache
def _first_dual() -> None:
    """A first dual number: torch then compiles formulas, in a way that it calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.ones(1), torch.ones(1))


def loss(lesson: Lesson, along: Along) -> tuple[Tensor, Tensor]:
    """This process's share of the mean loss over the whole batch, and how it moves along the ray."""
    share = len(lesson.y) / lesson.context.samples
    with forward_ad.dual_level():
        thaw(along)
        mean = lesson.objective.total(along.sums["evidence"], along.sums["running"], lesson.y, lesson.context.steps)
        moved = tangent(mean)
        found = primal(mean) * share, torch.zeros_like(primal(mean)) if moved is None else moved * share
        freeze(along)
    return found


def _add(lesson: Lesson, along: Along, out: Tensor) -> None:
    sums, wide, steps = along.sums, out.double(), lesson.context.steps
    sums["evidence"] = lesson.objective.reduce(sums.get("evidence"), wide)
    losses = lesson.objective.step_losses(wide, lesson.y, steps).sum(0)
    sums["running"] = losses + sums["running"] if "running" in sums else losses


def primal(x: Any) -> Any:
    """The number of a dual number, outside the level; sparse rows, which have no tangent, as they are."""
    return x if isinstance(x, SparseRows) else forward_ad.unpack_dual(dense(x)).primal


def tangent(x: Any) -> Tensor | None:
    """What a dual number moves by; None for a plain one."""
    return None if isinstance(x, SparseRows) else forward_ad.unpack_dual(dense(x)).tangent


def freeze(along: Along) -> None:
    """Takes dual numbers apart, since tangents do not outlive their level."""
    _each(along, lambda x: (primal(x), tangent(x)))


def thaw(along: Along) -> None:
    """Puts dual numbers together again."""
    _each(along, lambda pair: pair[0] if pair[1] is None else forward_ad.make_dual(*pair))


def _each(along: Along, f: Callable[[Any], Any]) -> None:
    carry: Any = along.carry
    carry.states = {index: tuple(map(f, state)) for index, state in carry.states.items()}
    carry.delays = {index: _both(signal, f) for index, signal in carry.delays.items()}
    along.sums = {name: f(value) for name, value in along.sums.items()}


def _both(signal: Signal, f: Callable[[Any], Any]) -> Signal:
    sent = f(signal.sent)
    return Signal(sent, sent)


def _parted(weights: Params, reads: Callable[[Params], Params]) -> tuple[Params, Params]:
    """Effective weights and their tangents, as products see them."""
    parts = {name: forward_ad.unpack_dual(weight) for name, weight in weights.items()}
    moves = {name: torch.zeros_like(p.primal) if p.tangent is None else p.tangent for name, p in parts.items()}
    return reads({name: p.primal for name, p in parts.items()}), reads(moves)


def _without_bias(weights: Params) -> Params:
    return {name: torch.zeros_like(w) if name == "bias" else w for name, w in weights.items()}
