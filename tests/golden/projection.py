"""What Onward computes for the cases of HLOP: lateral rows that learn, projected gradients, two tasks of an MLP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.runs import Results
from golden.tables import HEBBIAN_RATE, HEBBIAN_RATES, SURROGATES
from onward.core import CrossEntropy, GradSink, KeyedDraws, Network, Objective, PerStep, Static, evaluate, run_sequence
from onward.core.objective import Mean, Readout, Weighted
from onward.core.rule import LearningRule
from onward.core.sink import Sink
from onward.core.synapse import Params, ops_of
from onward.credit.mirrored import FeedbackAlignment, SignSymmetric
from onward.neurons import LIF, GradedLIF
from onward.rules import rules
from onward.transforms import Analogue, Hebbian, Hlop, Spiking, Subspace, freeze_after_first
from onward.transforms.evidence import Evidence
from onward.transforms.growth import Tabled
from onward.transforms.learners import Lateral
from onward.transforms.site import EveryStep, Look, Means, Steps
from onward.transforms.subspace import gram_error
from reference.projected import InputForm, projection

_INPUTS = re.compile(
    r"x|probe|task\d+\.(x|y|H_new_rows(\.layer\d+)?)|H|H0|H_new_rows|x_second_task|W|W_back|b|trace|upstream|x_old"
    r"|param\..+"
)
TAU, DT, ALPHA, FLOOR = 1.0, 0.05, 0.3, 0.0005
"""Of the rate-based variant."""


def hlop(trial: Trial) -> Results:
    """Everything that Onward has to say about a case of HLOP."""
    unread = [name for name in trial.inputs if not _INPUTS.fullmatch(name)]
    if unread:
        raise Unreadable(f"inputs that the checker would not use: {', '.join(unread)}")
    if any(name.startswith("param.") for name in trial.inputs):
        return _mlp(trial)
    if "W" in trial.inputs:
        return _layer(trial)
    return _long(trial) if "x_second_task" in trial.inputs else _hebbian(trial)


@dataclass
class Noted(Lateral):
    """Lateral neurons whose rows are copied before every iteration."""

    inner: Lateral
    rows: list[Tensor]
    shares = True

    def __call__(self, y: Tensor) -> Tensor:
        """See `Lateral.__call__`."""
        return self.inner(y)

    def evidence(self, subspace: Subspace, patches: Any, iterations: int) -> Evidence:
        """See `Lateral.evidence`."""
        return self.inner.evidence(subspace, patches, iterations)

    def change(self, subspace: Subspace, evidence: Evidence) -> Tensor:
        """See `Lateral.change`."""
        self.rows.append(subspace.all.clone())
        return self.inner.change(subspace, evidence)


class Rows:
    """The subspace of one synapse behind `Hlop`, taught with batches of inputs."""

    def __init__(self, module: nn.Module, like: Tensor, counts: list[int], lr: float, **options: Any):
        self.net = Network(nn.Sequential(module.to(like.dtype)))
        self.node, self.sink, self.like = self.net.synapses[0], GradSink(self.net), like
        table = tuple((count,) for count in [*counts, 0])
        self.hlop = Hlop(
            self.net,
            self.sink,
            rules.build("bptt"),
            KeyedDraws(0),
            len(table),
            make=lambda place, width, like: Hebbian(width, like, lr, **options),
            growth=Tabled(table),
        )
        self.space, self.task = self.hlop.sites[0].subspace, 0

    def begin(self, rows: Tensor) -> None:
        """A task whose new rows start so."""
        self.hlop.begin_task(self.task)
        self.space.new.copy_(rows)
        self.task += 1

    def learn(self, x: Tensor, post: Tensor | None = None) -> Tensor:
        """A mini-batch ``x``; the gradient of the weight that ``post`` comes to."""
        self.hlop.open()
        like = ops_of(self.node.module).apply(self.node.module, self.sink.params(self.node), x)
        self.net.zero_grad()
        self.hlop.deposit(self.node, x[None], (torch.zeros_like(like) if post is None else post)[None])
        self.hlop.flush()
        weight: Any = self.node.module.weight
        return weight.grad


def _lateral(trial: Trial, spiking: str) -> Lateral:
    if not trial.config.get(spiking, False):
        return Analogue()
    return Spiking(trial.config.get("scale", 20.0), int(trial.config.get("timesteps", 1000)))


def _hebbian(trial: Trial) -> Results:
    counts, lateral, noted = trial.setting("k"), _lateral(trial, "spiking"), list[Tensor]()
    options: dict[str, Any] = {"iterations": trial.setting("iterations"), "lateral": Noted(lateral, noted)}
    momentum = 0.9 if trial.setting("momentum") else 0.0
    rows = Rows(_matrix(trial), trial.input("probe"), counts, trial.setting("lr"), momentum=momentum, **options)
    space, probe = rows.space, trial.input("probe")
    for task in range(len(counts)):
        rows.begin(trial.input(f"task{task}.H_new_rows"))
        for step, x in enumerate(trial.input(f"task{task}.x")):
            name = f"task{task}.step{step}"
            first = space.held if task else space.all
            yield f"{name}.P_first_subspace_before_update", projection(x, first, lateral)
            y = lateral(x @ space.all.T)
            yield from {f"{name}.y": y, f"{name}.xhat": y @ space.all}.items()
            yield f"{name}.P_old_x", projection(x, space.held, lateral)
            noted.clear()
            rows.learn(x)
            yield f"{name}.H_after_each_iteration", torch.stack([*noted[1:], space.all])
            yield f"{name}.H", space.all.clone()
            yield f"{name}.M", space.momentum[: len(space.all)].clone()
        parts = {"all": space.all, "old": space.held, "new": space.new}
        yield from ((f"task{task}.probe_projection_{k}", projection(probe, h, lateral)) for k, h in parts.items())
        rows.hlop.end_task()
    yield "final.HHt", space.all @ space.all.T
    yield "final.M_after_merge", space.momentum[: len(space.all)].clone()


def _matrix(trial: Trial) -> nn.Module:
    return nn.Linear(trial.setting("n"), 1, bias=False)


def _long(trial: Trial) -> Results:
    first, second = trial.x, trial.input("x_second_task")
    rows = Rows(_matrix(trial), first, [trial.setting("k"), trial.setting("k2")], trial.setting("lr"))
    space = rows.space
    for start, data in ((trial.input("H0"), first), (trial.input("H_new_rows"), second)):
        rows.begin(start)
        for _ in range(trial.setting("epochs")):
            for x in data:
                rows.learn(x)
        rows.hlop.end_task()
        if data is first:
            yield "H_first", space.all.clone()
            yield "principal_cosines_first", _cosines(space.all, first.flatten(0, 1), trial.setting("rank"))
            yield "gram_error_first", first.new_tensor(gram_error(space.all))
            yield "residual_fraction_first_task", _residual(first, space.all)
    yield "H_both", space.all
    yield "residual_fraction_second_task", _residual(second, space.all)
    old, new = space.all.split([trial.setting("k"), trial.setting("k2")])
    yield "old_new_overlap", (old @ new.T).abs().max()


def _cosines(h: Tensor, x: Tensor, rank: int) -> Tensor:
    leading = torch.linalg.eigh(x.T @ x)[1][:, -rank:]
    return torch.linalg.svdvals(torch.linalg.qr(h.T)[0].T @ leading)


def _residual(x: Tensor, h: Tensor) -> Tensor:
    return (x - projection(x, h)).norm() / x.norm()


def _layer(trial: Trial) -> Results:
    """One synapse: gradients with and without projection, of inputs and traces, errors sent back in three ways."""
    h, x, trace = (trial.input(name) for name in ("H", "x", "trace"))
    patches = ops_of(_synapse(trial)).patches(_synapse(trial), x)
    if x.dim() > 2:
        yield from {"patches": patches, "P_patches": projection(patches, h)}.items()
        yield from _input_form(trial, patches - projection(patches, h))
        yield from _patches_learned(trial)
    else:
        yield from {"P_x": projection(x, h), "x_minus_P_x": x - projection(x, h)}.items()
    for name, pre, projected in (("plain", x, 0), ("trace", trace, 0), ("proj", x, 1), ("trace_proj", trace, 1)):
        rows, grad = _gradient(trial, pre, bool(projected))
        mode = "proj_weight" if name == "proj" and x.dim() > 2 else name
        yield from _told(mode, trial, rows, grad, rows.sink.params(rows.node))
        for way, back in _mirrors(trial, rows):
            yield from _told(f"{way}_{name}", trial, rows, grad, back)
        if "x_old" in trial.inputs:
            yield f"{name}.old_output_change", _moved(trial, rows, grad)


def _synapse(trial: Trial) -> nn.Module:
    weight = trial.input("W")
    if weight.dim() == 2:
        module: Any = nn.Linear(weight.shape[1], len(weight))
    else:
        kinds = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
        out, into, *kernel = weight.shape
        extra = {"dilation": trial.config["dilation"]} if "dilation" in trial.config else {}
        module = kinds[weight.dim()](
            into, out, tuple(kernel), stride=trial.setting("stride"), padding=trial.setting("pad"), **extra
        )
    module.weight.data, module.bias.data = weight.clone(), trial.input("b").clone()
    return module


def _gradient(trial: Trial, pre: Tensor, projected: bool) -> tuple[Rows, Tensor]:
    rows = Rows(_synapse(trial), pre, [len(trial.input("H"))], HEBBIAN_RATE)
    if projected:
        rows.begin(trial.input("H"))
        rows.hlop.end_task()
        rows.hlop.begin_task(1)
    return rows, rows.learn(pre, trial.input("upstream"))


def _told(mode: str, trial: Trial, rows: Rows, grad: Tensor, back: Params) -> Results:
    module: Any = rows.node.module
    ops, x, upstream = ops_of(module), trial.x, trial.input("upstream")
    yield f"{mode}.output", ops.apply(module, rows.sink.params(rows.node), x)
    yield from {f"{mode}.grad_W": grad, f"{mode}.grad_b": module.bias.grad}.items()
    yield f"{mode}.grad_x", ops.transpose(module, back, upstream, x)


def _mirrors(trial: Trial, rows: Rows) -> Iterator[tuple[str, Params]]:
    """Feedback alignment with the case's own backward weights, and sign-symmetric ones."""
    params, random, signs = rows.sink.params(rows.node), FeedbackAlignment(), SignSymmetric()
    if "W_back" in trial.inputs:
        random.register_buffer(f"b{rows.node.index}", trial.input("W_back"))
        yield "fa", random.mirror(rows.node, params)
    signs._signs = {}
    yield "ss", signs.mirror(rows.node, params)


