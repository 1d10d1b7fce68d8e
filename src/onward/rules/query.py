"""Learning from losses along directions whose standard deviations are learned: those of a query network (ZO-L2L).

    s = 1 + out(last estimate, last update);   std = s sqrt(d) / |s|;   z = |std| e,   e normal
    gradient = (1/n) sum_i [L(w + eps z_i) - L(w - eps z_i)] / (2 eps)  z_i

The network (`onward.optim.QueryRNN`) is one small LSTM that each of the d weights runs by itself, with a state of its
own; ``onward meta-train --meta.subject query`` trains one (`onward.optim.meta_query`), ``--rule.weights`` names it. As
published, a direction takes the learned deviations with probability ``share`` = 1/2 and is plain noise else; here
that is drawn for each direction, keyed by mini-batch and direction. E[z z^T] = diag(std^2): the estimate has the mean
diag(std^2) grad L along learned directions. At the start, where nothing is known, std is 1.

Two forward passes a direction, and the query network's own: 440 products a weight and mini-batch at its default size.
Memory: 2 + 2 hidden numbers a weight, in the checkpoint, and 1 + 2 hidden more while a mini-batch is under way. Source:
Ruan et al. 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.drawn import Direction, Ray, Term, names_of
from onward.core.draws import Draws, Gaussian, Key, Uniform
from onward.core.errors import ConfigError
from onward.core.network import Network
from onward.core.norms import Norms, PerStep
from onward.core.probe import Runs
from onward.core.recall import View, blocks_of
from onward.core.registry import Choice
from onward.core.rule import Lesson
from onward.core.sequence import Sequence
from onward.optim.cell_file import QUERY, read_query
from onward.optim.features import State
from onward.optim.query import QueryRNN, scaled
from onward.rules.guided import STENCILS, Recalling, RecallingRule
from onward.rules.registry import NormScope, norms_of, rules
from onward.rules.spsa import DESCENT, Stencil

AT_ONCE = 2**12
"""Weights whose LSTMs run together."""


@dataclass(frozen=True)
class Stretched(Direction):
    """Noise times deviations ``[P]`` that lie as what ``view`` remembers does."""

    ray: Ray
    view: View
    deviations: Tensor

    def block(self, name: str, number: int, values: Tensor) -> Tensor:
        """See `Direction.block`."""
        return self.ray.block(name, number, values).mul_(self.deviations[self.view.at(name, number, len(values))])


@dataclass
class Asking(Recalling):
    """The carry of probes along learned directions: the states that the query network goes on from afterwards."""

    state: State = field(default_factory=dict)


class QueryRule(RecallingRule):
    """See the module's docstring; the file ``weights`` is read when the rule is bound."""

    query: QueryRNN
    h: Tensor
    c: Tensor

    def __init__(
        self, stencil: Stencil, weights: str | None, directions: int = 1, share: float = 0.5, norms: Norms | None = None
    ):
        super().__init__(stencil, directions, Gaussian(), norms or PerStep())
        self.weights, self.share = weights, share

    def files(self) -> dict[str, Path]:
        """See `LearningRule.files`; raises `ConfigError` where there is none."""
        if self.weights is None:
            raise ConfigError(
                "rule query needs the weights of a query network; make some with `onward meta-train --meta.subject "
                "query`, then add --rule.weights FILE"
            )
        path = Path(self.weights).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"--rule.weights {self.weights}: there is no such file; {QUERY.how}, so put it back if it was there, "
                "or name the file where it is now"
            )
        return {"weights": path}

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """See `LearningRule.allocate`; raises `ConfigError` or `CheckpointError` for a file that will not do."""
        super().allocate(net, sample, draws)
        self.query = read_query(self.files()["weights"]).requires_grad_(False).to(self.recall.estimate)
        for name, zeros in self.query.rest(self.recall.estimate).items():
            self.register_buffer(name, zeros)

    @torch.no_grad()
    def directed(self, lesson: Lesson) -> Asking:
        """See `ProbingRule.directed`."""
        view, state = self.recall.view(), {"h": self.h.clone(), "c": self.c.clone()}
        deviations = self.deviations(view, state, lesson.net)
        rays = self.rays(lesson.context.draws, lesson.context.sequence)
        chosen: list[Direction] = [Stretched(ray, view, deviations) if self.learns(ray) else ray for ray in rays]
        return Asking(rays=chosen, view=view, state=state)

    def learns(self, ray: Ray) -> bool:
        """Whether the direction takes the learned deviations."""
        key, one = Key(f"choice/{ray.purpose}", "query", ray.sequence), torch.zeros(1, dtype=torch.int64)
        drawn = ray.draws.draw(Uniform(), key, one, one, (), torch.zeros((), dtype=torch.float64))
        return float(drawn) < self.share

    def deviations(self, view: View, state: State, net: Network) -> Tensor:
        """|std| ``[P]``; ``state`` moves on in place."""
        out = torch.zeros_like(view.estimate)
        names, counted = names_of(net), 0
        for parameter, number, values in blocks_of(names):
            here = view.at(names[parameter], number, len(values))
            rows = view.guides(names[parameter], number, values).T
            own = {name: tensor[:, here] for name, tensor in state.items()}
            out[here], counted = 1 + self.query.core.move(rows, own, AT_ONCE), counted + len(values)
        return scaled(out, counted).abs_()

    def learned(self, net: Network, runs: Runs, gradient: list[Term]) -> list[Term]:
        """See `StencilRule.learned`."""
        assert isinstance(runs, Asking)
        for name, moved in runs.state.items():
            getattr(self, name).copy_(moved)
        return super().learned(net, runs, gradient)

    def carries(self) -> int:
        """See `RayRule.carries`: deviations, and states that moved on."""
        return self.recall.estimate.nbytes + self.h.nbytes + self.c.nbytes


class QueryOptions(Choice):
    """Options of learned directions."""

    weights: str | None = Field(None, description="file of a query network, as `onward meta-train` writes them")
    share: float = Field(
        0.5, ge=0, le=1, description="probability that a direction takes the learned deviations, and is no plain noise"
    )
    eps: float = Field(0.03, gt=0, description="how far weights are moved, in units of z")
    directions: int = Field(1, ge=1, description="random directions a mini-batch; the gradient is their mean")
    stencil: Literal["antithetic", "one-sided"] = Field(
        "antithetic", description="weights moved back and forth, or the network itself and weights moved"
    )
    norm_over: NormScope


rules.register(
    "query",
    QueryOptions,
    lambda c: QueryRule(STENCILS[c.stencil](c.eps), c.weights, c.directions, c.share, norms_of(c.norm_over)),
    "as mezo, along normal noise whose deviations a trained query network chooses, weight by weight",
    defaults={"norm_over": "step"},
    facts={
        "paper": "Ruan et al. 2020",
        "published": "equations, code",
        "inferred": "a choice for each direction; eps and rate for SNNs",
    },
    brings=DESCENT,
)
