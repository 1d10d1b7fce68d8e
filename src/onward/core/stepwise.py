"""Rules that learn from a step as soon as its target is known: a step is run first, and credited afterwards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from onward.core.interpret import Record
from onward.core.rule import LearningRule, Lesson
from onward.core.signal import Carry
from onward.kernels.rows import SparseRows


@dataclass(frozen=True)
class Ran:
    """Steps that were run and are yet to be credited: ``record`` is what they left, ``x`` what they read.

    ``before`` is the carry that they started from; ``takes_part`` says whether they take part in credit.
    """

    record: Record
    before: Carry
    x: Tensor | SparseRows
    takes_part: bool


class Stepwise(LearningRule):
    """A rule whose step has two halves: `advance` runs the network, `credit` makes deposits once targets are there."""

    @abstractmethod
    def advance(self, lesson: Lesson, x: Tensor | SparseRows, takes_part: bool) -> Ran:
        """Runs the chunk ``x`` ``[K, B, ...]``, all of which takes part in credit or does not; reads no target."""

    @abstractmethod
    def credit(self, lesson: Lesson, ran: Ran) -> None:
        """Deposits what the targets of ``lesson`` say of steps that were run; called once for each, in order."""

    def step(self, lesson: Lesson, x: Tensor | SparseRows) -> Tensor:
        """See `LearningRule.step`."""
        outs = []
        for ran in self.advancing(lesson, x):
            lesson.saw(ran.record)
            self.credit(lesson, ran)
            outs.append(ran.record.out.detach())
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def advancing(self, lesson: Lesson, x: Tensor | SparseRows) -> Iterator[Ran]:
        """Runs ``x`` in pieces that take part in credit and pieces that do not, each when it is asked for."""
        start = lesson.carry.step
        for first, stop, takes_part in self.runs(start, start + len(x), lesson.context):
            yield self.advance(lesson, x[first - start : stop - start], takes_part)
