"""What a learning rule is, in words: its equations, what is local, what travels, what it needs, and what was traced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from onward.core import CrossEntropy, PerStep
from onward.core.errors import ConfigError, OnwardError, UnknownName
from onward.core.objective import objectives
from onward.core.registry import Choice
from onward.core.rule import Traits
from onward.explain.equations import GRID, entries, printed, stated
from onward.explain.growth import Growth, growth
from onward.explain.reach import Reach, reach
from onward.explain.tiny import Case
from onward.explain.trace import Traced, claimed, traced
from onward.explain.wording import Told, told
from onward.neurons import neurons
from onward.rules import rules
from onward.train import RunConfig, parse_tokens
from onward.train.parts import resolve_objective

UNKNOWN = "not stated"
ANY_CELL = "online"
PLAIN = ("--rule", ANY_CELL, "--rule.temporal", "sltt", "--rule.spatial", "dfa", "--rule.local", "none")
"""The cell in which a single choice of the grid is shown."""
BESIDE = "bptt"
"""The rule whose memory stands beside the others'."""
NAMING = ("--model", "--data")
"""Flags, and what begins with them and a dot, by which somebody names a network of their own."""


@dataclass(frozen=True)
class Source:
    """Where a rule, or a part ``of`` it, comes from."""

    of: str
    paper: str
    published: str
    inferred: str


@dataclass(frozen=True)
class Explanation:
    """All that `onward explain` says of a rule.

    ``name`` is what was asked for, ``cell`` its place on the credit grid where it has one, ``choice`` the rule with its
    options. ``equations`` are pairs of what they are of and their lines. ``untraced`` says why ``traced`` is what the
    traits claim, where no experiment was possible; ``growth`` is None then. ``beside`` is that of back-propagation
    through time. ``reach`` is what direct feedback can do in the network that was named, if one was.
    """

    name: str
    meaning: str
    cell: str
    choice: Choice
    equations: tuple[tuple[str, str], ...]
    told: Told
    sources: tuple[Source, ...]
    traits: Traits
    traced: Traced
    untraced: str
    growth: Growth | None
    beside: Growth
    reach: Reach | None = None

    def mapping(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "choice": self.choice.model_dump()}


def explain(name: str = "", *flags: str) -> Explanation:
    """Explains the rule or the choice of the credit grid called ``name``; ``flags`` are those of ``onward train``.

    Without a name, the rule that the flags choose. Trains a tiny network some fifteen times. Where errors go straight
    to the layers, and flags name a model or data, that network is looked at as well (see `reach`). Raises `UnknownName`
    with near names, and what `parse_tokens` raises.

    >>> explain("dfa").traced.direct
    True
    """
    config = parse_tokens([*_flags(name), *flags])
    if name in rules.names() and config.rule.name != name:
        raise ConfigError(f"{name} was given, and --rule {config.rule.name}; expected one of them")
    found = _explained(name or config.rule.name, config)
    named = any(flag.split("=")[0].split(".")[0] in NAMING for flag in flags)
    return replace(found, reach=reach(config, found.traced)) if named and _is_direct(found) else found


def _is_direct(found: Explanation) -> bool:
    """Whether errors, and not losses, come straight to the layers and by no other way."""
    return found.traced.direct and found.traced.told == "errors" and found.traits.backward == "none"


def _flags(name: str) -> tuple[str, ...]:
    """The flags that choose what is called ``name``."""
    if not name or name in rules.names():
        return ("--rule", name) if name else ()
    for axis, registry in GRID.items():
        if name in registry.names():
            return (*PLAIN, f"--rule.{axis}", name)
    raise UnknownName("rule", name, {*rules.names(), *(known for grid in GRID.values() for known in grid.names())})


def _explained(name: str, config: RunConfig) -> Explanation:
    case, traits = _case(config), rules.build(config.rule).traits
    untraced, grown = "", None
    try:
        found, grown = traced(case), growth(case)
    except OnwardError as error:
        found, untraced = claimed(traits, case.cyclic), str(error)
    beside = growth(Case(rules.parse(BESIDE), case.make, PerStep(CrossEntropy())))
    entry = next(registry.entry(name) for registry in (rules, *GRID.values()) if name in registry.names())
    return Explanation(
        name, entry.summary, _cell(config.rule), config.rule, tuple(_equations(config.rule)),
        told(traits, found, grown, beside), tuple(_sources(name, config.rule)), traits, found, untraced, grown, beside,
    )  # fmt: skip


def _case(config: RunConfig) -> Case:
    """What the rule is tried on: the configuration's neurons, and, for rules of rates, its objective."""
    per_step = not rules.build(config.rule).traits.rate
    objective = PerStep(CrossEntropy()) if per_step else objectives.build(resolve_objective(config))
    return Case(config.rule, lambda: neurons.build(config.neuron), objective, config.model.name == "feedback")


def _cell(choice: Choice) -> str:
    """The place of a rule on the credit grid, where it has one."""
    _, *parts = entries(choice)
    return ", ".join(of for of, _ in parts)


def _equations(choice: Choice) -> Iterator[tuple[str, str]]:
    for of, entry in entries(choice):
        for block in stated(entry):
            yield of, printed(block)


def _sources(name: str, choice: Choice) -> Iterator[Source]:
    """Of the rule where it has a name of its own, else of its choices that add something."""
    rule, *parts = entries(choice)
    for of, entry in parts if choice.name == ANY_CELL else [rule]:
        if entry.name != "none" or name == "none":
            yield Source(of, *(str(entry.facts.get(key, UNKNOWN)) for key in ("paper", "published", "inferred")))
