"""Learning from losses along directions that bend towards what was learned last (guided evolution strategies).

    z = (sqrt(alpha) e + sqrt(1 - alpha) Q e') |e| / |sqrt(alpha) e + sqrt(1 - alpha) Q e'|
    gradient = (1/n) sum_i [L(w + eps z_i) - L(w - eps z_i)] / (2 eps)  z_i

Q is an orthonormal basis of the last gradient estimate and the last update, e noise over all weights and e' over the
basis. But for the norm, E[z z^T] = alpha I + (1 - alpha) Q Q^T, and the estimate has the mean E[z z^T] grad L: more of
the gradient along Q than across. Of r directions in Q and d weights, Q takes the share (1 - alpha) r / (alpha d +
(1 - alpha) r) of |z|^2: with alpha = 1/2, as published, hardly any in large networks. What plain SGD did with one
estimate lies along it, and r is 1; momentum, weight decay, Adam and clipping of single tensors make it 2. The update is
that of the optimiser, whatever it is: the weights now less those of the mini-batch before.

alpha = 1 is `mezo` (with ``stencil one-sided``, `forward-difference`), to the last bit. Two forward passes a direction
(one-sided: one, and one more in all), and one more drawing of its noise, which tells the inner products of e with the
guides. Memory: two numbers a parameter, in the checkpoint, beside what `mezo` takes; noise is drawn in blocks as
there. Sources: Maheswaranathan et al. 2019; Ruan et al. 2020 (this form of it, alpha 1/2).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.drawn import Direction, Ray, Term, names_of
from onward.core.draws import Draws, Key, Law, Rademacher
from onward.core.network import Network
from onward.core.norms import Norms, PerStep
from onward.core.probe import Runs
from onward.core.recall import Recall, View, products
from onward.core.rule import Lesson, Traits
from onward.core.sequence import Sequence
from onward.optim.query import Guided
from onward.rules.registry import norms_of, rules
from onward.rules.spsa import DESCENT, LAWS, Antithetic, OneSided, ProbeOptions, Stencil, StencilRule

GUIDES = 2
"""The last estimate, and the last update."""


@dataclass
class Recalling(Runs):
    """The carry of probes along directions that look at what is remembered."""

    view: View = field(default_factory=lambda: View(torch.empty(0), torch.empty(0), {}))


@dataclass(frozen=True)
class Bent(Direction):
    """Guides and noise, each times its own of ``factors``."""

    ray: Ray
    view: View
    factors: tuple[float, ...]

    def block(self, name: str, number: int, values: Tensor) -> Tensor:
        """See `Direction.block`."""
        *along, across = self.factors
        z = self.ray.block(name, number, values).mul_(across)
        if any(along):
            for factor, guide in zip(along, self.view.guides(name, number, values), strict=True):
                z.add_(guide, alpha=factor)
        return z


class RecallingRule(StencilRule):
    """Base of rules whose directions depend on the last estimate and the last update, which `Recall` remembers."""

    recall: Recall

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return replace(super().traits, recalls=True)

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """See `LearningRule.allocate`."""
        super().allocate(net, sample, draws)
        self.recall = Recall(names_of(net))

    def learned(self, net: Network, runs: Runs, gradient: list[Term]) -> list[Term]:
        """See `StencilRule.learned`: it is remembered, and handed on as one term."""
        assert isinstance(runs, Recalling)
        return [self.recall.take(runs.view, gradient, names_of(net))]

    def renews(self) -> int:
        """See `RayRule.renews`: what is remembered changes in place."""
        return 0


class GuidedRule(RecallingRule):
    """See the module's docstring."""

    def __init__(
        self,
        stencil: Stencil,
        guided: Guided,
        directions: int = 1,
        law: Law | None = None,
        norms: Norms | None = None,
    ):
        super().__init__(stencil, directions, law or Rademacher(), norms or PerStep())
        self.guided = guided

    @torch.no_grad()
    def directed(self, lesson: Lesson) -> Recalling:
        """See `ProbingRule.directed`."""
        view = self.recall.view()
        rays = self.rays(lesson.context.draws, lesson.context.sequence)
        return Recalling(rays=[self.bent(ray, view, lesson.net) for ray in rays], view=view)

    def bent(self, ray: Ray, view: View, net: Network) -> Bent:
        """The ray, bent towards the guides."""
        found = products(view, ray, names_of(net))
        inside = draw_inside(ray, found)
        return Bent(ray, view, tuple(self.guided.factors(found, inside).tolist()))


def draw_inside(ray: Ray, like: Tensor) -> Tensor:
    """Noise ``[GUIDES]`` of the ray's own law for the basis of the guides."""
    key, one = Key(f"inside/{ray.purpose}", "guides", ray.sequence), torch.zeros(1, dtype=torch.int64)
    return ray.draws.draw(ray.law, key, one, one, (GUIDES,), like).view(-1)


STENCILS: dict[str, Any] = {"antithetic": Antithetic, "one-sided": OneSided}


class GuidedOptions(ProbeOptions):
    """Options of guided directions."""

    alpha: float = Field(
        0.5, ge=0, le=1, description="what noise over all weights counts; 1 less that: the last estimate and update"
    )
    stencil: Literal["antithetic", "one-sided"] = Field(
        "antithetic", description="weights moved back and forth, or the network itself and weights moved"
    )


rules.register(
    "guided",
    GuidedOptions,
    lambda c: GuidedRule(STENCILS[c.stencil](c.eps), Guided(c.alpha), c.directions, LAWS[c.law], norms_of(c.norm_over)),
    "as mezo, along noise that is bent towards the last gradient estimate and the last update",
    defaults={"norm_over": "step"},
    facts={
        "paper": "Maheswaranathan et al. 2019",
        "published": "equations, code",
        "inferred": "eps, alpha and rate for SNNs; what counts as an update",
    },
    brings=DESCENT,
)
