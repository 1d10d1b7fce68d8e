"""Implicit differentiation on the equilibrium state: a network with feedback is differentiated at its fixed point.

    forward   the rates a[T] of the spiking network approach a* = f(a*, x), f the network of clamps, cut at its feedback
    backward  beta = J^T beta + dL/da,  J = df/da;    dL/dtheta = (df/dtheta)^T beta

The simulation is not differentiated: it keeps sums of the last layer alone, and memory is that of one step through f
and of the solver, O(n) whatever T is. Costs one pass through f, and a vector-Jacobian product of f for every step of
the solver. Serves networks with any number of cycles whose neurons have a rate law; without a cycle it is
back-propagation through the network of clamps. Source: Xiao et al. 2021 (NeurIPS).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.backprop import deposit_all
from onward.core.graph import Kind, Node
from onward.core.interpret import run_walk
from onward.core.network import Network
from onward.core.rates import Keeps, RateRule, RateWalk, SteadyRateWalk, leaf, rate_laws
from onward.core.registry import Choice
from onward.core.rule import Lesson, Traits
from onward.core.signal import Signal, dense
from onward.rules.registry import rules
from onward.solvers import Solution, Solver, SolverChoice, solvers
from onward.weights import operator_norm

LOOK_EVERY = 50
TOLERABLE = 1e-3
"""Residuals that a user hears of; the published solver is content with less in float32."""


class IDE(RateRule):
    """Implicit differentiation on the equilibrium state; see the module's docstring.

    ``linearise`` is where J is taken: at the measured *rate*, or, as published for several layers, at its *map* f(rate)
    (the same at the equilibrium). `metrics` are of the last mini-batch: the distance from the fixed point,
    ||f(a[T]) - a[T]|| / ||a[T]||, and the solver's steps and residual.
    """

    def __init__(self, solver: Solver, linearise: str = "rate"):
        super().__init__()
        self.solver, self.linearise = solver, linearise
        self._found: dict[str, float] = {}
        self._unsolved: list[str] = []
        self._strong: list[str] = []

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return Traits(
            backward="step", memory="O(1)", per_step_error=False, weight_transport=True, stochastic=False, rate=True
        )

    def finish(self, lesson: Lesson) -> None:
        """See `LearningRule.finish`."""
        errors = self.errors(lesson)
        net = lesson.net
        state = {index: leaf(signal) for index, signal in self.measured(lesson, net.closing).items()}
        walk = RateWalk(lesson, rate_laws(net), self.measured(lesson, _last(net)), state, self.norms)
        with torch.enable_grad():
            run_walk(walk, self.inputs(lesson))
        heads, credits = [walk.record.out], [errors]
        if state:
            heads += walk.ahead.values()
            credits += self._solve(lesson, walk, errors)
        deposit_all(lesson, [walk.record], heads, credits)

    def metrics(self) -> dict[str, float]:
        """See `LearningRule.metrics`."""
        return self._found

    def warnings(self) -> list[str]:
        """See `LearningRule.warnings`."""
        return [*self._unsolved, *self._strong]

    def summed(self, net: Network) -> list[Node]:
        """See `RateRule.summed`: the state of the loop, and what the output reads."""
        return [*net.closing, *_last(net)]

    def keeps(self, net: Network) -> Keeps:
        """See `RateRule.keeps`: of closing delays also the start of the graph."""
        means = {**{node.index: 1 for node in _last(net)}, **{node.index: 2 for node in net.closing}}
        second = self.linearise == "map" or any(node.module.training for node in net.of(Kind.NORM))
        return Keeps(means, vectors=self.solver.vectors, second=second)

    def _solve(self, lesson: Lesson, walk: RateWalk, errors: Tensor) -> list[Tensor]:
        """Credits at what closing delays receive, J^T beta; the loss's own share of beta is a head apart."""
        loop = self._loop(lesson, walk)
        solution = self.solver.solve(loop, loop.pull(loop.out, errors))
        self._note(lesson, walk, loop, solution)
        return loop.split(solution.value)

    def _loop(self, lesson: Lesson, walk: RateWalk) -> Loop:
        """The map whose Jacobian the solver takes: normalised as the simulation is, at the rates or at their map."""
        if self.linearise == "rate" and not any(node.module.training for node in lesson.net.of(Kind.NORM)):
            return Loop(walk)
        if self.linearise == "rate":
            return Loop(self._steady(lesson, walk.handed, walk.measured))
        moved = self._steady(lesson, walk.handed, {})
        return Loop(self._steady(lesson, {i: leaf(Signal(to, to)) for i, to in moved.ahead.items()}, walk.measured))

    def _steady(self, lesson: Lesson, state: Mapping[int, Signal], measured: Mapping[int, Signal]) -> SteadyRateWalk:
        """f at ``state``, normalised as the simulation is."""
        walk = SteadyRateWalk(lesson, rate_laws(lesson.net), measured, state, self.scales(lesson))
        with torch.enable_grad():
            run_walk(walk, self.inputs(lesson))
        return walk

    def _note(self, lesson: Lesson, walk: RateWalk, loop: Loop, solution: Solution) -> None:
        """What the log and the user should know."""
        measured = {index: dense(signal.sent) for index, signal in walk.measured.items()}
        moved = flat([walk.mapped[index].detach() - rate for index, rate in measured.items()])
        self._found = {
            "equilibrium_residual": float(moved.norm() / flat(list(measured.values())).norm().clamp_min(1e-12)),
            "solver_steps": float(solution.steps),
            "solver_residual": solution.residual,
        }
        self._unsolved = [] if solution.residual <= TOLERABLE else [unsolved(lesson.net, loop, solution)]
        if lesson.context.sequence % LOOK_EVERY == 0:
            self._strong = list(strong_feedback(lesson, walk))