def _moved(trial: Trial, rows: Rows, grad: Tensor) -> Tensor:
    module: Any = rows.node.module
    ops, old = ops_of(module), trial.input("x_old")
    before = ops.apply(module, rows.sink.params(rows.node), old).clone()
    module.weight.data.sub_(grad, alpha=trial.setting("lr"))
    return ops.apply(module, rows.sink.params(rows.node), old) - before


def _input_form(trial: Trial, rest: Tensor) -> Results:
    """The product with every patch projected."""
    rows, _ = _gradient(trial, trial.x, False)
    upstream = trial.input("upstream").flatten(2)
    grad = torch.einsum("bop,bpn->on", upstream, rest).view(trial.input("W").shape)
    return _told("proj_input", trial, rows, grad, rows.sink.params(rows.node))


def _patches_learned(trial: Trial) -> Results:
    h, extra = trial.input("H"), trial.input("H_new_rows")
    once = Rows(_synapse(trial), trial.x, [len(h)], HEBBIAN_RATE)
    once.begin(h)
    once.learn(trial.x)
    yield "hebb.H", once.space.all
    twice = Rows(_synapse(trial), trial.x, [len(h), len(extra)], HEBBIAN_RATE)
    twice.begin(h)
    twice.hlop.end_task()
    twice.begin(extra)
    twice.learn(trial.x)
    yield "hebb_new.H", twice.space.all


