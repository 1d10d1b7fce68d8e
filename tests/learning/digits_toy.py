"""The digits toy: a reproduction, on scikit-learn's 8 x 8 digits, of how spatial-credit methods compare.

64-100-100-10 LIF network, T = 6, leak 0.5, sigmoid surrogate of slope 4, Kaiming-normal weights (readout times 0.3),
static input, reference fidelity, cross-entropy, Adam with learning rate 2e-3, batch 100, 10 epochs; the first 1400
samples of a seeded permutation train, the other 397 test. Cosines are those of the summed gradient of the first
weights to spatial back-propagation's on the same noisy forward pass, mean over the last 50 updates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from onward.core import CrossEntropy, GradSink, KeyedDraws, Network, PerStep, Static, evaluate, run_sequence
from onward.credit.noisy import Noisy
from onward.neurons import LIF
from onward.rules import rules
from onward.rules.online import Online
from properties.spatial_lab import ThroughNoise, cosine

STEPS, EPOCHS, BATCH, TRAIN = 6, 10, 100, 1400
OBJECTIVE = PerStep(CrossEntropy())


@dataclass(frozen=True)
class Digits:
    """Standardised inputs ``[N, 64]`` and labels ``[N]``, training samples first."""

    x: Tensor
    y: Tensor

    @staticmethod
    def load(seed: int) -> Digits:
        """The digits in the order of a seed."""
        data, target = load_digits(return_X_y=True)
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
        x, y = torch.from_numpy(data).float()[order], torch.from_numpy(target).long()[order]
        mean, std = x[:TRAIN].mean(0), x[:TRAIN].std(0).clamp_min(1e-6)
        return Digits(((x - mean) / std).clamp(-5, 5), y)


@dataclass(frozen=True)
class Result:
    """Test accuracy in percent, mean cosine of dW^1 to spatial BP's, and training cross-entropy of the last epoch."""

    accuracy: float
    cosine: float
    loss: float


def network(seed: int, hidden: int = 2) -> Network:
    """Kaiming-normal weights, zero biases, readout times 0.3."""
    generator = torch.Generator().manual_seed(1000 + seed)
    layers: list[nn.Module] = []
    for n in [64, *[100] * (hidden - 1)]:
        layers += [nn.Linear(n, 100), LIF(tau=2.0)]
    net = Network(nn.Sequential(*layers, nn.Linear(100, 10)))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            else:
                p.copy_((2 / p.shape[1]) ** 0.5 * torch.randn(p.shape, generator=generator))
        net.get_parameter(f"{2 * hidden}.weight").mul_(0.3)
    return net


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The toy's optimiser."""
    return torch.optim.Adam(parameters, lr=2e-3)


class Toy:
    """A network in training by one rule, beside the yardstick that measures the direction of its updates."""

    def __init__(
        self,
        choice: Mapping[str, Any],
        seed: int,
        *,
        hidden: int = 2,
        optimiser: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = adam,
    ):
        self.digits, self.net, self.draws = Digits.load(seed), network(seed, hidden), KeyedDraws(seed)
        self.rule, self.yardstick = (self._bound(rule) for rule in (choice, {"name": "ottt"}))
        if isinstance(self.rule.spatial, Noisy):
            self.yardstick.spatial = ThroughNoise(self.rule.spatial.perturbation)
            self.yardstick = self._bind(self.yardstick)
        self.sink = GradSink(self.net)
        self.first = self.net.get_parameter("0.weight")
        self.optimiser = optimiser([*self.net.parameters(), *self.rule.parameters()])
        self.order = torch.Generator().manual_seed(2000 + seed)
        self.updates = 0

    def epoch(self, measure: Callable[[float], None]) -> float:
        """Trains once over the data; ``measure`` receives the cosine of every update. Returns the mean loss."""
        batches = torch.randperm(TRAIN, generator=self.order).split(BATCH)
        losses = []
        for ids in batches:
            truth = self._gradient(ids)
            loss, summed = self._learn(ids)
            losses.append(loss)
            measure(cosine(summed, truth))
            self.updates += 1
        return sum(losses) / len(losses)

    def accuracy(self) -> float:
        """On the test samples, in percent."""
        x, y = Static(self.digits.x[TRAIN:], STEPS), self.digits.y[TRAIN:]
        predicted = OBJECTIVE.predict(evaluate(self.net, OBJECTIVE, x, y).evidence)
        return 100 * float((predicted == y).float().mean())

    def _learn(self, ids: Tensor) -> tuple[float, Tensor]:
        """One mini-batch: its loss, and the summed gradient of the first weights."""
        summed = torch.zeros_like(self.first)

        def update() -> None:
            self.sink.flush()
            if self.first.grad is not None:
                summed.add_(self.first.grad)
            self.optimiser.step()
            self.optimiser.zero_grad()

        if self.rule.traits.updates == "step":
            loss = self._run(self.rule, ids, after_step=update)
        else:
            loss = self._run(self.rule, ids)
            update()
        return loss, summed

    def _gradient(self, ids: Tensor) -> Tensor:
        """What spatial BP gives the first weights."""
        self._run(self.yardstick, ids)
        self.sink.flush()
        found = self.first.grad
        self.net.zero_grad()
        assert found is not None
        return found

    def _run(self, rule: Online, ids: Tensor, after_step: Callable[[], None] | None = None) -> float:
        x, y = Static(self.digits.x[ids], STEPS), self.digits.y[ids]
        outcome = run_sequence(
            self.net,
            rule,
            OBJECTIVE,
            x,
            y,
            self.sink,
            draws=self.draws,
            ids=ids,
            sequence=self.updates,
            after_step=after_step,
        )
        return float(outcome.loss)

    def _bound(self, choice: Mapping[str, Any]) -> Online:
        rule = rules.build(choice)
        assert isinstance(rule, Online)
        return self._bind(rule)

    def _bind(self, rule: Online) -> Online:
        rule.bind(self.net, OBJECTIVE, Static(self.digits.x[:BATCH], STEPS), self.draws)
        return rule


def train(toy: Toy, epochs: int = EPOCHS) -> Result:
    """Runs all epochs."""
    cosines: list[float] = []
    loss = 0.0
    for _ in range(epochs):
        loss = toy.epoch(cosines.append)
    measured = cosines[-50:]
    return Result(toy.accuracy(), sum(measured) / len(measured), loss)
