"""What is noted of a network after every epoch, on a few fixed samples, for the run's page.

Observers read. They draw from no stream of random numbers, move no statistics, and leave no gradient behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from onward.core import LearningRule, Network, Objective
from onward.core.draws import Draws
from onward.core.glue import turn
from onward.core.graph import Node
from onward.core.interpret import Forward, evaluating
from onward.core.neuron import Firing
from onward.core.registry import Choice
from onward.core.run import outputs
from onward.core.signal import Signal, dense
from onward.data import Batch, Dataset
from onward.data.dataset import spread_rows
from onward.train.alarms import SATURATED
from onward.train.alignment import compared
from onward.train.config import ProbeConfig

BINS = 48
SPREAD = 3.5
"""Standard deviations on either side of the mean that a histogram reaches; what is beyond counts in its last bins."""

See = Callable[[Node, Firing], None]


@dataclass(frozen=True)
class Observer:
    """Looks at samples of what a lesson is judged on, and compares gradients where that is asked for.

    ``rule`` is the configuration of the rule that learns.
    """

    probe: ProbeConfig
    rule: Choice
    draws: Draws
    chunk: int

    def __call__(
        self, net: Network, rule: LearningRule, objective: Objective, batch: Batch, epoch: int
    ) -> dict[str, Any]:
        """What there is to note after ``epoch``."""
        found = {"samples": len(batch.y), "layers": layers(net, batch, self.chunk)}
        every = self.probe.credit_every
        if every is None or epoch % every:
            return found
        credit = compared(net, rule, self.rule, objective, batch, self.draws, self.chunk, self.probe.draws)
        return {**found, "credit": credit}


def probe_batch(data: Dataset, samples: int, steps: int, device: str) -> Batch:
    """At most so many samples, evenly spaced over the data."""
    batch = data.batch(spread_rows(len(data), samples), steps)
    return batch._replace(x=batch.x.to(device), y=batch.y.to(device))


class Seen(Forward):
    """Runs the network, and shows what every spiking layer did, its slopes included."""

    def __init__(self, see: See, *context: Any):
        super().__init__(*context)
        self.see = see

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.neuron`."""
        module: Any = node.module
        x = dense(signal.sent)
        firing = module.scan(x, self.carry.states.get(node.index) or module.start(x[0]), self.draw(node))
        self.carry.states[node.index] = firing.state
        self.record.firings[node.index] = firing
        if module.spiking:
            self.see(node, firing)
        return Signal(firing.out, firing.out)


def layers(net: Network, batch: Batch, chunk: int) -> dict[str, dict[str, Any]]:
    """What `Membranes` tell of every spiking layer, by its name. Cost: one forward pass, in evaluation mode."""
    found: dict[str, Membranes] = {}

    def see(node: Node, firing: Firing) -> None:
        if node.name not in found:
            found[node.name] = Membranes(node.module.level, firing)  # type: ignore[union-attr, arg-type]
        found[node.name].add(firing)

    for _ in watched(net, batch, chunk, see):
        pass
    return {name: membranes.noted() for name, membranes in found.items()}


@torch.no_grad()
def watched(net: Network, batch: Batch, chunk: int, see: See):
    """Yields the outputs ``[K, B, m]`` of ``net`` chunk by chunk, in evaluation mode; ``see`` is shown every firing."""
    turn(net, batch.task)
    with evaluating(net):
        yield from outputs(net, batch.x, chunk=chunk, walk=partial(Seen, see))


class Membranes:
    """Sums over one layer: spikes of every neuron, a histogram of membrane potentials, and the slopes in each bin.

    Potentials are those after charging, before the reset. The range is that of the first chunk, the firing level in it.
    """

    def __init__(self, level: Tensor | float | None, firing: Firing):
        u = firing.potential.float()
        mean, spread = float(u.mean()), float(u.std(correction=0))
        self.level = None if level is None else float(level)
        bounds = [mean - SPREAD * spread, mean + SPREAD * spread, *([] if self.level is None else [self.level])]
        margin = 0.1 * (max(bounds) - min(bounds)) or 0.5
        self.low, self.high = min(bounds) - margin, max(bounds) + margin
        self.fired = torch.zeros(firing.out.shape[2:], device=u.device)
        self.counts = torch.zeros(BINS, dtype=torch.float64, device=u.device)
        self.slopes = torch.zeros_like(self.counts)
        self.rows = 0

    def add(self, firing: Firing) -> None:
        """Adds a chunk."""
        self.fired += (firing.out > 0).flatten(0, 1).sum(0)
        self.rows += firing.out.shape[0] * firing.out.shape[1]
        scale = BINS / (self.high - self.low)
        place = ((firing.potential.float() - self.low) * scale).clamp_(0, BINS - 1).long().flatten()
        self.counts += place.bincount(minlength=BINS)
        self.slopes += place.bincount(firing.slope.float().flatten(), minlength=BINS)

    def noted(self) -> dict[str, Any]:
        """As plain values.

        ``rate`` spikes per neuron and step; ``dead`` the share of neurons that never fired, ``saturated`` of those
        that nearly always did; ``low``, ``high`` the ends of the histogram ``counts``; ``slopes`` the mean slope in
        each bin, None in an empty one.
        """
        rates = self.fired / self.rows
        counts, slopes = self.counts.tolist(), (self.slopes / self.counts).tolist()
        return {
            "rate": float(rates.mean()),
            "dead": float((rates == 0).float().mean()),
            "saturated": float((rates >= SATURATED).float().mean()),
            "level": self.level,
            "low": self.low,
            "high": self.high,
            "counts": [int(count) for count in counts],
            "slopes": [round(slope, 6) if count else None for slope, count in zip(slopes, counts, strict=True)],
        }
