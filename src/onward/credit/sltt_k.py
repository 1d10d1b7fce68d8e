"""SLTT-K (Meng et al. 2023): K of T steps, drawn anew for every mini-batch, take part in credit.

The others still advance membranes, running statistics and feedback matrices. The loss of a step is divided by T,
not K, so the expected gradient is K/T of SLTT's; ``rescale`` multiplies by T/K. K spatial backward passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pydantic import Field

from onward.core.draws import Key
from onward.core.errors import TopologyMismatch
from onward.core.registry import Choice
from onward.core.signal import ENDLESS, Context
from onward.credit.base import temporals
from onward.credit.sltt import Instantaneous


class SLTTK(Instantaneous):
    """Instantaneous credit at K steps."""

    stochastic = True
    partial = True

    def __init__(self, k: int, rescale: bool = False):
        self.k, self.rescale = k, rescale

    def chosen(self, context: Context) -> set[int]:
        """The steps of this mini-batch that take part; raises `TopologyMismatch` when K > T, or T is not known."""
        if context.steps == ENDLESS:
            raise TopologyMismatch(
                "SLTT-K draws K of T steps beforehand, and a stream without an end has no T; say how many steps a "
                "sequence has (steps), or choose temporal credit 'sltt'"
            )
        if not 1 <= self.k <= context.steps:
            raise TopologyMismatch(
                f"SLTT-K was asked for K = {self.k} of T = {context.steps} steps; expected 1 <= K <= T: "
                "lower rule.temporal.k or raise train.steps"
            )
        return set(context.draws.subset(Key("subset", "", context.sequence), context.steps, self.k))

    def runs(self, start: int, stop: int, context: Context) -> Iterator[tuple[int, int, bool]]:
        """Maximal runs of chosen, and of other, steps."""
        chosen = self.chosen(context)
        for takes_part, group in groupby(range(start, stop), key=lambda t: t in chosen):
            steps = list(group)
            yield steps[0], steps[-1] + 1, takes_part

    def gain(self, steps: int) -> float:
        """T/K when rescaling, else 1."""
        return steps / self.k if self.rescale else 1.0


class SLTTKOptions(Choice):
    """Options of SLTT-K."""

    k: int = Field(1, ge=1, description="how many of the T steps take part in credit")
    rescale: bool = Field(
        False, description="multiply by T/K, so that the expected gradient is SLTT's (ours, unpublished)"
    )


temporals.register(
    "sltt-k",
    SLTTKOptions,
    lambda choice: SLTTK(choice.k, choice.rescale),
    "instantaneous, at K of T steps drawn for every mini-batch",
    facts={
        "paper": "Meng et al. 2023",
        "published": "equations and code",
        "inferred": "none",
        "equation": "dW[t] = delta[t] s[t]^T at K of T steps, drawn anew for every mini-batch",
    },
)
