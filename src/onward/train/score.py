"""How well a network does on a whole data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from onward.core import Network, Objective, Rates, evaluate
from onward.core.glue import turn
from onward.data import Loader


@dataclass(frozen=True)
class Score:
    """``accuracy`` in percent, mean ``loss``, firing ``rates`` by neuron; ``samples`` seen in ``seconds``."""

    accuracy: float
    loss: float
    samples: int
    seconds: float
    rates: dict[str, float]

    @property
    def samples_per_second(self) -> float:
        """Throughput, the loading of the data included."""
        return self.samples / self.seconds


def unheard(labels: Tensor, predicted: Tensor) -> None:
    """What hears of predictions and does nothing."""


def score(
    net: Network,
    objective: Objective,
    loader: Loader,
    device: str = "cpu",
    chunk: int | None = None,
    hear: Callable[[Tensor, Tensor], object] = unheard,
) -> Score:
    """Evaluates ``net`` on every sample of ``loader``, all processes together: no noise, no gradient.

    ``hear`` is told the labels and predictions of every mini-batch of this process. Memory O(chunk) in time.
    """
    began, correct, loss, samples, rates = perf_counter(), 0, 0.0, 0, Rates()
    for batch in loader.epoch(0):
        y = batch.y.to(device)
        turn(net, batch.task)
        outcome = evaluate(net, objective, batch.x.to(device), y, chunk=chunk, watch=rates)
        predicted = objective.predict(outcome.evidence)
        hear(y, predicted)
        correct += int((predicted == y).sum())
        loss += float(outcome.loss) * len(y)
        samples += len(y)
    sums = torch.tensor([correct, loss, samples], dtype=torch.float64)
    loader.group.sum_([sums])
    right, total, seen = sums.tolist()
    return Score(100 * right / seen, total / seen, int(seen), perf_counter() - began, rates.means(loader.group))
