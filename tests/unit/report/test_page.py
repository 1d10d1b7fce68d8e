"""The page skeleton: text stays text, and nothing is fetched."""

from __future__ import annotations

import re

from onward.report.page import Html, Section, facts, figure, grid, page, paragraph, table
from reference.html import parsed

HOSTILE = "<script>alert('x')</script>\"&"


def test_every_part_escapes_what_is_text() -> None:
    body = Html(
        table([[HOSTILE, HOSTILE]], [HOSTILE])
        + facts({HOSTILE: (HOSTILE, HOSTILE)})
        + grid([figure("<svg></svg>", HOSTILE), paragraph(HOSTILE)])
    )
    made = page(HOSTILE, [Section(HOSTILE, body, HOSTILE), Section("plain", HOSTILE)], HOSTILE)
    tree = parsed(made)
    assert "script" not in {tag for tag, _ in tree.seen}
    assert "".join(tree.text).count(HOSTILE) == 15


def test_a_page_fetches_nothing_and_links_to_its_sections() -> None:
    tree = parsed(page("Run", [Section("Learning curves", Html("")), Section("Time & memory", Html(""))]))
    targets = [v for _, given in tree.seen for k, v in given.items() if k in ("href", "src")]
    assert targets == ["#learning-curves", "#time-memory"]
    assert {"learning-curves", "time-memory"} <= {given.get("id") for _, given in tree.seen}


def test_numbers_stand_to_the_right() -> None:
    assert len(re.findall('class="number"', table([["loss", 0.5, "12.3 %", "-2", "sgd"]]))) == 3
