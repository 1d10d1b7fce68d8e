"""Reads the pages under `docs`: blocks of code with what is said of them, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent

FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"\*Not run by the tests \((?P<kind>[a-z]+)\): (?P<reason>.+)\.\*")
SAVED_AS = re.compile(r"`(?P<file>[\w./-]+)`:")
LINK = re.compile(r"(?<!\\)\]\((?P<target>[^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class LeftOut:
    """Why a block is not run: one of a few kinds, and the reason a reader sees above it."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Block:
    """A fenced block of ``page``, which begins at ``line``; ``above`` is the line of text before it, if it touches."""

    page: Path
    line: int
    language: str
    text: str
    above: str
    adjoins: bool

    @property
    def left_out(self) -> LeftOut | None:
        """What the page says of a block that is not run."""
        said = LEFT_OUT.fullmatch(self.above)
        return LeftOut(said["kind"], said["reason"]) if said else None

    @property
    def saved_as(self) -> str | None:
        """The file that a reader is told to put the block into."""
        said = SAVED_AS.fullmatch(self.above)
        return said["file"] if said else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(DOCS)}:{self.line}"


def every_page() -> list[Path]:
    """All pages."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text, end = page.read_text(encoding="utf-8"), 0
    for found in FENCE.finditer(text):
        between = text[end : found.start()]
        above = between.strip().rpartition("\n")[2].strip()
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[2].strip(), found[3], above, adjoins=end > 0 and not between.strip())
        end = found.end()


def prose(text: str) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def links(page: Path) -> Iterator[str]:
    """What a page links to, as written."""
    for found in LINK.finditer(prose(page.read_text(encoding="utf-8"))):
        yield found["target"]


def inside(target: str) -> bool:
    """Whether a link leads to a file or a heading of this project."""
    return not re.match(r"[a-z]+:", target)


def anchors(page: Path) -> set[str]:
    """The names under which headings of a page can be linked to: of those alike, the later ones get a number."""
    names = list[str]()
    for heading in HEADING.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        names.append(_anchor(heading["title"]))
    return {
        name if names[:at].count(name) == 0 else f"{name}_{names[:at].count(name)}" for at, name in enumerate(names)
    }


def _anchor(title: str) -> str:
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
