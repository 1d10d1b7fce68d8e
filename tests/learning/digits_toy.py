"""The digits toy: a reproduction, on scikit-learn's 8 x 8 digits, of how spatial-credit methods compare.

64-100-100-10 LIF network, T = 6, leak 0.5, sigmoid surrogate of slope 4, Kaiming-normal weights (readout times 0.3),
static input, reference fidelity, cross-entropy, Adam with learning rate 2e-3, batch 100, 10 epochs; the first 1400
samples of a seeded permutation train, the other 397 test. Cosines are those of the summed gradient of the first
weights to spatial back-propagation's on the same noisy forward pass, mean over the last 50 updates.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class Yardstick:
    """Spatial BP on the forward pass of another rule."""

    def __init__(self, net: Network, rule: Online, sample: Static, draws: KeyedDraws):
        built = rules.build("ottt")
        assert isinstance(built, Online)
        if isinstance(rule.spatial, Noisy):
            built.spatial = ThroughNoise(rule.spatial.perturbation)
        built.bind(net, OBJECTIVE, sample, draws)
        self.net, self.rule, self.draws = net, built, draws

    def gradient(self, x: Static, y: Tensor, ids: Tensor, sequence: int) -> Tensor:
        """dW^1."""
        sink = GradSink(self.net)
        first = self.net.get_parameter("0.weight")
        kept, first.grad = first.grad, None
        others = {p: p.grad for p in self.net.parameters()}
        for p in self.net.parameters():
            p.grad = None
        run_sequence(
            self.net, self.rule, OBJECTIVE, x, y, sink, draws=self.draws, ids=ids, sequence=sequence
        )
        sink.flush()
        found = first.grad
        for p, grad in others.items():
            p.grad = grad
        first.grad = kept
        assert found is not None
        return found


def train(rule_choice: Mapping[str, Any], seed: int, *, hidden: int = 2, epochs: int = EPOCHS) -> Result:
    """One run."""
    digits, net, draws = Digits.load(seed), network(seed, hidden), KeyedDraws(seed)
    rule = rules.build(rule_choice)
    assert isinstance(rule, Online)
    sample = Static(digits.x[:BATCH], STEPS)
    rule.bind(net, OBJECTIVE, sample, draws)
    yardstick, sink = Yardstick(net, rule, sample, draws), GradSink(net)
    optimiser = torch.optim.Adam([*net.parameters(), *rule.parameters()], lr=2e-3)

    def update() -> None:
        sink.flush()
        optimiser.step()
        optimiser.zero_grad()

    updates, cosines, losses = epochs * (TRAIN // BATCH), [], []
    order = torch.Generator().manual_seed(2000 + seed)
    for k in range(updates):
        if k % (TRAIN // BATCH) == 0:
            shuffled = torch.randperm(TRAIN, generator=order)
        ids = shuffled[:BATCH]
        shuffled = shuffled.roll(-BATCH)
        x, y = Static(digits.x[ids], STEPS), digits.y[ids]
        truth = yardstick.gradient(x, y, ids, k) if k >= updates - 50 else None
        before = net.get_parameter("0.weight").detach().clone()
        online = rule.traits.updates == "step"
        outcome = run_sequence(
            net, rule, OBJECTIVE, x, y, sink, draws=draws, ids=ids, sequence=k, after_step=update if online else None
        )
        losses.append(float(outcome.loss))
        if online:
            step = before - net.get_parameter("0.weight").detach()
        else:
            sink.flush()
            step = net.get_parameter("0.weight").grad
            optimiser.step()
        if truth is not None and step is not None:
            cosines.append(cosine(step, truth))
        optimiser.zero_grad()
    test = evaluate(net, OBJECTIVE, Static(digits.x[TRAIN:], STEPS), digits.y[TRAIN:])
    accuracy = 100 * float((OBJECTIVE.predict(test.evidence) == digits.y[TRAIN:]).float().mean())
    last = losses[-(TRAIN // BATCH) :]
    return Result(accuracy, sum(cosines) / len(cosines), sum(last) / len(last))
