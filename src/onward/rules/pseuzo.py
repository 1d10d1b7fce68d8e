"""Pseudo-zeroth order: how outputs change along random directions is measured, how the loss changes with outputs known.

    D_k = o(w + eps z_k) - o(w),   g = dL/do at w,   gradient = sum_k lambda^age(k) <D_k, g> / eps  z_k

o is the value that the objective reads from a sequence (mean, weighted or summed outputs ``[B, m]``), g its error on
the mini-batch at hand, and k runs over the last mini-batches, whose differences stay in a window: those of other
samples and of earlier weights. Entries beyond the first ``rows`` samples are not remembered. Not divided by the number
of entries: the step grows with the window. Two forward passes a mini-batch, no backward pass; memory of inference, of
the largest layer, and ``window x rows x m`` numbers. As published, lambda is 1 in the first epoch of a cycle, then 1 /
(1 + 10 t). Source: Yue et al. 2025 (PseuZO, code for language models).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from onward.core.drawn import Direction, Term
from onward.core.draws import Draws, Law, Rademacher
from onward.core.errors import TopologyMismatch
from onward.core.interpret import shapes
from onward.core.network import Network
from onward.core.norms import Norms, PerStep
from onward.core.probe import ProbingRule, Runs, Shift, drawn, finite, terms
from onward.core.registry import Choice
from onward.core.rule import Lesson, Traits
from onward.core.sequence import Sequence
from onward.core.signal import Context
from onward.rules.registry import norms_of, rules
from onward.rules.spsa import DESCENT, LAWS, LawName, NormScope


class Window(nn.Module):
    """The last ``length`` differences of outputs ``[rows, *features]``, newest first, and their mini-batches."""

    differences: Tensor
    sequences: Tensor

    def __init__(self, length: int, rows: int, features: tuple[int, ...]):
        super().__init__()
        self.register_buffer("differences", torch.zeros(length, rows, *features, dtype=torch.float64))
        self.register_buffer("sequences", torch.full((length,), -1, dtype=torch.int64))

    @property
    def rows(self) -> int:
        """How many samples of a mini-batch are remembered."""
        return self.differences.shape[1]

    def push(self, difference: Tensor, sequence: int) -> None:
        """Takes the newest one in, and lets the oldest go."""
        self.differences.copy_(self.differences.roll(1, 0))
        self.sequences.copy_(self.sequences.roll(1, 0))
        kept = difference[: self.rows]
        self.differences[0].zero_()[: len(kept)] = kept
        self.sequences[0] = sequence

    def empty(self) -> None:
        """Forgets everything."""
        self.differences.zero_()
        self.sequences.fill_(-1)

    def dots(self, error: Tensor) -> Tensor:
        """<D_k, g> for each filled entry and the error g ``[B, *features]``, over the samples that both have."""
        kept = self.differences[: len(self.filled), : len(error)]
        return (kept * error[: kept.shape[1]]).flatten(1).sum(1)

    @property
    def filled(self) -> list[int]:
        """The mini-batches that there are differences of, newest first."""
        return [sequence for sequence in self.sequences.tolist() if sequence >= 0]

    def weights(self, decay: float) -> Tensor:
        """decay^age for each entry that is filled."""
        ages = torch.arange(len(self.filled), dtype=torch.float64, device=self.sequences.device)
        return decay**ages


class PseudoZO(ProbingRule):
    """See the module's docstring."""

    window: Window

    def __init__(
        self,
        eps: float,
        length: int = 14,
        decay: float = 1.0,
        rows: int = 256,
        law: Law | None = None,
        norms: Norms | None = None,
    ):
        super().__init__(1, law or Rademacher(), norms or PerStep())
        self.eps, self.length, self.decay, self.rows = eps, length, decay, rows

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return replace(super().traits, rate=True)

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """The window, in the shape of the outputs; raises `TopologyMismatch` for outputs that are no vectors."""
        out = shapes(net, sample, draws)[-1]
        if len(out) != 1:
            raise TopologyMismatch(
                f"outputs have shape {list(out)}; expected one number a class: end the network with a linear readout"
            )
        self.window = Window(self.length, self.rows, tuple(out))

    def shifts(self, rays: list[Direction]) -> list[Shift]:
        """See `ProbingRule.shifts`: the network itself comes first."""
        return [Shift(), Shift(rays[0], self.eps)]

    def deposit(self, lesson: Lesson, runs: Runs) -> None:
        """See `ProbingRule.deposit`: processes tell each other outputs and errors of their samples."""
        context, objective = lesson.context, lesson.objective
        still, moved = (run.evidence for run in runs.runs)
        assert still is not None
        assert moved is not None
        read, gain = objective.reduce.finish, objective.reduce.gain(context.steps)
        error = objective.rate_errors(still, lesson.y, context.steps, context.samples) / gain
        difference = read(moved, context.steps) - read(still, context.steps)
        told = error.new_zeros(2, context.samples, error.shape[1])
        told[:, context.share.first : context.share.first + len(error)] = torch.stack([difference, error])
        drawn(lesson, told, lambda told: self.weigh(finite(told), context))

    def weigh(self, told: Tensor, context: Context) -> list[Term]:
        """Takes the difference of the whole mini-batch into the window; a term for each entry."""
        difference, error = told
        self.window.push(difference, context.sequence)
        newest = (difference * error).sum()  # of all samples, remembered or not
        dots = torch.cat([newest.view(1), self.window.dots(error)[1:]])
        self.look(newest.view(1) / self.eps, (difference == 0).all().view(1))
        coefficients = self.window.weights(self.decay) * dots / self.eps
        return terms(coefficients, [self.rays(context.draws, sequence)[0] for sequence in self.window.filled])

    def warnings(self) -> list[str]:
        """Says so where probes change nothing."""
        return self.silence(f"raise the distance, such as --rule.eps {10 * self.eps:g} in place of {self.eps:g}")


class PseudoZOOptions(Choice):
    """Options of pseudo-zeroth order."""

    eps: float = Field(0.03, gt=0, description="how far weights are moved, in units of z")
    window: int = Field(14, ge=1, le=256, description="mini-batches whose differences are remembered")
    decay: float = Field(1 / 11, ge=0, le=1, description="lambda: what a mini-batch weighs, as a share of the next one")
    rows: int = Field(256, ge=1, description="samples of a mini-batch that are remembered")
    law: LawName = Field("rademacher", description="distribution of z: signs, or standard normal")
    norm_over: NormScope


rules.register(
    "pseudo-zo",
    PseudoZOOptions,
    lambda c: PseudoZO(c.eps, c.window, c.decay, c.rows, LAWS[c.law], norms_of(c.norm_over)),
    "changes of outputs along random directions, the last ones remembered, times the error of the outputs",
    defaults={"norm_over": "step"},
    facts={"paper": "Yue et al. 2025", "published": "code, for language models", "inferred": "the form for SNNs"},
    brings={**DESCENT, "objective": {"name": "readout", "reduce": "mean"}},
)
