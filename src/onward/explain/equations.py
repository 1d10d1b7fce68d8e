"""The equations of a rule, as its own file states them.

An entry of a registry may bring a fact ``equation``. Where it does not, they are read from the docstring of the module
that builds it: what its first line says after the colon, if that is an equation, and its indented blocks. Of an online
rule they are those of the grid, then those of its three choices.
"""

from __future__ import annotations

import sys
from inspect import cleandoc
from textwrap import dedent
from typing import Any

from onward.core.registry import Choice, Entry, Registry
from onward.credit import locals_, spatials, temporals
from onward.rules import rules

GRID: dict[str, Registry[Any]] = {"temporal": temporals, "spatial": spatials, "local": locals_}
"""The axes of the credit grid, by the field of an online rule that chooses on each."""


def equations(choice: Choice) -> list[str]:
    """The equations of the rule that ``choice`` describes, a block of lines each.

    >>> equations(rules.parse("sltt"))[1]
    'the current input alone, dW[t] = delta[t] s[t]^T'
    """
    found = stated(rules.entry(choice.name))
    for axis, registry in GRID.items():
        if (part := getattr(choice, axis, None)) is not None:
            found += stated(registry.entry(part.name))
    return found


def stated(entry: Entry[Any]) -> list[str]:
    """The equations that one entry states; none where there is nothing to compute."""
    if "equation" in entry.facts:
        return [block for block in [entry.facts["equation"]] if block]
    text = cleandoc(sys.modules[entry.build.__module__].__doc__ or "")
    first, _, _ = text.partition("\n")
    told = first.partition(": ")[2].rstrip(".")
    blocks = [dedent(part.strip("\n")) for part in text.split("\n\n") if part.startswith("    ")]
    return [told, *blocks] if "=" in told else blocks