@dataclass(frozen=True)
class Variant:
    """How an MLP of the cases spikes and learns, and what its lateral rows learn from."""

    rule: Any
    objective: Objective
    look: Look
    chunks: tuple[int, ...]

    def neuron(self, trial: Trial) -> nn.Module:
        """One layer of neurons."""
        if "Vth" in trial.config:
            return GradedLIF(trial.setting("Vth"), ALPHA, tau=TAU, dt=DT, floor=FLOOR)
        return LIF(2.0, surrogate=SURROGATES["sigmoid"](4.0))


def _variant(trial: Trial) -> Variant:
    """By thresholds (dsr), or the names of weights that see traces (ottt)."""
    steps, leak = trial.setting("T"), exp(-DT / TAU)
    if "Vth" in trial.config:
        readout = Readout(CrossEntropy(), Weighted(leak))
        return Variant({"name": "dsr", "collapse": "weighted"}, readout, Means(leak), (steps,))
    if "param.fc2.op.weight" in trial.inputs:
        rule = {"name": "ottt", "temporal": {"name": "ottt", "fidelity": "reference"}}
        return Variant(rule, PerStep(CrossEntropy()), EveryStep("both"), (1, steps))
    return Variant("bptt", Readout(CrossEntropy(), Mean()), Steps(), (1, steps))


