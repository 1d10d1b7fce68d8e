"""Links of the documentation lead to files and headings that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs.markdown import DOCS, ROOT, anchors, every_page, inside, links

WRITTEN = [*every_page(), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("examples/*/README.md")]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in filter(inside, links(page)):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} is not there"
        assert path.is_relative_to(ROOT), f"{target} leaves the project"
        assert not anchor or anchor in anchors(path), f"{path.name} has no heading #{anchor}"


def test_every_page_is_reached_from_the_index() -> None:
    reached, waiting = set[Path](), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        found = ((page.parent / target.partition("#")[0]).resolve() for target in filter(inside, links(page)))
        waiting.extend(path for path in found if path.suffix == ".md" and DOCS in path.parents and path not in reached)
    assert reached >= set(every_page())
