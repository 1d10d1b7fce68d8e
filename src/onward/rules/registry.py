"""The registry of learning rules, and the options that all of them share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from onward.core.norms import Norms, PerSequence, PerStep
from onward.core.registry import Choice, Registry
from onward.core.rule import LearningRule

rules: Registry[LearningRule] = Registry("rule")

NormScope = Annotated[
    Literal["step", "sequence"],
    Field(description="what batch normalisation averages over while training: each step, or the whole sequence"),
]

RuleChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(rules.parse)]

_NORMS: dict[str, Norms] = {"step": PerStep(), "sequence": PerSequence()}


def norms_of(scope: str) -> Norms:
    """The normaliser of a scope."""
    return _NORMS[scope]
