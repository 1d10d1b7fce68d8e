"""Onward as a contender: ``python -m benchmarks.ours``, driven as `benchmarks.peers.protocol` says.

One update is what `onward train` does for a mini-batch: the walk in chunks of time, the deposits, one step of Adam.
Events stay sparse rows; still images stay one frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import onward
from benchmarks.peers.protocol import (
    LEARNING_RATE,
    Arrays,
    Contender,
    Task,
    event_rows,
    gradients,
    labels,
    load_weights,
    serve,
    still_frames,
)
from onward.core.errors import ConfigError
from onward.core.interpret import Record, shapes
from onward.core.run import auto_chunk, fit_chunk
from onward.rules import rules

PRECISIONS = {"f32": None, "bf16": torch.bfloat16}


def check_precision(precision: str) -> None:
    """Raises `ConfigError` for a precision that Onward's rules do not compute in."""
    if precision not in PRECISIONS:
        known = " or ".join(PRECISIONS)
        raise ConfigError(f"--precision {precision} was given; Onward's rules compute in {known}")


def sequences(task: Task) -> list[onward.Sequence]:
    """The inputs of each mini-batch, as sparse as they are."""
    still = still_frames(task)
    if still is not None:
        return [onward.Static(x, task.steps) for x in still]
    size, features = len(labels(task)[0]), tuple(task.features)
    return [onward.Events(*rows, task.steps, size, features) for rows in event_rows(task)]


def build_network(task: Task) -> onward.Network:
    """The network of the task; the options ``reset_scale`` and ``detach_reset`` imitate other libraries' neurons."""
    reset = onward.SoftReset(task.options.get("reset_scale", 1.0))
    detach = task.options.get("detach_reset", True)
    model = {"name": "layers", "spec": task.layers, "norm": "batch" if task.norm else "none"}
    features = tuple(task.features)
    return onward.models.build(model, features, task.classes, lambda: onward.LIF(reset=reset, detach_reset=detach))


class Ours(Contender):
    """A network of Onward under the rule of the task; ``options`` may hold ``rule``, ``chunk`` and the above."""

    def __init__(self, task: Task):
        check_precision(task.precision)
        self.inputs, self.labels, self.net = sequences(task), labels(task), build_network(task)
        load_weights(self.net, task.weights)
        self.objective, self.draws = onward.PerStep(onward.CrossEntropy()), onward.KeyedDraws(0)
        self.rule = onward.rules.build({**task.options.get("rule", {}), "name": task.rule})
        self.rule.bind(self.net, self.objective, self.inputs[0], self.draws)
        self.sink = onward.GradSink(self.net, PRECISIONS[task.precision])
        parameters = [*self.net.parameters(), *self.rule.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
        self.chunk = self._chunk(task.options.get("chunk"))
        self.settings = f"chunks of {self.chunk} of {task.steps} steps"

    def _chunk(self, asked: int | None) -> int:
        """As `onward train` chooses it."""
        first = self.inputs[0]
        chunk = asked or auto_chunk(shapes(self.net, first, self.draws), first.batch, first.steps)
        return fit_chunk(
            self.net, self.rule, min(chunk, first.steps), first.steps, online=self.rule.traits.updates == "step"
        )

    def backward(self, number: int, watch: Any = None) -> None:
        """Leaves the gradients of mini-batch ``number`` in the parameters."""
        place = number % len(self.inputs)
        x, y = self.inputs[place], self.labels[place]
        ids = torch.arange(x.batch) + place * x.batch
        onward.run_sequence(
            self.net,
            self.rule,
            self.objective,
            x,
            y,
            self.sink,
            draws=self.draws,
            ids=ids,
            sequence=number,
            chunk=self.chunk,
            watch=watch,
        )
        self.sink.flush()

    def learn(self, number: int) -> None:
        """See `Contender.learn`."""
        self.backward(number)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def probe(self) -> Arrays:
        """See `Contender.probe`."""
        counts: dict[int, Tensor] = {}
        outs: list[Tensor] = []

        def watch(record: Record) -> None:
            outs.append(record.out.detach())
            for index, firing in record.firings.items():
                spikes = firing.out.detach().float().sum(0)
                counts[index] = counts.get(index, torch.zeros(())) + spikes

        self.optimizer.zero_grad()
        self.backward(0, watch)
        spikes = {f"spikes {i}": counts[index].numpy() for i, index in enumerate(sorted(counts))}
        return {**spikes, "out": torch.cat(outs).numpy(), **gradients(self.net)}


def noise(rule: str, options: dict[str, Any]) -> str:
    """The noise that a rule injects, in words; empty where it injects none."""
    spatial = rules.parse({**options, "name": rule}).model_dump().get("spatial", {})
    if "law" not in spatial:
        return ""
    shared = "every sample" if spatial["per_sample"] else "the whole batch"
    law, place, schedule = (spatial[key]["name"] for key in ("law", "position", "schedule"))
    return f"{law} noise of strength {spatial['alpha']} {place} the neuron, in {schedule}, drawn for {shared}"


if __name__ == "__main__":
    serve(Ours)