class Loop:
    """The map of rates once around, as the operator v -> J^T v on ``[B, n]``."""

    def __init__(self, walk: RateWalk):
        self.out, self.ahead = walk.record.out, list(walk.ahead.values())
        self.state = [dense(walk.handed[index].sent) for index in walk.ahead]

    def __call__(self, v: Tensor) -> Tensor:
        """J^T v."""
        return self._pull(self.ahead, self.split(v))

    def pull(self, head: Tensor, credit: Tensor) -> Tensor:
        """What ``credit`` at ``head`` is at the state, ``[B, n]``."""
        return self._pull([head], [credit])

    def split(self, v: Tensor) -> list[Tensor]:
        """``[B, n]`` as one tensor for each closing delay, in its shape."""
        parts = v.split([tensor[0, 0].numel() for tensor in self.ahead], 1)
        return [part.view_as(tensor) for part, tensor in zip(parts, self.ahead, strict=True)]

    def gain(self, v: Tensor, rounds: int = 10) -> float:
        """By what the largest sample's ``v`` grows in a round, after some rounds: the spectral radius of J."""
        grown = v.new_zeros(len(v))
        for _ in range(rounds):
            v = torch.nn.functional.normalize(v, dim=1)
            v = self(v)
            grown = v.norm(dim=1)
        return float(grown.max())

    def _pull(self, heads: list[Tensor], credits: list[Tensor]) -> Tensor:
        found = torch.autograd.grad(heads, self.state, credits, retain_graph=True, allow_unused=True)
        return flat([torch.zeros_like(s) if g is None else g for g, s in zip(found, self.state, strict=True)])


def _last(net: Network) -> list[Node]:
    """The neurons that no other reads within a step."""
    return [node for node in net.neurons if not net.readers(node)]


def flat(tensors: list[Tensor]) -> Tensor:
    """Tensors ``[1, B, ...]`` side by side, ``[B, n]``."""
    return torch.cat([tensor[0].flatten(1) for tensor in tensors], 1)


def feedback_synapses(net: Network) -> list[Node]:
    """The synapses that read a closing delay through glue alone."""
    return [node for node in net.synapses if any(net.closes_cycle(origin) for origin in net.origins(node))]


def unsolved(net: Network, loop: Loop, solution: Solution) -> str:
    """What to say of a gradient that the solver did not find."""
    names, found = ", ".join(node.name for node in feedback_synapses(net)), solution
    return (
        f"the gradient through the feedback {names} is not exact: after {found.steps} steps ({found.status}) the "
        f"residual is {found.residual:.1e} of dL/da. The loop's gain, {loop.gain(found.value):.2f}, must stay below 1: "
        "restrict the feedback with --model.restriction spectral, give the solver more --rule.solver.steps, or choose "
        "--rule.solver gmres"
    )


def strong_feedback(lesson: Lesson, walk: RateWalk) -> Iterator[str]:
    """A warning for each feedback synapse that alone can make a rate grow without end."""
    for node in feedback_synapses(lesson.net):
        reader = lesson.net.reader(node)
        if reader is None:
            continue
        norm = operator_norm(node.module, tuple(walk.record.pres[node.index].shape[2:]))
        gain = norm * float(walk.laws[reader.index].gain)
        if gain >= 1:
            yield (
                f"the feedback {node.name} has norm {norm:.2f}, which is {gain:.2f} of what a spike of {reader.name} "
                "costs; at 1 and above rates need not settle, and gradients need not exist: restrict it with "
                "--model.restriction spectral, or raise --neuron.threshold"
            )


class IDEOptions(Choice):
    """Options of IDE."""

    solver: SolverChoice = Field(solvers.parse("fixed-point"), description="how (I - J^T) beta = dL/da is solved")
    linearise: Literal["rate", "map"] = Field(
        "rate", description="where J is taken: at the measured rates, or at what the network makes of them"
    )


rules.register(
    "ide",
    IDEOptions,
    lambda choice: IDE(solvers.build(choice.solver), choice.linearise),
    "implicit differentiation on the equilibrium state of networks with feedback",
    brings={
        "neuron": {"name": "if", "threshold": 2.0},
        "objective": {"name": "readout", "reduce": "weighted"},
        "model": {"name": "feedback", "layers": "400", "back": "400"},
        "optim": {"name": "momentum", "lr": 0.05, "weight_decay": 5e-4, "decay_all": True},
        "train": {"steps": 5},
    },
    facts={"paper": "Xiao et al. 2021", "published": "equations, code, results", "inferred": "none"},
)
