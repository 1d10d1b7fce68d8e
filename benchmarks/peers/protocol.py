"""What every contender is, ours and the peers': a process that builds a network and learns when it is told to.

A line of JSON on standard input is an order, a line on standard output the answer:

    {"do": "build", "task": {...}}    builds network and optimiser, loads the data     {"settings": "..."}
    {"do": "step", "count": 3}        learns from that many mini-batches               {"seconds": [...]}
    {"do": "memory"}                  learns from one, watching torch's allocator      {"peak_bytes": ...}
    {"do": "probe", "file": PATH}     learns from one and writes what came of it       {}

An order that fails is answered by {"error": "..."}. This module needs torch and numpy only.
"""

from __future__ import annotations

import json
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Arrays = dict[str, np.ndarray]
Batch = tuple[Tensor, Tensor]
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Task:
    """A network, data and a rule; ``layers`` as in ``64C3-AP2-800-FC``, spiking neurons after each but FC."""

    layers: str
    features: list[int]
    classes: int
    steps: int
    norm: bool
    data: str
    weights: str
    rule: str
    precision: str = "f32"
    threads: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def plan(task: Task) -> list[tuple[Any, ...]]:
    """The layers one by one: ("linear", n, m), ("conv", n, m), ("norm", n), ("neuron",), ("pool", k), ("flatten",)."""
    shape, steps = list(task.features), []
    for token in task.layers.split("-"):
        if conv := re.fullmatch(r"(\d+)C3", token):
            steps += [("conv", shape[0], int(conv[1])), *([("norm", int(conv[1]))] if task.norm else ()), ("neuron",)]
            shape[0] = int(conv[1])
        elif pool := re.fullmatch(r"AP(\d+)", token):
            steps.append(("pool", int(pool[1])))
            shape[1:] = [side // int(pool[1]) for side in shape[1:]]
        else:
            units = task.classes if token == "FC" else int(token)
            steps += [("flatten",)] if len(shape) > 1 else []
            steps += [("linear", int(np.prod(shape)), units), *([] if token == "FC" else [("neuron",)])]
            shape = [units]
    return steps


def stateless(kind: str, *sizes: int) -> nn.Module:
    """The stock layer of one entry of the `plan` that is no neuron."""
    makers: dict[str, Callable[..., nn.Module]] = {
        "conv": lambda n, m: nn.Conv2d(n, m, 3, padding=1),
        "flatten": nn.Flatten,
        "linear": nn.Linear,
        "norm": nn.BatchNorm2d,
        "pool": nn.AvgPool2d,
    }
    return makers[kind](*sizes)


def fitted(net: nn.Module) -> dict[str, nn.Module]:
    """The layers with parameters, by names that all contenders share: 0, 1, ... and norm0, norm1, ..."""
    synapses = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    named = {str(place): module for place, module in enumerate(synapses)}
    return named | {f"norm{place}": module for place, module in enumerate(norms)}


def parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases by the names of `fitted`."""
    return {f"{name}.{key}": p for name, layer in fitted(net).items() for key, p in layer.named_parameters()}


def load_weights(net: nn.Module, file: str, gains: dict[str, float] | None = None) -> None:
    """Copies the weights of ``file``, times the ``gains`` of their layers, into the network."""
    with np.load(file) as arrays, torch.no_grad():
        for name, parameter in parameters(net).items():
            layer = name.split(".")[0]
            parameter.copy_(torch.from_numpy(arrays[name])).mul_((gains or {}).get(layer, 1.0))


def gradients(net: nn.Module, gains: dict[str, float] | None = None) -> Arrays:
    """Gradients with respect to the shared weights, of which the network holds ``gains`` times as much."""
    return {
        f"grad {name}": ((gains or {}).get(name.split(".")[0], 1.0) * parameter.grad).numpy()
        for name, parameter in parameters(net).items()
        if parameter.grad is not None
    }


def labels(task: Task) -> list[Tensor]:
    """The labels of each mini-batch."""
    with np.load(task.data) as arrays:
        return [torch.from_numpy(y) for y in arrays["y"]]


def event_rows(task: Task) -> list[tuple[Tensor, Tensor]]:
    """Indices and offsets of each mini-batch of events: row t * B + b lists what is active."""
    with np.load(task.data) as arrays:
        indices = torch.from_numpy(arrays["indices"]).long()
        offsets, starts = torch.from_numpy(arrays["offsets"]), arrays["starts"].tolist()
    return [(indices[a:b], rows) for a, b, rows in zip(starts, starts[1:], offsets, strict=False)]


def still_frames(task: Task) -> Tensor | None:
    """``[N, B, *features]`` of data that do not change over time, else None."""
    with np.load(task.data) as arrays:
        return torch.from_numpy(arrays["x"]) if "x" in arrays else None


def dense_batches(task: Task) -> list[Batch]:
    """Ready-made frames ``[T, B, *features]`` and labels: events made dense, still frames repeated."""
    still, ys = still_frames(task), labels(task)
    if still is not None:
        frames = [x.expand(task.steps, *x.shape).contiguous() for x in still]
    else:
        frames = [_scatter(task, *rows) for rows in event_rows(task)]
    return list(zip(frames, ys, strict=True))


def _scatter(task: Task, indices: Tensor, offsets: Tensor) -> Tensor:
    rows, size = len(offsets) - 1, int(np.prod(task.features))
    dense = torch.zeros(rows, size)
    dense[torch.arange(rows).repeat_interleave(offsets.diff()), indices] = 1.0
    return dense.view(task.steps, -1, *task.features)


class Contender(ABC):
    """A network with its data, optimiser and rule."""

    settings = ""

    @abstractmethod
    def learn(self, number: int) -> None:
        """One update from mini-batch ``number``, of which there are a few, in turn."""

    @abstractmethod
    def probe(self) -> Arrays:
        """``spikes i`` ``[B, ...]``: spikes of hidden layer i over time; ``out`` ``[T, B, m]``; ``grad ...``."""


class Peer(Contender, ABC):
    """A network of another library, a plain torch module; ``gains`` as in `load_weights`."""

    def __init__(self, task: Task, net: nn.Module, gains: dict[str, float] | None = None):
        self.task, self.net, self.gains = task, net, gains
        load_weights(net, task.weights, gains)
        self.batches = dense_batches(task)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)

    @abstractmethod
    def neurons(self) -> list[nn.Module]:
        """The spiking layers in order; they put out ``[T, B, ...]`` or, called once a step, ``[B, ...]``."""

    @abstractmethod
    def backward(self, number: int) -> None:
        """Leaves the gradients of mini-batch ``number`` in the parameters."""

    def learn(self, number: int) -> None:
        self.backward(number)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def context(self) -> Any:
        """Automatic mixed precision, where bf16 was asked for."""
        return torch.autocast("cpu", torch.bfloat16) if self.task.precision == "bf16" else nullcontext()

    def probe(self) -> Arrays:
        seen: dict[nn.Module, list[Tensor]] = {module: [] for module in (*self.neurons(), self.net)}
        handles = [module.register_forward_hook(_keep(kept)) for module, kept in seen.items()]
        self.optimizer.zero_grad()
        self.backward(0)
        for handle in handles:
            handle.remove()
        over_time = [kept[0] if len(kept) == 1 else torch.stack(kept) for kept in seen.values()]
        spikes = {f"spikes {i}": s.sum(0).numpy() for i, s in enumerate(over_time[:-1])}
        return {**spikes, "out": over_time[-1].numpy(), **gradients(self.net, self.gains)}


def _keep(kept: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, list | tuple) else output
        kept.append(first.detach().float())

    return hook


def mean_loss(out: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of outputs ``[T, B, m]``, averaged over steps and samples."""
    return F.cross_entropy(out.flatten(0, 1), y.repeat(len(out)))


def peak_bytes(action: Callable[[], None]) -> int:
    """The most that torch's allocator held at once during ``action``, above what it held before (CPU)."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        action()
    held = peak = 0
    inner: Any = profiler.profiler
    for event in inner.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


class Server:
    """Carries out orders; ``make`` builds a contender for a task."""

    def __init__(self, make: Callable[[Task], Contender]):
        self.make = make
        self.contender: Contender | None = None
        self.learned = 0

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """What one order comes to; see the module's docstring."""
        if order["do"] == "build":
            return self._build(Task(**order["task"]))
        assert self.contender is not None, "nothing was built yet"
        if order["do"] == "step":
            return {"seconds": [self._timed() for _ in range(order["count"])]}
        if order["do"] == "memory":
            return {"peak_bytes": peak_bytes(lambda: self.contender.learn(0))}
        np.savez(order["file"], **self.contender.probe())
        return {}

    def _build(self, task: Task) -> dict[str, Any]:
        if task.threads:
            torch.set_num_threads(task.threads)
        torch.manual_seed(0)
        self.contender, self.learned = None, 0
        self.contender = self.make(task)
        return {"settings": self.contender.settings, "threads": torch.get_num_threads()}

    def _timed(self) -> float:
        assert self.contender is not None
        began = perf_counter()
        self.contender.learn(self.learned)
        self.learned += 1
        return perf_counter() - began


def serve(make: Callable[[Task], Contender]) -> None:
    """Answers orders until standard input ends; whatever else prints goes to standard error."""
    server, answers = Server(make), sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