class Mlp:
    """Three synapses without biases and two layers of neurons, behind `Hlop`."""

    def __init__(self, trial: Trial, variant: Variant, chunk: int):
        self.trial, self.variant, self.chunk = trial, variant, chunk
        self.net = Network(self._layers()).to(trial.input("task0.x").dtype)
        self.names = {name: self._parameter(name) for name in self._given()}
        with torch.no_grad():
            for name, parameter in self.names.items():
                parameter.copy_(trial.input(f"param.{name}"))
        lateral = _lateral(trial, "hlop_spiking")
        inner: Sink = InputForm(GradSink(self.net), lateral) if trial.config.get("hlop_spiking") else GradSink(self.net)
        self.rule: LearningRule = rules.build(variant.rule)
        table = tuple(tuple(counts) for counts in trial.setting("k"))
        self.hlop = Hlop(
            self.net,
            inner,
            self.rule,
            KeyedDraws(0),
            len(table),
            make=lambda place, width, like: Hebbian(width, like, HEBBIAN_RATES[place > 0], lateral=lateral),
            growth=Tabled(table),
            look=variant.look,
        )
        if isinstance(inner, InputForm):
            inner.hlop = self.hlop

    def begin(self, task: int) -> None:
        """New rows; after the first task only weights learn."""
        self.hlop.begin_task(task)
        for layer, site in enumerate(self.hlop.sites, 1):
            site.subspace.new.copy_(self.trial.input(f"task{task}.H_new_rows.layer{layer}"))
        if task:
            freeze_after_first(self.net, self.hlop)

    def step(self, x: Tensor, y: Tensor) -> Results:
        """One update by plain SGD."""
        optimizer = torch.optim.SGD([p for p in self.names.values() if p.requires_grad], lr=self.trial.setting("lr"))
        static, objective, draws = Static(x, self.trial.setting("T")), self.variant.objective, KeyedDraws(0)
        self.net.zero_grad()
        self.rule.bind(self.net, objective, static, draws)
        outcome = run_sequence(self.net, self.rule, objective, static, y, self.hlop, draws=draws, chunk=self.chunk)
        self.hlop.flush()
        yield from {"output": self._read(outcome.evidence), "loss": outcome.loss}.items()
        yield from ((f"grad.{name}", p.grad.clone()) for name, p in self.names.items() if p.grad is not None)
        optimizer.step()
        yield from ((f"H.layer{layer}", site.subspace.all.clone()) for layer, site in enumerate(self.hlop.sites, 1))

    def outputs(self, task: int) -> Tensor:
        """The outputs for all batches of a task, in evaluation mode."""
        xs, ys = self.trial.input(f"task{task}.x"), self.trial.input(f"task{task}.y")
        steps = self.trial.setting("T")
        found = [evaluate(self.net, self.variant.objective, Static(x, steps), y) for x, y in zip(xs, ys, strict=True)]
        return torch.stack([self._read(outcome.evidence) for outcome in found])

    def _read(self, evidence: Tensor) -> Tensor:
        return self.variant.objective.reduce.finish(evidence, self.trial.setting("T"))

    def _given(self) -> list[str]:
        return [name.removeprefix("param.") for name in self.trial.inputs if name.startswith("param.")]

    def _layers(self) -> nn.Sequential:
        hidden, classes, inputs = (
            self.trial.setting("nh"),
            self.trial.setting("nc"),
            self.trial.input("task0.x").shape[-1],
        )
        layers = nn.Sequential()
        layers.add_module("fc1", nn.Linear(inputs, hidden, bias=False))
        layers.add_module("sn1", self.variant.neuron(self.trial))
        layers.add_module("fc2", nn.Linear(hidden, hidden, bias=False))
        layers.add_module("sn2", self.variant.neuron(self.trial))
        layers.add_module("classifiers-0", nn.Linear(hidden, classes, bias=False))
        return layers

    def _parameter(self, name: str) -> nn.Parameter:
        ours = name.replace("classifiers.0", "classifiers-0").replace(".op.", ".").replace("Vth", "threshold")
        return self.net.get_parameter(ours)


def _mlp(trial: Trial) -> Results:
    variant = _variant(trial)
    for chunk in variant.chunks:
        yield from _tasks(trial, Mlp(trial, variant, chunk))


def _tasks(trial: Trial, mlp: Mlp) -> Results:
    for task in range(len(trial.setting("k"))):
        mlp.begin(task)
        if task:
            yield f"task{task}.old_task_output_before", mlp.outputs(0)
        for step in range(trial.setting("steps")):
            found = mlp.step(trial.input(f"task{task}.x")[step], trial.input(f"task{task}.y")[step])
            yield from ((f"task{task}.step{step}.{name}", value) for name, value in found)
        mlp.hlop.end_task()
        yield f"task{task}.old_task_output_{'after' if task else 'end'}", mlp.outputs(0)
        yield from ((f"task{task}.end.param.{name}", p.detach().clone()) for name, p in mlp.names.items())
