"""The works that rules and choices come from, as BibTeX.

An entry of a registry names them in its fact ``paper``, by the labels of works.bib, with semicolons between. An entry
that comes from elsewhere brings BibTeX of its own, as the fact ``bibtex``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from onward.core.registry import Entry

NO_WORK = "none needed"
"""What an entry says that is nobody's."""
BUILT_ON = "ours, on "
"""How an entry of our own names what it is built on."""
_RECORD = re.compile(r"^@\w+\{.*?^\}$", re.MULTILINE | re.DOTALL)
_LABEL = re.compile(r"^  label = \{(.*)\},$", re.MULTILINE)


@cache
def works() -> Mapping[str, str]:
    """Every work of works.bib by its label.

    >>> works()["Nokland 2016"].splitlines()[0]
    '@inproceedings{nokland2016direct,'
    """
    text = files("onward").joinpath("works.bib").read_text(encoding="utf-8")
    return {_label(record): record for record in _RECORD.findall(text)}


def _label(record: str) -> str:
    found = _LABEL.search(record)
    assert found is not None, record
    return found[1]


def cited(entries: Iterable[Entry[Any]]) -> list[str]:
    """BibTeX of the works that ``entries`` come from, each once; a comment in words stands for what has none."""
    found: dict[str, None] = {}
    for entry in entries:
        found |= dict.fromkeys(_of(entry))
    return list(found)


def _of(entry: Entry[Any]) -> list[str]:
    if own := str(entry.facts.get("bibtex", "")).strip():
        return [own]
    labels = str(entry.facts.get("paper", NO_WORK)).removeprefix(BUILT_ON).split("; ")
    return [works().get(label, f"% {entry.name}: {label}; no BibTeX is known") for label in labels if label != NO_WORK]
