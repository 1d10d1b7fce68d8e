"""What Onward computes for the cases of DSR: neurons alone, and networks whose outputs are spikes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.runs import Results
from golden.spied import Spied
from onward.core import CrossEntropy, Frames, GradSink, KeyedDraws, Network, run_sequence
from onward.core.objective import Readout, Weighted
from onward.core.rates import shares
from onward.core.rule import Lesson
from onward.neurons import Graded, GradedIF, GradedLIF
from onward.rules.dsr import DSR, Averaged

IMAGENET_FACTOR = 0.001
"""Of the threshold's gradient in the separate copy for ImageNet."""
_INPUTS = re.compile(r"x|y|g|vth|vth_clamped_run|x_clamped_run")


def dsr(trial: Trial) -> Results:
    """Everything that Onward has to say about a case of DSR."""
    unread = [name for name in trial.inputs if not _INPUTS.fullmatch(name)]
    if unread:
        raise Unreadable(f"inputs that the checker would not use: {', '.join(unread)}")
    return _network(trial) if "y" in trial.inputs else _alone(trial)


def _neuron(trial: Trial, threshold: float) -> Graded:
    alpha, floor = trial.setting("alpha"), trial.setting("Vth_bound")
    if trial.setting("kind") == "if":
        return GradedIF(threshold, alpha, floor=floor)
    if trial.setting("kind") != "lif":
        raise Unreadable(f"unknown kind {trial.setting('kind')!r}; known: if, lif")
    return GradedLIF(threshold, alpha, tau=trial.setting("tau"), dt=trial.setting("delta_t"), floor=floor)


def _alone(trial: Trial) -> Results:
    yield from _fired(trial, trial.x, trial.input("vth"))
    if "x_clamped_run" in trial.inputs:
        for name, value in _fired(trial, trial.input("x_clamped_run"), trial.input("vth_clamped_run")):
            yield f"clamped_run.{name}", value


def _fired(trial: Trial, x: Tensor, threshold: Tensor) -> Results:
    node = _neuron(trial, float(threshold)).to(x.dtype)
    assert isinstance(node.threshold, nn.Parameter)
    node.threshold.data.copy_(threshold)
    drive = x.clone().requires_grad_()
    firing = node.simulate(x, node.start(x[0]))
    out = Averaged(len(x), node.decay, collapse="weighted")(node.rate_law, drive, firing.out)
    dx, dvth = torch.autograd.grad((out * trial.input("g")).sum(), [drive, node.threshold])
    weights = shares(len(x), node.decay, x)
    yield from {
        "spike": firing.out,
        "h": firing.potential,
        "rep_in": (x * weights).sum(0),
        "rep_out": (firing.out * weights).sum(0),
        "dx": dx,
        "dvth": dvth,
        "imagenet_dvth": IMAGENET_FACTOR * dvth,
        "vth_after_forward": node.threshold.detach(),
    }.items()


class _Looking(DSR):
    """Takes the gradient at every neuron's drive before it learns."""

    currents: dict[int, Tensor]
    posts: dict[int, Tensor]

    def finish(self, lesson: Lesson) -> None:
        """See `DSR.finish`."""
        record = lesson.carry.records[0]  # type: ignore[attr-defined]
        weights = shares(lesson.context.steps, self.leak, record.out)
        drives = list(record.inputs.values())
        found = torch.autograd.grad(record.out, drives, self.errors(lesson) * weights, retain_graph=True)
        self.currents = {index: drive.detach() for index, drive in record.inputs.items()}
        self.posts = dict(zip(record.inputs, found, strict=True))
        super().finish(lesson)


