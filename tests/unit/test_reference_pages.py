"""The pages that are drawn from the program are what would be drawn now."""

from __future__ import annotations

import re

import pytest
from docs.reference_pages import REFERENCE, pages, table

from onward.cli import EXIT_CODES
from onward.rules import rules


@pytest.mark.parametrize(("path", "text"), pages().items(), ids=lambda value: getattr(value, "name", "text"))
def test_a_page_is_current_and_its_links_lead_somewhere(path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run: make reference"
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (REFERENCE / link).is_file(), link


def test_the_pages_leave_nothing_out() -> None:
    cli, written = (path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("[cr]*.md")) if path in pages())
    assert all(f"| {code} | {meaning} |" in cli for code, meaning in EXIT_CODES.items())
    assert all(word in cli for word in ("## onward data get", "`--rule.spatial.rho`", "`--meta.horizon`", "NO_COLOR"))
    assert all(f"\n### {name}\n" in written for name in rules.names())
    assert "transposed weights" in written


def test_cells_of_a_table_keep_to_their_line() -> None:
    assert table(("a",), [("x | y\nz",)]) == "| a |\n| --- |\n| x \\| y z |\n"
    assert table(("a",), []) == ""
