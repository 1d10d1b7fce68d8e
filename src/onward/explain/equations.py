"""The equations of a rule, as its own file states them.

An entry of a registry may bring a fact ``equation``. Where it does not, they are read from the docstring of the module
that builds it: what its first line says after the colon, if that is an equation, and its indented blocks. Of an online
rule they are those of the grid, then those of its three choices.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from inspect import cleandoc
from textwrap import dedent
from typing import Any

from onward.core.registry import Choice, Entry, Registry
from onward.credit import locals_, spatials, temporals
from onward.rules import rules

GRID: dict[str, Registry[Any]] = {"temporal": temporals, "spatial": spatials, "local": locals_}
"""The axes of the credit grid, by the field of an online rule that chooses on each."""

LETTERS = {
    "alpha": "α", "beta": "β", "delta": "δ", "ebar": "ē", "eps": "ε", "eta": "η", "gamma": "γ", "kappa": "κ",  # noqa: RUF001
    "lam": "λ", "lambda": "λ", "psi": "ψ", "rho": "ρ", "sigma": "σ", "sqrt": "√", "sum": "Σ", "tau": "τ",  # noqa: RUF001
    "theta": "θ",
}  # fmt: skip
WORDS = re.compile(rf"(?<![A-Za-z])(d?)({'|'.join(sorted(LETTERS, key=len, reverse=True))})(?![a-z])")
RAISED = dict(zip("0123456789+-TlNt", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀˡᴺᵗ", strict=True))
SIGNS = {"<-": "←", "->": "→", "<=": "≤", ">=": "≥", "+-": "±", "||": "‖", "`": "", " * ": " · "}
CELL = re.compile(r"\S+(?: \S+)*")


def entries(choice: Choice) -> Iterator[tuple[str, Entry[Any]]]:
    """The registry's entry of a rule, and those of its choices on the credit grid, with what they are called.

    >>> [of for of, _ in entries(rules.parse("sltt"))]
    ['rule sltt', 'temporal sltt', 'spatial bp', 'local none']
    """
    yield f"rule {choice.name}", rules.entry(choice.name)
    for axis, registry in GRID.items():
        if (part := getattr(choice, axis, None)) is not None:
            yield f"{axis} {part.name}", registry.entry(part.name)


def stated(entry: Entry[Any]) -> list[str]:
    """The equations that one entry states; none where there is nothing to compute."""
    if "equation" in entry.facts:
        return [block for block in [entry.facts["equation"]] if block]
    module = sys.modules.get(getattr(entry.build, "__module__", ""))
    text = cleandoc(getattr(module, "__doc__", None) or "")
    told = text.partition("\n")[0].partition(": ")[2].rstrip(".")
    blocks = [dedent(part.strip("\n")) for part in text.split("\n\n") if part.startswith("    ")]
    return [told, *blocks] if "=" in told else blocks


def printed(block: str) -> str:
    """A block with the letters of mathematics in place of their names, columns where they were.

    >>> printed("dW^{l+1} <- sum_t delta[t] a[t]^T")
    'dWˡ⁺¹ ← Σ_t δ[t] a[t]ᵀ'
    """
    lines = [list(CELL.finditer(line)) for line in block.split("\n")]
    starts = Counter(cell.start() for line in lines for cell in line)
    return "\n".join(_line(cells, {start for start, times in starts.items() if times > 1}) for cells in lines)


def _line(cells: list[re.Match[str]], columns: set[int]) -> str:
    """A line; cells in ``columns`` stay there, others keep their distance from the one before."""
    made, end = "", 0
    for cell in cells:
        gap = " " * (cell.start() - end)
        made = (made.ljust(cell.start()) if cell.start() in columns else made + gap) + _mathematics(cell[0])
        end = cell.end()
    return made


def _mathematics(text: str) -> str:
    for name, sign in SIGNS.items():
        text = text.replace(name, sign)
    text = WORDS.sub(lambda word: word[1] + LETTERS[word[2]], text)
    return re.sub(r"\^(\{[^}]*\}|\([^()]*\)|-?[A-Za-z0-9])", _raised, text)


def _raised(power: re.Match[str]) -> str:
    """A power in raised letters, where all of it has them."""
    inner = power[1].strip("{}()").replace(" ", "")
    return "".join(RAISED[letter] for letter in inner) if set(inner) <= set(RAISED) else power[0]
