"""Networks with feedback from the parameters that a case stores, and what the rules make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.spied import Spied
from onward.core import CrossEntropy, Frames, GradSink, KeyedDraws, LearningRule, Network, Static, run_sequence
from onward.core.containers import Feedback
from onward.core.interpret import Record
from onward.core.objective import Readout, Weighted
from onward.core.rates import shares
from onward.core.sequence import Sequence
from onward.neurons import Affine, SoftReset

INNER = re.compile(r"W_s([1-9]\d*)|W([1-9])([2-9])")
"""Connections from one layer to the next."""
_FEEDBACK = ("W_fb", "W_s")


class Loop:
    """A chain of spiking layers with feedback from the last to the first, and a linear classifier.

    ``sizes`` ``[channels, side, side]`` or ``[units]`` of the layers' spikes, where stored results show them, tell
    strides; ``gap`` is what a spike costs.
    """

    def __init__(self, trial: Trial, leak: float, gap: float, sizes: list[torch.Size]):
        self.trial, self.leak, self.gap, self.sizes = trial, leak, gap, sizes
        inner = sorted(name for name in _named(trial.params) if INNER.fullmatch(name))
        self.names = {"F_x": "loop.entry", "cls": "readout"}
        body, features = nn.Sequential(self._neuron()), sizes[0]
        for place, name in enumerate(inner, 1):
            self.names[name] = f"loop.body.{2 * place - 1}"
            body.extend([self._synapse(name, features, sizes[place]), self._neuron()])
            features = sizes[place]
        back = next((name for name in _FEEDBACK if f"{name}.weight" in trial.params), None)
        if back is None:
            raise Unreadable(f"no feedback (W_s or W_fb) among the parameters {', '.join(trial.params)}")
        self.names[back] = "loop.back"
        entry = self._synapse("F_x", self._input_size(), sizes[0])
        layers = nn.Sequential()
        layers.add_module("loop", Feedback(entry, body, self._synapse(back, features, sizes[0])))
        layers.add_module("flatten", nn.Flatten())
        layers.add_module("readout", self._synapse("cls", torch.Size([features.numel()]), torch.Size([0])))
        self.net = Network(layers).to(next(iter(trial.params.values())).dtype)
        self._load()

    @property
    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """``<connection>.<weight or bias>`` and the gradient that was flushed last."""
        for name, place in self.names.items():
            for leaf, parameter in self.net.get_submodule(place).named_parameters():
                if parameter.grad is not None:
                    yield f"{name}.{leaf}", parameter.grad

    def _input_size(self) -> torch.Size:
        return self.trial.inputs["x"].shape[1:] if "x" in self.trial.inputs else self.trial.input("spikes").shape[1:-1]

    def _neuron(self) -> Affine:
        threshold = self.trial.setting("vth")
        return Affine(self.leak, threshold=threshold, reset=SoftReset(self.gap / threshold))

    def _synapse(self, name: str, before: torch.Size, after: torch.Size) -> nn.Module:
        weight, bias = self.trial.params[f"{name}.weight"], f"{name}.bias" in self.trial.params
        if weight.dim() == 2:
            return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
        kernel, ratio = weight.shape[2], before[1] / after[1]
        if ratio < 1:
            stride = round(1 / ratio)
            return nn.ConvTranspose2d(
                weight.shape[0], weight.shape[1], kernel, stride, kernel // 2, stride - 1, bias=bias
            )
        return nn.Conv2d(weight.shape[1], weight.shape[0], kernel, round(ratio), kernel // 2, bias=bias)

    def _load(self) -> None:
        with torch.no_grad():
            for name, value in self.trial.params.items():
                label, _, leaf = name.rpartition(".")
                if label not in self.names:
                    raise Unreadable(f"the parameter {name!r} belongs to no connection; known: {', '.join(self.names)}")
                self.net.get_submodule(self.names[label]).get_parameter(leaf).copy_(value)


def _named(params: Any) -> set[str]:
    return {name.rpartition(".")[0] for name in params}


@dataclass
class Taught:
    """What one sequence left behind; ``spikes`` ``[T, B, ...]`` of every layer."""

    loss: Tensor
    logits: Tensor
    sink: Spied
    spikes: list[Tensor] = field(default_factory=list)
    margin: float = float("inf")

    def rates(self, leak: float) -> list[Tensor]:
        """The weighted rate of every layer."""
        return [(s * shares(len(s), leak, s).view(-1, *[1] * (s.dim() - 1))).sum(0) for s in self.spikes]


def teach(net: Network, rule: LearningRule, x: Sequence, y: Tensor, leak: float, sink: Spied | None = None) -> Taught:
    """One sequence under a rule, and its gradients."""
    objective = Readout(CrossEntropy(), Weighted(leak))
    rule.bind(net, objective, x, KeyedDraws(0))
    net.zero_grad(set_to_none=True)
    sink = sink or Spied(GradSink(net))
    seen: dict[int, list[Tensor]] = {node.index: [] for node in net.neurons}
    margins = [float("inf")]

    def watch(record: Record) -> None:
        for index, firing in record.firings.items():
            node: Any = net.nodes[index].module
            seen[index].append(firing.out)
            margins.append(float((firing.potential - node.threshold).abs().min()))

    done = run_sequence(net, rule, objective, x, y, sink, draws=KeyedDraws(0), watch=watch)
    sink.flush()
    logits = objective.reduce.finish(done.evidence, x.steps)
    return Taught(done.loss, logits, sink, [torch.cat(chunks) for chunks in seen.values()], min(margins))


def sequence(trial: Trial, steps: int) -> Sequence:
    """The constant input, or the recorded spikes ``[B, ..., T]``."""
    if "spikes" in trial.inputs:
        return Frames(trial.input("spikes").movedim(-1, 0)[:steps])
    return Static(trial.x, steps)
