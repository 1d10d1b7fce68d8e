"""Learning from losses alone: the loss of the network with its weights moved along random directions z.

    mezo                [L(w + eps z) - L(w - eps z)] / (2 eps) z         two-point, antithetic (SPSA)
    forward-difference  [L(w + eps z) - L(w)] / eps z
    one-point           [L(w + eps z) - L of the mini-batch before] / eps z, or without the difference
    es                  two-point, over a population, losses replaced by their centred ranks

each the mean over n directions; E[z z^T] = I, so that all but the ranks are unbiased for the gradient of the loss
smoothed over eps z. For a linear loss of d weights with gradient g, E |estimate|^2 / |g|^2 is (d + n - 1) / n for
Rademacher and (d + n + 1) / n for Gaussian z; one point adds d L^2 / (n eps^2). Costs two forward passes a direction
(one for one-point, and one more in all for forward differences); no backward pass, no graph. Noise is made again where
it is needed and never stored (`onward.core.drawn`): with plain SGD and no clipping, training takes the memory of
inference and of the largest layer. Randomness of probes and the mini-batch is the same in all of them; the first probe
alone moves the running statistics of batch normalisation (`onward.core.probe`). The outputs, and so the training loss,
that a run reports are those of the first probe. The sphere of radius sqrt(d) over all weights, which needs the norm of
all noise first, is left out. Sources: Spall 1992; Malladi et al. 2023 (MeZO); Zhang et al. 2022 (residual feedback);
Salimans et al. 2017.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.drawn import Chord, Direction, Term
from onward.core.draws import Draws, Gaussian, Law, Rademacher
from onward.core.network import Network
from onward.core.norms import Norms, PerStep
from onward.core.probe import ProbingRule, Runs, Shift, drawn, finite, terms
from onward.core.registry import Choice
from onward.core.rule import Lesson, Traits
from onward.rules.registry import NormScope, norms_of, rules


class Stencil(ABC):
    """Where along each ray the loss is looked at, and what slope follows."""

    eps: float

    @abstractmethod
    def shifts(self, rays: list[Direction]) -> list[Shift]:
        """The probes."""

    @abstractmethod
    def slopes(self, losses: Tensor, before: Tensor) -> Tensor:
        """The slope along each ray ``[n]``, from the losses of the probes, and of those of the mini-batch before."""

    @abstractmethod
    def silent(self, losses: Tensor) -> Tensor:
        """Which probes ``[n]`` changed nothing."""

    @abstractmethod
    def direction(self, ray: Direction) -> Direction:
        """What the slope is along, rounding of weights included."""

    @property
    def moves_first(self) -> bool:
        """Whether the first probe is another network than the one that learns."""
        return True


@dataclass(frozen=True)
class Antithetic(Stencil):
    """[L(w + eps z) - L(w - eps z)] / (2 eps)."""

    eps: float

    def shifts(self, rays: list[Direction]) -> list[Shift]:
        """See `Stencil.shifts`."""
        return [Shift(ray, strength) for ray in rays for strength in (self.eps, -self.eps)]

    def slopes(self, losses: Tensor, before: Tensor) -> Tensor:
        """See `Stencil.slopes`."""
        ahead, behind = losses.view(-1, 2).T
        return (ahead - behind) / (2 * self.eps)

    def silent(self, losses: Tensor) -> Tensor:
        """See `Stencil.silent`."""
        return losses.view(-1, 2)[:, 0] == losses.view(-1, 2)[:, 1]

    def direction(self, ray: Direction) -> Direction:
        """See `Stencil.direction`."""
        return Chord(ray, self.eps, -self.eps)


@dataclass(frozen=True)
class Ranked(Antithetic):
    """As antithetic, with rank / (N - 1) - 1/2 in the place of each of the N losses; equal losses share a rank."""

    def slopes(self, losses: Tensor, before: Tensor) -> Tensor:
        """See `Stencil.slopes`."""
        return super().slopes(centred_ranks(losses), before)


def centred_ranks(losses: Tensor) -> Tensor:
    """rank / (N - 1) - 1/2; equal losses get the mean of their ranks.

    >>> centred_ranks(torch.tensor([3.0, 1.0, 9.0, 3.0])).tolist()
    [0.0, -0.5, 0.5, 0.0]
    """
    below = (losses[:, None] > losses).sum(1)
    ranks = below + ((losses[:, None] == losses).sum(1) - 1) / 2
    return ranks.to(losses) / max(len(losses) - 1, 1) - 0.5


@dataclass(frozen=True)
class OneSided(Stencil):
    """[L(w + eps z) - L(w)] / eps."""

    eps: float

    def shifts(self, rays: list[Direction]) -> list[Shift]:
        """See `Stencil.shifts`: the network itself comes first."""
        return [Shift(), *(Shift(ray, self.eps) for ray in rays)]

    def slopes(self, losses: Tensor, before: Tensor) -> Tensor:
        """See `Stencil.slopes`."""
        return (losses[1:] - losses[0]) / self.eps

    def silent(self, losses: Tensor) -> Tensor:
        """See `Stencil.silent`."""
        return losses[1:] == losses[0]

    def direction(self, ray: Direction) -> Direction:
        """See `Stencil.direction`."""
        return Chord(ray, self.eps)

    @property
    def moves_first(self) -> bool:
        """False."""
        return False


@dataclass(frozen=True)
class OnePoint(Stencil):
    """L(w + eps z) / eps."""

    eps: float

    def shifts(self, rays: list[Direction]) -> list[Shift]:
        """See `Stencil.shifts`."""
        return [Shift(ray, self.eps) for ray in rays]

    def slopes(self, losses: Tensor, before: Tensor) -> Tensor:
        """See `Stencil.slopes`."""
        return losses / self.eps

    def silent(self, losses: Tensor) -> Tensor:
        """None is known to be: there is nothing to compare with."""
        return torch.zeros_like(losses, dtype=torch.bool)

    def direction(self, ray: Direction) -> Direction:
        """See `Stencil.direction`."""
        return Chord(ray, self.eps)


@dataclass(frozen=True)
class Residual(OnePoint):
    """[L(w + eps z) - the same ray's loss in the mini-batch before] / eps; 0 in the first mini-batch."""

    def slopes(self, losses: Tensor, before: Tensor) -> Tensor:
        """See `Stencil.slopes`."""
        return torch.where(before.isnan(), 0.0, losses - before) / self.eps


class StencilRule(ProbingRule):
    """Base of rules that learn from the losses at the points of a ``stencil`` along ``directions`` rays."""

    before: Tensor

    def __init__(self, stencil: Stencil, directions: int, law: Law, norms: Norms):
        super().__init__(directions, law, norms)
        self.stencil = stencil
        self.register_buffer("before", torch.full((directions,), torch.nan, dtype=torch.float64))

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return replace(super().traits, perturbs=self.stencil.moves_first)

    def shifts(self, rays: list[Direction]) -> list[Shift]:
        """See `ProbingRule.shifts`."""
        return self.stencil.shifts(rays)

    def deposit(self, lesson: Lesson, runs: Runs) -> None:
        """See `ProbingRule.deposit`."""
        lines = [self.stencil.direction(ray) for ray in runs.rays]
        losses = torch.stack([run.loss(lesson) for run in runs.runs])
        drawn(lesson, losses, lambda told: self.learned(lesson.net, runs, terms(self.weigh(finite(told)), lines)))

    def learned(self, net: Network, runs: Runs, gradient: list[Term]) -> list[Term]:
        """The gradient of a mini-batch as it is handed on; what is to be remembered of it is noted here."""
        return gradient

    def weigh(self, losses: Tensor) -> Tensor:
        """The coefficient of each direction, from the losses of the whole mini-batch."""
        slopes = self.stencil.slopes(losses, self.before)
        self.before.copy_(losses[-self.directions :])
        self.look(slopes, self.stencil.silent(losses))
        return slopes / self.directions

    def warnings(self) -> list[str]:
        """Says so where probes change nothing."""
        eps = self.stencil.eps
        return self.silence(f"raise the distance, such as --rule.eps {10 * eps:g} in place of {eps:g}")


class SPSA(StencilRule):
    """Learns along rays as they are drawn; see the module's docstring.

    Memory O(chunk) and the membranes of every probe; weights are as they were when a mini-batch is over.
    """

    def __init__(self, stencil: Stencil, directions: int = 1, law: Law | None = None, norms: Norms | None = None):
        super().__init__(stencil, directions, law or Rademacher(), norms or PerStep())

    def lines(self, draws: Draws, sequence: int) -> list[Direction]:
        """The directions that the gradient of mini-batch ``sequence`` is a sum of."""
        return [self.stencil.direction(ray) for ray in self.rays(draws, sequence)]


LAWS: dict[str, Law] = {"rademacher": Rademacher(), "gaussian": Gaussian()}
LawName = Literal["rademacher", "gaussian"]


class ProbeOptions(Choice):
    """Options of rules that try weights out."""

    eps: float = Field(0.03, gt=0, description="how far weights are moved, in units of z")
    directions: int = Field(1, ge=1, description="random directions a mini-batch; the gradient is their mean")
    law: LawName = Field("rademacher", description="distribution of z: signs, or standard normal")
    norm_over: NormScope


class OnePointOptions(ProbeOptions):
    """Options of one-point estimates."""

    residual: bool = Field(True, description="subtract the loss of the mini-batch before: far less variance")


class ESOptions(ProbeOptions):
    """Options of evolution strategies."""

    shaping: Literal["ranks", "none"] = Field("ranks", description="what is learned from: ranks of losses, or losses")


def _build(stencil: Stencil, choice: Any) -> SPSA:
    return SPSA(stencil, choice.directions, LAWS[choice.law], norms_of(choice.norm_over))


DESCENT = {"optim": {"name": "sgd", "lr": 1e-2, "schedule": "constant"}}

rules.register(
    "mezo",
    ProbeOptions,
    lambda choice: _build(Antithetic(choice.eps), choice),
    "two forward passes with weights moved back and forth; memory of inference",
    defaults={"norm_over": "step"},
    facts={
        "paper": "Malladi et al. 2023",
        "published": "equations, code",
        "inferred": "eps and rate for SNNs",
        "equation": "gradient = (1/n) sum_i [L(w + eps z_i) - L(w - eps z_i)] / (2 eps)  z_i",
    },
    brings=DESCENT,
)
rules.register(
    "forward-difference",
    ProbeOptions,
    lambda choice: _build(OneSided(choice.eps), choice),
    "the network itself and one forward pass a direction with weights moved",
    defaults={"norm_over": "step"},
    facts={
        "paper": "Ruan et al. 2020",
        "published": "equations, code",
        "inferred": "eps and rate for SNNs",
        "equation": "gradient = (1/n) sum_i [L(w + eps z_i) - L(w)] / eps  z_i",
    },
    brings=DESCENT,
)
rules.register(
    "one-point",
    OnePointOptions,
    lambda choice: _build((Residual if choice.residual else OnePoint)(choice.eps), choice),
    "one forward pass with weights moved; its loss against that of the mini-batch before",
    defaults={"norm_over": "step"},
    facts={
        "paper": "Zhang et al. 2022",
        "published": "equations",
        "inferred": "eps and rate for SNNs",
        "equation": "gradient = (1/n) sum_i [L(w + eps z_i) - L of the mini-batch before] / eps  z_i",
    },
    brings={"optim": {**DESCENT["optim"], "lr": 1e-3}},
)
rules.register(
    "es",
    ESOptions,
    lambda choice: _build((Ranked if choice.shaping == "ranks" else Antithetic)(choice.eps), choice),
    "antithetic evolution strategies: a population of networks, ranked by loss",
    defaults={"norm_over": "step", "directions": 32},
    facts={
        "paper": "Salimans et al. 2017",
        "published": "equations",
        "inferred": "population and rate for SNNs",
        "equation": "gradient = (1/n) sum_i [R(w + eps z_i) - R(w - eps z_i)] / (2 eps)  z_i,  R ranks of losses",
    },
    brings={"optim": {"name": "adam", "lr": 1e-2}},
)
