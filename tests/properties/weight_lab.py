"""What the properties of rules that move weights are tried on."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from onward.core import CrossEntropy, GradSink, KeyedDraws, LearningRule, Network, PerStep, Static, run_sequence
from onward.core.drawn import Drawn
from onward.core.draws import Draws, Gaussian, Key, Law, Rademacher
from onward.core.objective import Loss, Objective
from onward.neurons import LIF, SoftReset
from onward.rules.spsa import Stencil

LAWS: dict[str, Law] = {"rademacher": Rademacher(), "gaussian": Gaussian()}


class Cosines(Loss):
    """sum cos(o_i), whose mean over o + eps z is exp(-eps^2 / 2) times itself."""

    def __call__(self, o: Tensor, y: Tensor) -> Tensor:
        return o.cos().sum(-1)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return -o.sin()


class Units(Draws):
    """Direction number i is the i-th unit vector of all parameters in order, times ``length``; all else is keyed."""

    def __init__(self, net: nn.Module, length: float = 1.0, first: int = 0):
        self.length, self.first, self.offsets, total = length, first, dict[str, int](), 0
        for name, parameter in net.named_parameters():
            self.offsets[name] = total
            total += parameter.numel()
        self.total = total

    def draw(self, law: Law, key: Key, steps: Tensor, ids: Tensor, size: tuple[int, ...], like: Tensor) -> Tensor:
        kind, _, number = key.purpose.partition("/")
        if kind != "probe":
            return KeyedDraws(0).draw(law, key, steps, ids, size, like)
        z, place = like.new_zeros(1, 1, *size), self.first + int(number) - self.offsets[key.node]
        if 0 <= place < z.numel():
            z.view(-1)[place] = self.length
        return z


def samples(law: str, n: int, d: int, seed: int = 0) -> Tensor:
    """``n`` directions in d dimensions, float64."""
    keys = torch.randint(2**62, (n,), generator=torch.Generator().manual_seed(seed))
    return LAWS[law].sample(keys, d, torch.float64)


def slopes_of(stencil: Stencil, loss: object, theta: Tensor, z: Tensor, before: Tensor | None = None) -> Tensor:
    """The slope of ``loss`` (of rows) along each row of ``z``, as the stencil takes it."""
    points = {"Antithetic": 2, "Ranked": 2}.get(type(stencil).__name__, 1)
    strengths = [stencil.eps, -stencil.eps][:points]
    moved = torch.stack([theta + s * z for s in strengths], 1).flatten(0, 1)
    if type(stencil).__name__ == "OneSided":
        moved = torch.cat([theta[None], moved])
    return stencil.slopes(loss(moved), torch.full((len(z),), torch.nan) if before is None else before)  # type: ignore[operator]


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Digits 8 x 8 in [0, 1] and labels: 1500 to learn from, 297 to test on."""
    found, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(found).float() / 16, torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:1500], order[1500:]
    return (x[train], y[train]), (x[test], y[test])


def rate_loss() -> Objective:
    """Cross-entropy of output spikes at every step."""
    return PerStep(CrossEntropy())


def digits_net(seed: int = 0) -> Network:
    """64-20-10, rectified currents, leak 0.95, resets one step late, output spikes."""
    torch.manual_seed(seed)

    def lif() -> nn.Module:
        return LIF(decay=0.95, reset=SoftReset(1 / 0.95), ties_fire=False)

    return Network(nn.Sequential(nn.Linear(64, 20), nn.ReLU(), lif(), nn.Linear(20, 10), lif()))


def learn(
    net: Network,
    rule: LearningRule,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 1,
    objective: Objective | None = None,
    draws: Draws | None = None,
    sequence: int = 0,
    chunk: int | None = None,
) -> tuple[Tensor, list[Drawn]]:
    """One mini-batch of still frames ``[B, ...]``: the loss, and the gradients that were drawn, not yet used.

    A rule that is not bound yet is bound.
    """
    objective, draws, frames = objective or PerStep(CrossEntropy()), draws or KeyedDraws(0), Static(x, steps)
    if rule.features == ():
        rule.bind(net, objective, frames, draws)
    sink, drawn = GradSink(net), list[Drawn]()
    outcome = run_sequence(net, rule, objective, frames, y, sink, draws=draws, sequence=sequence, chunk=chunk)
    sink.flush(drawn.append)
    return outcome.loss, drawn


def stored(net: nn.Module, drawn: list[Drawn]) -> Tensor:
    """The gradient of all parameters, flat."""
    net.zero_grad()
    for gradient in drawn:
        gradient.store()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def flat(net: nn.Module) -> Tensor:
    """All parameters, flat, copied."""
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])