def _network(trial: Trial) -> Results:
    whole = _Looking(collapse="weighted")
    net, sink, loss, firings = _taught(trial, whole)
    first = net.synapses[0]
    yield "loss", loss
    yield from _gradients(net)
    yield "grad.x", sink.before(first, trial.x.shape[1:])
    weights = shares(trial.steps, whole.leak, trial.x)
    for index, firing in firings.items():
        name, flat = net.nodes[index].name, weights.view(-1, *[1] * (firing.dim() - 1))
        yield f"spike.{name}", firing
        yield f"current.{name}", whole.currents[index]
        yield f"dcurrent.{name}", whole.posts[index]
        yield f"rep_in.{name}", (whole.currents[index] * flat).sum(0)
        yield f"rep_out.{name}", (firing * flat).sum(0)
    yield "out", (firings[net.neurons[-1].index] * weights).sum(0)
    for name, buffer in net.named_buffers():
        yield f"buffer_after.{name}", buffer
    if trial.setting("kind") == "if":  # without leak, the rule of two sums a layer must agree too
        yield from _gradients(_taught(trial, DSR())[0])


def _taught(trial: Trial, rule: DSR) -> tuple[Network, Spied, Tensor, dict[int, Tensor]]:
    net = Network(_layers(trial)).to(trial.x.dtype)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(_param(trial, name.replace("threshold", "vth")))
    leak: Any = net.neurons[0].module.decay
    objective, x, firings = Readout(CrossEntropy(), Weighted(leak)), Frames(trial.x), {}
    rule.bind(net, objective, x, KeyedDraws(0))
    sink = Spied(GradSink(net))

    def watch(record: Any) -> None:
        for index, firing in record.firings.items():
            firings.setdefault(index, []).append(firing.out)

    loss = run_sequence(net, rule, objective, x, trial.input("y"), sink, draws=KeyedDraws(0), watch=watch).loss
    sink.flush()
    return net, sink, loss, {index: torch.cat(chunks) for index, chunks in firings.items()}


def _gradients(net: Network) -> Results:
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        yield f"grad.{name.replace('threshold', 'vth')}", parameter.grad


def _param(trial: Trial, name: str) -> Tensor:
    if name not in trial.params:
        raise Unreadable(f"there is no tensor 'param.{name}'; parameters: {', '.join(trial.params)}")
    return trial.params[name]


def _layers(trial: Trial) -> nn.Sequential:
    """fc1 [bn1] neu1 fc2 ..., or conv1 [bn1] neu1 pooling ... fc [bnout] neuout."""
    layers = nn.Sequential()
    if trial.setting("arch") == "mlp":
        for i in range(1, len(trial.setting("sizes"))):
            _add(layers, trial, f"fc{i}", f"bn{i}", f"neu{i}")
        return layers
    for i, block in enumerate(trial.setting("conv_cfg"), 1):
        _add(layers, trial, f"conv{i}", f"bn{i}", f"neu{i}")
        for place, item in enumerate(block[1:]):
            if item != "M":
                raise Unreadable(f"conv_cfg has {item!r}; expected numbers of filters and 'M'")
            layers.add_module(f"pool{i}-{place}", nn.AvgPool2d(2))
    layers.add_module("flatten", nn.Flatten())
    _add(layers, trial, "fc", "bnout", "neuout")
    return layers


def _add(layers: nn.Sequential, trial: Trial, synapse: str, norm: str, neuron: str) -> None:
    """A synapse in the shape of its weights, its norm where it has one, its neurons."""
    weight, bias = _param(trial, f"{synapse}.weight"), f"{synapse}.bias" in trial.params
    out, into, *kernel = weight.shape
    if kernel:
        layers.add_module(synapse, nn.Conv2d(into, out, tuple(kernel), padding=kernel[0] // 2, bias=bias))  # type: ignore[arg-type]
    else:
        layers.add_module(synapse, nn.Linear(into, out, bias=bias))
    if f"{norm}.weight" in trial.params:
        layers.add_module(norm, (nn.BatchNorm2d if kernel else nn.BatchNorm1d)(out))
    layers.add_module(neuron, _neuron(trial, trial.config.get("Vth", 1.0)))
