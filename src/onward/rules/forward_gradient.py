"""Forward gradients: the slope of the loss along random directions v of all weights, by one pass in dual numbers.

    gradient = (1/n) sum_i (grad L . v_i) v_i,   E[v v^T] = I

Unbiased for the surrogate gradient that back-propagation through time computes, since a spike's tangent is the
surrogate slope times its potential's; E |estimate|^2 is (d + n - 1) / n times that of the gradient for Rademacher and
(d + n + 1) / n for Gaussian v, with d weights. No distance to choose, and no finite difference that a loss of spikes
could leave at 0. Costs a forward pass with three products a synapse for each direction; memory O(chunk) in time,
weights' tangents are drawn layer by layer. Source: Baydin et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from onward.core import tangent
from onward.core.drawn import Direction, names_of
from onward.core.draws import Draws, Law, Rademacher
from onward.core.norms import Norms, PerStep
from onward.core.probe import RayRule, drawn, finite, terms
from onward.core.registry import Choice
from onward.core.rule import Lesson
from onward.core.signal import Carry
from onward.kernels.rows import SparseRows
from onward.rules.registry import NormScope, norms_of, rules
from onward.rules.spsa import LAWS, LawName


@dataclass
class Ways(Carry):
    """The carry of several directions."""

    ways: list[tangent.Along] = field(default_factory=list)


class ForwardGradient(RayRule):
    """See the module's docstring."""

    def __init__(self, directions: int = 1, law: Law | None = None, norms: Norms | None = None):
        super().__init__(directions, law or Rademacher(), norms or PerStep())

    def lines(self, draws: Draws, sequence: int) -> list[Direction]:
        """The directions that the gradient of mini-batch ``sequence`` is a sum of."""
        return [*self.rays(draws, sequence)]

    @property
    def width(self) -> int:
        """See `RayRule.width`."""
        return self.directions

    def begin(self, lesson: Lesson) -> None:
        """See `LearningRule.begin`."""
        rays, masks = self.rays(lesson.context.draws, lesson.context.sequence), dict[int, Tensor]()
        lesson.carry = Ways(ways=[tangent.Along(ray, Carry(masks=masks)) for ray in rays])

    def passes(self, lesson: Lesson) -> list[tangent.Along]:
        """See `RayRule.passes`."""
        assert isinstance(lesson.carry, Ways)
        return lesson.carry.ways

    def walk(self, lesson: Lesson, one: tangent.Along, x: Tensor | SparseRows, see: Callable[[Any], None]) -> Tensor:
        """See `RayRule.walk`."""
        record = tangent.advance(lesson, one, x, names_of(lesson.net), self.norms)
        see(record)
        return record.out

    @torch.no_grad()
    def finish(self, lesson: Lesson) -> None:
        """See `LearningRule.finish`."""
        assert isinstance(lesson.carry, Ways)
        ways, n = lesson.carry.ways, self.directions
        told = torch.stack([moved for _, moved in (tangent.loss(lesson, along) for along in ways)])

        def weigh(slopes: Tensor) -> list:
            self.look(finite(slopes), slopes == 0)
            return terms(slopes / n, [along.ray for along in ways])

        drawn(lesson, told, weigh)

    def warnings(self) -> list[str]:
        """Says so where surrogate slopes are 0 on every way to the loss."""
        return self.silence("widen the surrogate, such as --neuron.surrogate sigmoid")


class ForwardGradientOptions(Choice):
    """Options of forward gradients."""

    directions: int = Field(1, ge=1, description="random directions a mini-batch; the gradient is their mean")
    law: LawName = Field("rademacher", description="distribution of v: signs, or standard normal")
    norm_over: NormScope


rules.register(
    "forward-gradient",
    ForwardGradientOptions,
    lambda c: ForwardGradient(c.directions, LAWS[c.law], norms_of(c.norm_over)),
    "the surrogate gradient's slope along random directions, by one forward pass in dual numbers",
    defaults={"norm_over": "step"},
    facts={"paper": "Baydin et al. 2022", "published": "equations, code", "inferred": "the rate for SNNs"},
    brings={"optim": {"name": "sgd", "lr": 1e-2, "schedule": "constant"}},
)
