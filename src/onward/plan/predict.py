"""How much memory training takes: predicted by part, checked by one real step, fitted to a budget.

What stays from one mini-batch to the next is counted on the objects themselves; what a step adds is acted out on paper
(`onward.plan.footprint`). Both are what torch's allocator is asked for: Python, libraries and data sets come on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onward.core import Rates, Sequence, Static
from onward.core.graph import Kind, Node
from onward.core.norms import PerSequence
from onward.core.run import MOST_STEPS, fit_chunk
from onward.core.synapse import effective
from onward.data import Batch
from onward.kernels.fused import fusing
from onward.plan.footprint import (
    ACTIVATIONS,
    CREDIT,
    GRADIENTS,
    STATES,
    SUMS,
    WORKSPACE,
    Runs,
    Stage,
    runs,
)
from onward.plan.onpaper import act
from onward.plan.outline import outline
from onward.train.config import RunConfig
from onward.train.memory import meter
from onward.train.parts import PRODUCTS, assemble

SAMPLES = 8
"""Samples that show firing rates and events a sample."""
SEQUENCES = 16
"""Mini-batches of which the one that takes most is planned for, where draws decide."""


PARAMETERS, EFFECTIVE, OPTIMISER = "parameters", "effective weights", "optimiser state"
RULE, TRANSFORM, INPUT = "the rule's tensors", "the transform's tensors", "input of a mini-batch"
ORDER = [
    PARAMETERS,
    EFFECTIVE,
    GRADIENTS,
    OPTIMISER,
    RULE,
    TRANSFORM,
    INPUT,
    STATES,
    SUMS,
    ACTIVATIONS,
    CREDIT,
    WORKSPACE,
]
"""The parts of a plan."""


@dataclass(frozen=True)
class Plan:
    """Bytes by part at the peak of training with ``batch`` samples in chunks of ``chunk`` of ``steps`` time steps.

    ``sequence`` is the mini-batch planned for: the largest of the first few, where the rule draws what takes part.
    """

    parts: Mapping[str, int]
    batch: int
    chunk: int
    steps: int
    sequence: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def largest(self) -> str:
        """The part that takes most."""
        return max(self.parts, key=lambda part: self.parts[part])


@dataclass(frozen=True)
class Measured:
    """What one step was seen to take: bytes that were ``standing`` before it, and the most it held beyond them."""

    standing: int
    peak: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.standing + self.peak

    def error(self, plan: Plan) -> float:
        """By how much the plan is above (or, negative, below) what was measured, as a fraction of it."""
        return plan.total / self.total - 1


@dataclass(frozen=True)
class Proposal:
    """The largest mini-batch, and for it the largest chunk, planned to stay within ``budget`` bytes.

    Where nothing does, ``plan`` is that of the least memory.
    """

    budget: int
    plan: Plan

    @property
    def fits(self) -> bool:
        """Whether the plan stays within the budget."""
        return self.plan.total <= self.budget

    @property
    def flags(self) -> str:
        """The plan's mini-batch and chunk as flags of ``onward train``."""
        return f"--train.batch-size {self.plan.batch} --train.chunk {self.plan.chunk}"


def predict(config: RunConfig) -> Plan:
    """The memory that training ``config`` will take at its peak; nothing is trained.

    Costs building network and rule, reading the data, and a forward pass of a few samples. Raises `OnwardError` where
    the configuration cannot be trained.

    >>> from onward.train import RunConfig
    >>> small = {"data": {"name": "mnist", "limit": 64}, "train": {"batch_size": 16}}
    >>> predict(RunConfig.model_validate(small)).largest
    'optimiser state'
    """
    return Planner(config).plan()


def check(config: RunConfig) -> Measured:
    """The memory that one training step of ``config`` takes, by the meter of `onward.train.memory`.

    A step before it, which is not measured, compiles kernels and finds out which are fast. Costs what `predict` does,
    and two mini-batches. Raises `OnwardError` where the configuration cannot be trained.
    """
    return Planner(config).check()


def propose(config: RunConfig, budget: int) -> Proposal:
    """The largest mini-batch and chunk of ``config`` that are planned to stay within ``budget`` bytes.

    Mini-batches are the configured one and, below it, powers of two: a larger one would be another training. Costs what
    `predict` does. Raises `OnwardError` where the configuration cannot be trained.
    """
    return Planner(config).propose(budget)


