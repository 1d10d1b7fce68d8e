"""The page skeleton: text stays text, and nothing is fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from onward.report.page import Html, Section, facts, figure, grid, page, paragraph, table

HOSTILE = "<script>alert('x')</script>\"&"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Tree(HTMLParser):
    """Checks that every element is closed in order, and collects the elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(text: str) -> Tree:
    """The elements of a page; fails where one is not closed."""
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert tree.open == []
    return tree


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
