"""Training again from what was noted: a few numbers an update in place of weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from onward.core import Draws, LearningRule
from onward.core.drawn import Direction, Drawn, Term, descend, names_of
from onward.core.errors import ConfigError
from onward.optim import parameter_groups


@dataclass(frozen=True)
class Note:
    """What an update takes beside the seed: the mini-batch's number, a coefficient for each direction, the rate."""

    sequence: int
    coefficients: tuple[float, ...]
    lr: float

    @classmethod
    def of(cls, drawn: Drawn, sequence: int, lr: float) -> Note:
        """The note of a gradient that a sink handed over."""
        return cls(sequence, tuple(term.coefficient for term in drawn.terms), lr)


@runtime_checkable
class Retraceable(Protocol):
    """A rule whose gradient is a sum of directions that draws and the mini-batch's number alone decide."""

    def lines(self, draws: Draws, sequence: int) -> list[Direction]:
        """The directions."""
        ...


def replay(
    net: nn.Module,
    rule: LearningRule,
    draws: Draws,
    notes: Iterable[Note],
    *,
    weight_decay: float = 0.0,
    decay_all: bool = False,
) -> None:
    """Takes ``net`` from its initial weights to where plain SGD took it, to the last bit, without data.

    ``draws`` have the seed of that run; weight decay is that of `onward.optim.parameter_groups`. Statistics of
    normalisation layers stay as they are. Costs an update for each note, no forward pass; memory O(1). Raises
    `ConfigError` for a rule whose directions depend on more.
    """
    if not isinstance(rule, Retraceable):
        raise ConfigError(
            f"{type(rule).__name__} cannot be replayed, since seed and mini-batch do not tell its directions; expected "
            "mezo, forward-difference, one-point, es or forward-gradient"
        )
    names = names_of(net)
    groups = parameter_groups(net, nn.Identity(), weight_decay, decay_all)
    for note in notes:
        lines = rule.lines(draws, note.sequence)
        gradient = Drawn.known([Term(*pair) for pair in zip(note.coefficients, lines, strict=True)], names)
        descend([gradient], [{**group, "lr": note.lr} for group in groups])
