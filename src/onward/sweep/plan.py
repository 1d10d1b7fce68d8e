"""What a sweep searches: the configuration that trials have in common, and the fields in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import prod
from pathlib import Path

from onward.core.errors import ConfigError
from onward.sweep.axes import Axis, Listed, Value, checked, read_axis
from onward.train.config import RunConfig
from onward.train.grammar import Request, parse_tokens

HELD_OUT = ("--train.validation", "0.1")
"""Where neither recipe nor flags hold anything out."""


@dataclass(frozen=True)
class Plan:
    """Up to ``trials`` configurations: ``tokens``, as in `onward train`, with a value for the field of each axis.

    Where ``prune``, trials below the median of earlier ones are ended early.
    """

    tokens: tuple[str, ...]
    axes: tuple[Axis, ...]
    trials: int
    prune: bool = True

    @property
    def base(self) -> RunConfig:
        """The configuration with the first value of every axis."""
        return self.config({axis.field: axis.extremes[0] for axis in self.axes})

    @property
    def grid(self) -> list[Mapping[str, Value]] | None:
        """All configurations, where they are listed and no more than the trials; else None, and a sampler chooses."""
        lists = [axis.values for axis in self.axes if isinstance(axis, Listed)]
        if len(lists) < len(self.axes) or prod(map(len, lists)) > self.trials:
            return None
        return [dict(zip((axis.field for axis in self.axes), values, strict=True)) for values in product(*lists)]

    @property
    def count(self) -> int:
        """How many trials there are to be."""
        return self.trials if self.grid is None else len(self.grid)

    def config(self, values: Mapping[str, Value]) -> RunConfig:
        """The configuration of a trial; raises as `parse_tokens` does."""
        return parse_tokens([*self.tokens, *chain.from_iterable(a.flags(values[a.field]) for a in self.axes)])


def planned(tokens: Sequence[str], over: Sequence[str], trials: int, prune: bool = True) -> Plan:
    """A plan that has been tried: every end and every listed value is one that its field takes.

    Raises `ConfigError`, or `UnknownOption` for a field that there is not.
    """
    if not over:
        raise ConfigError("a sweep needs fields to search over, such as --over optim.lr=1e-4..1e-1:log")
    if trials < 1:
        raise ConfigError(f"--trials: {trials} was given; expected a whole number at least 1")
    plan = read_plan(_holding_out(tokens), over, trials, prune)
    first = {axis.field: axis.extremes[0] for axis in plan.axes}
    for axis in plan.axes:
        for value in axis.extremes:
            plan.config({**first, axis.field: value})
    if plan.base.stream.name != "none":
        raise ConfigError("a sweep chooses on held-out data, and in a stream of tasks nothing is held out")
    return plan


def read_plan(tokens: tuple[str, ...], over: Sequence[str], trials: int, prune: bool) -> Plan:
    """The plan with axes as they were written; raises as `planned` does for fields that there are not."""
    axes = tuple(map(read_axis, over))
    named = Plan(tokens, tuple(axis for axis in axes if isinstance(axis, Listed)), trials)
    return Plan(tokens, checked(axes, named.base), trials, prune)


def _holding_out(tokens: Sequence[str]) -> tuple[str, ...]:
    """``tokens``, with a part of the training data to choose by: never the test data."""
    request = Request.read(tokens)
    if parse_tokens(tokens).train.validation:
        return tuple(tokens)
    if request.sets("train", "validation"):
        raise ConfigError(
            "train.validation is 0, and a sweep chooses on held-out training data, never on test data; hold some out, "
            "such as --train.validation 0.1"
        )
    return (*tokens, *HELD_OUT)


def recipe_of(tokens: Sequence[str]) -> Path | None:
    """The recipe that ``tokens`` begin with."""
    return Path(tokens[0]) if tokens and not tokens[0].startswith("-") else None
