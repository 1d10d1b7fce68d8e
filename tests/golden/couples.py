"""What Onward computes for the cases of SPIDE: both spiking stages, and the exact solutions that they approach."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from golden.cases import Trial, Unreadable
from golden.equilibria import EXACT, AtRest, radius, solved
from golden.loops import Loop, Taught, sequence, teach
from golden.runs import Results
from onward.rules.spide import SPIDE, Couples, Currents, CutWalk
from onward.solvers import solvers
from onward.weights import probed_norm, shrink

_INPUTS = re.compile(r"x|y|spikes")
_NORMS = {"noise", "upstream", "weight"}


def spide(trial: Trial) -> Results:
    """Everything that Onward has to say about a case of SPIDE."""
    if trial.inputs.keys() == _NORMS:
        return _restricted(trial)
    unread = [name for name in trial.inputs if not _INPUTS.fullmatch(name)]
    if unread:
        raise Unreadable(f"inputs that the checker would not use: {', '.join(unread)}")
    return _of_spikes(trial) if "spikes" in trial.inputs else _of_frames(trial)


def _restricted(trial: Trial) -> Results:
    """A feedback weight shortened by the estimate of its norm, and the gradient through it."""
    weight, to = trial.input("weight").clone().requires_grad_(), trial.setting("norm_range")
    estimate = probed_norm(weight.detach(), trial.input("noise"))
    short = shrink(weight, estimate, to)
    (grad,) = torch.autograd.grad(short, weight, trial.input("upstream"))
    yield from {"effective_weight": short, "grad_weight": grad, "estimate": estimate}.items()
    yield "true_norm", weight.detach().norm()


class Watched(SPIDE):
    """Keeps what the backward stage did, step by step."""

    walk: CutWalk
    layers: dict[int, Couples]
    given: Currents

    def spike_back(self, walk: CutWalk, errors: Tensor) -> dict[int, Couples]:
        """See `SPIDE.spike_back`."""
        self.walk, self.given = walk, walk.pull(walk.record.out, errors)
        self.totals: list[dict[int, Tensor]] = []
        self.layers = super().spike_back(walk, errors)
        return self.layers

    def _step_back(self, walk: CutWalk, couples: dict[int, Couples], given: Currents, arriving: Currents) -> Currents:
        after = super()._step_back(walk, couples, given, arriving)
        self.totals.append({index: layer.memory.total.clone() for index, layer in couples.items()})
        return after

    def fired(self, index: int, steps: int) -> Tensor:
        """q of the first steps, ``[steps, B, ...]``."""
        sums = [torch.zeros_like(self.totals[0][index]), *(total[index] for total in self.totals[:steps])]
        emitted = [now - self.law.leak * before for before, now in pairwise(sums)]
        return torch.cat(emitted).div(self.law.charge).round().to(torch.int8)


class Solved(Watched):
    """The exact solution of the loop with the same masks and rates, in the place of the backward stage."""

    def spike_back(self, walk: CutWalk, errors: Tensor) -> dict[int, Couples]:
        """See `SPIDE.spike_back`."""
        layers = super().spike_back(walk, errors)
        like = {index: layer.mask for index, layer in layers.items()}
        g = self._flat({i: self.given.get(i, torch.zeros_like(m)) for i, m in like.items()})

        def operator(v: Tensor) -> Tensor:
            return self._flat(self._once(walk, layers, self._split(v, like), like))

        betas = self._split(solvers.build(EXACT).solve(operator, g).value, like)
        self.radius = radius(operator, g) ** len(layers)  # once around the loop is one step of every layer
        for index, layer in layers.items():
            layer.memory.total.copy_(betas[index] * self.weight)
        return layers

    @property
    def weight(self) -> float:
        """What a mean is divided by."""
        return sum(self.law.leak**t for t in range(self.steps))

    def _once(self, walk: CutWalk, layers: dict[int, Couples], v: Currents, like: Currents) -> Currents:
        found = {index: torch.zeros_like(mask) for index, mask in like.items()}
        for index, layer in layers.items():
            for source, back in walk.pull(walk.record.inputs[index], layer.mask * v[index] * layer.gain).items():
                ends = walk.pull(walk.ahead[source], back) if source in walk.ahead else {source: back}
                for end, current in ends.items():
                    found[end] = found[end] + current
        return found

    @staticmethod
    def _flat(currents: Currents) -> Tensor:
        return torch.cat([current[0].flatten(1) for current in currents.values()], 1)

    @staticmethod
    def _split(v: Tensor, like: Currents) -> Currents:
        parts = v.split([mask[0, 0].numel() for mask in like.values()], 1)
        return {i: part.reshape(mask.shape) for part, (i, mask) in zip(parts, like.items(), strict=True)}


def _rule(kind: type[Watched], trial: Trial, steps: int, leak: float, **more: Any) -> Any:
    threshold, rest = trial.setting("vth_back"), trial.config.get("u_rest_back")
    return kind(trial.setting("scale_factor"), steps, threshold, rest, leak, **more)


def _loop(trial: Trial, leak: float) -> Loop:
    shown = {key.rpartition(".")[2]: v.shape[1:] for key, v in trial.stored.items() if "mask.layer" in key}
    threshold, rest = trial.setting("vth"), trial.config.get("u_rest")
    gap = threshold - (-threshold if rest is None else rest)
    return Loop(trial, leak, gap, [shown[name] for name in sorted(shown)])


def _of_frames(trial: Trial) -> Results:
    leak, steps, y = trial.setting("leak") or 1.0, trial.setting("T"), trial.input("y")
    loop = _loop(trial, leak)
    for asked in trial.setting("Ts"):
        rates = teach(loop.net, _rule(Watched, trial, 1, leak), sequence(trial, asked), y, leak).rates(leak)
        yield from ((f"forward.T{asked}.rate.layer{i}", rate) for i, rate in enumerate(rates, 1))
    for stage, back in {"backward": leak, "backward_IF": 1.0}.items():
        for long in trial.setting("TB"):
            rule = _rule(Watched, trial, long, back)
            taught = teach(loop.net, rule, sequence(trial, steps), y, leak)
            yield from ((f"{stage}.TB{long}.{name}", value) for name, value in _backward(loop, rule))
            if stage == "backward":
                yield from _once_a_case(trial, loop, rule, taught)
    rule = _rule(Solved, trial, 1, 1.0)
    teach(loop.net, rule, sequence(trial, steps), y, leak)
    yield from ((f"exact.{name}", value) for name, value in _backward(loop, rule))
    yield "exact.loop_spectral_radius", rule.radius
    if any(name.startswith("equilibrium.") for name in trial.stored):
        yield from ((f"equilibrium.{name}", value) for name, value in _at_rest(trial, loop, leak))


def _once_a_case(trial: Trial, loop: Loop, rule: Watched, taught: Taught) -> Results:
    yield from {"logits": taught.logits, "loss": taught.loss}.items()
    last = loop.net.neurons[-1].index
    yield "injected_grad", rule.given[last][0]
    for place, node in enumerate(loop.net.neurons, 1):
        yield f"mask.layer{place}", rule.walk.between(node)[0]
        yield f"couples.layer{place}", rule.fired(node.index, trial.config.get("nstep", 1))


def _backward(loop: Loop, rule: Watched) -> Results:
    for place, node in enumerate(loop.net.neurons, 1):
        layer = rule.layers[node.index]
        yield f"beta.layer{place}", layer.beta()[0]
        yield f"firing_rate.layer{place}", layer.memory.fired[0] / rule.steps
        yield f"final_u.layer{place}", rule.law.leak * layer.memory.u[0]
    yield from ((f"grad.{name}", rule.scale * grad) for name, grad in loop.gradients)


def _at_rest(trial: Trial, loop: Loop, leak: float) -> Results:
    solver = solved(EXACT)
    rule = AtRest(solver)
    taught = teach(loop.net, rule, sequence(trial, 4), trial.input("y"), leak)
    for place, node in enumerate(loop.net.neurons, 1):
        yield f"rate.layer{place}", rule.rest[node.index][0]
    scale, errors = trial.setting("scale_factor"), taught.sink.posts[loop.net.synapses[-1].index]
    weight: Any = loop.net.synapses[-1].module
    yield (
        "injected_grad",
        scale * (errors[0] @ weight.weight.detach()).view(rule.rest[loop.net.neurons[-1].index][0].shape),
    )
    yield from ((f"grad.{name}", scale * grad) for name, grad in loop.gradients)


def _of_spikes(trial: Trial) -> Results:
    """Spike trains as input, IF and LIF in both stages."""
    for name, leak in {"if": 1.0, "lif": trial.setting("lif_leak")}.items():
        loop, x = _loop(trial, leak), sequence(trial, trial.setting("T"))
        rule = _rule(Watched, trial, trial.setting("TB"), leak, input_mean="plain")
        taught = teach(loop.net, rule, x, trial.input("y"), leak)
        found = {**dict(_backward(loop, rule)), "loss": taught.loss}
        found |= {"averaged_input": x.mean(), "averaged_input_weighted": x.mean(leak)}
        for place, (node, rate) in enumerate(zip(loop.net.neurons, taught.rates(leak), strict=True), 1):
            found |= {f"rate.layer{place}": rate, f"mask.layer{place}": rule.walk.between(node)[0]}
        yield from ((f"{name}.{key}", value) for key, value in found.items())
