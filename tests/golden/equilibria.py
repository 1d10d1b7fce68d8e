"""What Onward computes for the cases of IDE: gradients at the measured rates and at the equilibrium itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from golden.cases import Trial, Unreadable
from golden.full_model import full_model
from golden.loops import INNER, Loop, Taught, sequence, teach
from golden.runs import Results
from onward.core import Network
from onward.core.graph import Node
from onward.core.interpret import run_walk
from onward.core.rates import EVIDENCE, RateWalk, leaf, rate_laws
from onward.core.rule import Lesson
from onward.core.signal import Signal, dense
from onward.rules.ide import IDE
from onward.solvers import Operator, Solution, Solver, solvers

_INPUTS = re.compile(r"x|y|spikes")
EXACT: dict[str, Any] = {"name": "gmres", "tolerance": 1e-15, "steps": 400, "restart": 200}
MOST_ROUNDS = 3000


def ide(trial: Trial) -> Results:
    """Everything that Onward has to say about a case of IDE."""
    unread = [name for name in trial.inputs if not _INPUTS.fullmatch(name)]
    if unread:
        raise Unreadable(f"inputs that the checker would not use: {', '.join(unread)}")
    if any(name.startswith("classifier.") for name in trial.params):
        return full_model(trial, solved(EXACT))
    return _of_spikes(trial) if "spikes" in trial.inputs else _of_frames(trial)


class Remembering:
    """Solves as another, and remembers what and how."""

    def __init__(self, solver: Solver, looks: bool = False):
        self.solver, self.looks = solver, looks
        self.solution: Solution | None = None
        self.radius = torch.empty(0)

    def solve(self, operator: Operator, g: Tensor, start: Tensor | None = None) -> Solution:
        """See `Solver.solve`; notes the spectral radius, where it ``looks``, while the graph still stands."""
        self.solution = self.solver.solve(operator, g, start)
        self.radius = radius(operator, g) if self.looks else self.radius
        return self.solution


def solved(how: dict[str, Any], looks: bool = False) -> Remembering:
    """A solver that remembers."""
    return Remembering(solvers.build(how), looks)


class AtRest(IDE):
    """IDE at the fixed point of the network of rates, found by repeating it, in place of what spikes measured."""

    def finish(self, lesson: Lesson) -> None:
        """See `IDE.finish`."""
        state = {node.index: leaf(value) for node, value in self._start(lesson)}
        for _ in range(MOST_ROUNDS):
            walk = RateWalk(lesson, rate_laws(lesson.net), {}, state)
            with torch.no_grad():
                run_walk(walk, self.inputs(lesson))
            ahead = {i: to.detach() for i, to in walk.ahead.items()}
            moved = max(float((to - dense(state[i].sent).detach()).abs().max()) for i, to in ahead.items())
            state = {i: leaf(Signal(to, to)) for i, to in ahead.items()}
            if moved <= torch.finfo(ahead[next(iter(ahead))].dtype).eps:
                break
        self.rest = {index: rate.detach() for index, rate in {**walk.mapped, **walk.ahead}.items()}
        still = walk.record.out.detach().expand(lesson.context.steps, -1, -1)
        lesson.carry.sums[EVIDENCE] = lesson.objective.reduce(None, still)
        super().finish(lesson)

    def measured(self, lesson: Lesson, nodes: Iterable[Node]) -> dict[int, Signal]:
        """See `RateRule.measured`."""
        found = self.rest if hasattr(self, "rest") else {}
        return {node.index: Signal(found[node.index], found[node.index]) for node in nodes}

    def _start(self, lesson: Lesson) -> list[tuple[Node, Signal]]:
        return [(node, IDE.measured(self, lesson, [node])[node.index]) for node in lesson.net.closing]


def _loop(trial: Trial, leak: float) -> Loop:
    rate = next(value for key, value in trial.stored.items() if re.fullmatch(r"(T\d+|if|lif)\.rate", key))
    counted = [key for key in trial.stored if key.startswith("count_rate.layer")]
    sizes = [trial.stored[key].shape[1:] for key in sorted(counted)] or [rate.shape[1:]]
    return Loop(trial, leak, trial.setting("vth"), sizes)


def _rule(trial: Trial, solver: Any) -> IDE:
    several = any(INNER.fullmatch(name.rpartition(".")[0]) for name in trial.params)
    return IDE(solver, "map" if several else "rate")


def _of_frames(trial: Trial) -> Results:
    leak = trial.setting("leak") or 1.0
    asked, trained = trial.setting("T"), trial.config.get("T_train")
    for steps in asked if isinstance(asked, list) else [asked]:
        loop, solver = _loop(trial, leak), solved(EXACT)
        taught = teach(loop.net, _rule(trial, solver), sequence(trial, steps), trial.input("y"), leak)
        found = dict(_results(loop, taught, solver))
        yield from ((f"T{steps}.{name}", value) for name, value in found.items())
        yield from ((f"T{steps}.exact.{name}", value) for name, value in found.items())
        if steps == trained:
            yield from _of_spike_trains(taught)
    if any(name.startswith("equilibrium.") for name in trial.stored):
        yield from (("equilibrium." + name, value) for name, value in _at_rest(trial, leak))


def _of_spike_trains(taught: Taught) -> Results:
    yield "spikes", taught.spikes[-1].to(torch.uint8)
    yield "min_margin", torch.tensor(taught.margin, dtype=torch.float64)
    for place, spikes in enumerate(taught.spikes, 1):
        yield f"count_rate.layer{place}", spikes.mean(0)


def _results(loop: Loop, taught: Taught, solver: Remembering) -> Results:
    rate, errors = taught.rates(loop.leak)[-1], taught.sink.posts[loop.net.synapses[-1].index]
    yield from {"rate": rate, "logits": taught.logits, "loss": taught.loss}.items()
    yield from _credits(loop.net, solver, errors, rate.shape)
    yield from ((f"grad.{name}", grad) for name, grad in loop.gradients)
    first = loop.net.synapses[0]
    if "x" in loop.trial.inputs:
        yield "grad.in.x", taught.sink.before(first, loop.trial.x.shape)[0]


def _credits(net: Network, solver: Remembering, errors: Tensor, shape: torch.Size) -> Results:
    """dL/da, and beta = dL/da + J^T beta."""
    readout: Any = net.synapses[-1].module
    given = (errors[0] @ readout.weight.detach()).view(shape)
    yield "dloss_drate", given
    assert solver.solution is not None
    yield "beta", given + solver.solution.value.view(shape)


def _at_rest(trial: Trial, leak: float) -> Results:
    """The true fixed point, and the exact gradients there."""
    loop, solver = _loop(trial, leak), solved(EXACT, looks=True)
    rule = AtRest(solver)
    taught = teach(loop.net, rule, sequence(trial, 4), trial.input("y"), leak)
    rate = rule.rest[loop.net.closing[0].index][0]
    found = dict(_results(loop, taught, solver))
    losses = torch.nn.functional.cross_entropy(_logits(loop.net, rate), trial.input("y"))
    yield from {**found, "rate": rate, "loss": losses, "residual": torch.zeros_like(losses)}.items()
    yield "spectral_radius", solver.radius


def _logits(net: Network, rate: Tensor) -> Tensor:
    readout: Any = net.synapses[-1].module
    return readout(rate.flatten(1)).detach()


def radius(operator: Operator, like: Tensor) -> Tensor:
    """The largest |eigenvalue| over the batch, of the matrix itself."""
    units = torch.eye(like.shape[1], dtype=like.dtype)
    matrix = torch.stack([operator(unit.expand_as(like)) for unit in units], 1)
    return torch.linalg.eigvals(matrix).abs().max()


def _of_spikes(trial: Trial) -> Results:
    """Spike trains as input, IF and LIF."""
    (steps,) = {trial.setting("T")} if isinstance(trial.setting("T"), int) else set(trial.setting("T"))
    for name, leak in {"if": 1.0, "lif": trial.setting("lif_leak")}.items():
        loop, solver, x = _loop(trial, leak), solved(EXACT), sequence(trial, steps)
        taught = teach(loop.net, _rule(trial, solver), x, trial.input("y"), leak)
        found = {**dict(_results(loop, taught, solver)), "averaged_input": x.mean(leak)}
        found["averaged_input_intended"] = found["averaged_input"]
        found["grad.in.x"] = found["grad.in.spikes"] = taught.sink.before(loop.net.synapses[0], x.mean().shape)[0]
        yield from ((f"{name}.{key}", value) for key, value in found.items())
        yield from ((f"{name}.intended.{key}", value) for key, value in found.items())