class Planner:
    """Plans for one configuration, whose parts are built once; ``config`` is complete."""

    def __init__(self, config: RunConfig):
        self.parts, self.config = assemble(config)
        data = self.parts.loader.dataset
        count = min(SAMPLES, len(data))
        self.sample = data.batch(torch.arange(count) * len(data) // count, self.parts.loader.steps).x.to("cpu")
        self.norms = getattr(self.parts.rule, "norms", None)
        self.outline = outline(self.parts.net, self.sample.to(self.parts.device), self.norms)
        self.batch = min(self.config.train.batch_size, len(data))
        self.parts.sink.begin_task(0)
        self.standing = self._standing()
        self._worst: dict[int, tuple[int, Runs]] = {}

    def plan(self, batch: int | None = None, chunk: int | None = None) -> Plan:
        """The plan for the configured mini-batch and chunk, or for others."""
        batch, chunk, steps = batch or self.batch, chunk or self.parts.chunk, self.parts.loader.steps
        number, sequence = self._sequence(chunk)
        parts = {**self.standing, INPUT: self._input(batch), **act(self._stage(batch), sequence).most}
        parts[SUMS] = parts.get(SUMS, 0) + self.parts.sink.gathers(lambda node: batch * self._frames(node))
        return Plan({part: parts[part] for part in ORDER if parts.get(part)}, batch, chunk, steps, number)

    def check(self) -> Measured:
        """See `check`; the step is one of the mini-batch that `plan` plans for."""
        parts, number = self.parts, self.plan().sequence
        batch = next(parts.batches(0))
        with fusing(self.config.train.compile):
            self._learn(batch, number)
            with meter(parts.device) as step:
                self._learn(batch, number)
        own = _bytes([*_tensors(batch.x), batch.y, batch.ids])
        # A step makes effective weights anew; where their old ones are not seen to go, they are in its peak.
        remade = 0 if step.sees_releases else self.standing[EFFECTIVE]
        return Measured(sum(self.standing.values()) - remade + own, step.peak_bytes)

    def propose(self, budget: int) -> Proposal:
        """See `propose`."""
        least: Plan | None = None
        for batch in self._batches():
            for chunk in self._chunks():
                plan = self.plan(batch, chunk)
                if plan.total <= budget:
                    return Proposal(budget, plan)
                least = plan if least is None or plan.total < least.total else least
        assert least is not None
        return Proposal(budget, least)

    def _stage(self, batch: int) -> Stage:
        stores, short = not self.parts.updater.applies_blocks, self.config.precision != "f32"
        return Stage(self.outline, self.parts.rule, batch, short, stores)

    def _sequence(self, chunk: int) -> tuple[int, Runs]:
        """The mini-batch that takes most among the first few, and the runs that it is worked through in."""
        if chunk not in self._worst:
            rule, draws, steps = self.parts.rule, self.parts.draws, self.parts.loader.steps
            numbers = reversed(range(SEQUENCES if rule.traits.stochastic else 1))
            known = {runs(rule, draws, steps, chunk, number): number for number in numbers}
            stage = self._stage(self.batch)
            worst = max(known, key=lambda sequence: act(stage, sequence).most.total() if len(known) > 1 else 0)
            self._worst[chunk] = known[worst], worst
        return self._worst[chunk]

    def _batches(self) -> Iterator[int]:
        """The configured mini-batch, then powers of two below it."""
        yield self.batch
        yield from (1 << power for power in reversed(range((self.batch - 1).bit_length())))

    def _chunks(self) -> Iterable[int]:
        """Chunks that network and rule can take, largest first."""
        parts, steps = self.parts, self.parts.loader.steps
        if isinstance(self.norms, PerSequence) and parts.net.of(Kind.NORM):
            return [steps]
        if parts.rule.whole(parts.net):
            return [steps]
        asked = min(steps, max(MOST_STEPS, parts.chunk))
        return range(fit_chunk(parts.net, parts.rule, asked, steps, online=parts.rule.traits.updates == "step"), 0, -1)

    def _standing(self) -> dict[str, int]:
        """Bytes that stay from one mini-batch to the next."""
        parts = self.parts
        moments = [t for state in parts.updater.optimizer.state.values() for t in state.values()]
        return {
            PARAMETERS: _bytes(parts.net.state_dict().values()),
            EFFECTIVE: self._effective(),
            OPTIMISER: _bytes(t for t in moments if isinstance(t, Tensor)),
            RULE: _bytes(parts.rule.state_dict().values()),
            TRANSFORM: _bytes(parts.trained.transform.state_dict().values()),
        }

    def _effective(self) -> int:
        """Weights that products read, where they are not the parameters, and what leads back from them."""
        with torch.enable_grad():
            weights = [effective(node.module) for node in self.parts.net.synapses]
        made = _saved([w for named in weights for w in named.values()], self.parts.net.parameters())
        short = PRODUCTS[self.config.precision]
        if short is None:
            return made
        return made + sum(w.numel() * short.itemsize for named in weights for k, w in named.items() if k != "bias")

    def _input(self, batch: int) -> int:
        """A mini-batch with labels and positions, by the example of a few samples."""
        return round(_bytes(_tensors(self.sample)) * batch / self.sample.batch) + 2 * batch * torch.int64.itemsize

    def _frames(self, node: Node) -> int:
        """How many inputs a sample gives a synapse: one where it reads what stands still."""
        still = isinstance(self.sample, Static) and self.parts.net.sender(node) is None
        return 1 if still else self.sample.steps

    def _learn(self, batch: Batch, number: int) -> None:
        """One step as `fit` makes it, looked into as every so many are."""
        parts, online = self.parts, self.parts.rule.traits.updates == "step"
        parts.updater.begin(0)
        parts.run(batch, number, after_step=parts.updater if online else None, watch=Rates())
        if not online:
            parts.updater()


def _tensors(x: Sequence) -> list[Tensor]:
    return [value for value in vars(x).values() if isinstance(value, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _saved(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> int:
    """Bytes of ``outputs`` and of what their graphs saved, ``known`` tensors left out."""
    seen = {tensor.data_ptr() for tensor in known}
    total, graph, met = 0, list[Any](), set[Any]()
    tensors = list(outputs)
    while tensors or graph:
        for tensor in tensors:
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                total += tensor.nbytes
                graph.append(tensor.grad_fn)
        tensors = []
        function = graph.pop() if graph else None
        if function is not None and function not in met:
            met.add(function)
            graph += [later for later, _ in function.next_functions]
            saved = (getattr(function, name) for name in dir(function) if name.startswith("_saved_"))
            tensors = [value for value in saved if isinstance(value, Tensor)]
    return total
