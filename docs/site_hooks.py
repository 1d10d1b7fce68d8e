"""What the site needs beyond MkDocs: its menu from the index, and the sources that pages link to, as pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[1]))

from docs.markdown import DOCS, LINK, ROOT, every_page, inside, links

LANGUAGES = {".py": "python", ".toml": "toml", ".md": "markdown"}
SECTION = re.compile(r"^## (?P<title>[^\n:]+)[^\n]*\n(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"^- \[(?P<title>[^]]+)\]\((?P<page>[^)#]+\.md)\)", re.MULTILINE)


def on_config(config: Any) -> Any:
    """The menu is that of the index."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    config.nav = [{"Start": "index.md"}]
    for section in SECTION.finditer(index):
        pages = [{item["title"]: item["page"]} for item in ITEM.finditer(section["body"])]
        config.nav.append({section["title"]: pages})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for every file outside of the documentation that a page links to."""
    for path in sorted({path for page in every_page() for path in _outside(page)}):
        files.append(File.generated(config, _place(path), content=_shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Sends links that leave the documentation to those pages."""
    source = DOCS / page.file.src_uri
    if not source.is_file():
        return markdown
    depth = len(PurePosixPath(page.file.src_uri).parts) - 1

    def moved(found: re.Match[str]) -> str:
        path = (source.parent / found["target"].partition("#")[0]).resolve()
        leaves = inside(found["target"]) and path.is_relative_to(ROOT) and not path.is_relative_to(DOCS)
        return f"]({'../' * depth}{_place(path)})" if leaves else found[0]

    return LINK.sub(moved, markdown)


def _outside(page: Path) -> list[Path]:
    """The files beyond the documentation that a page links to."""
    found = ((page.parent / target.partition("#")[0]).resolve() for target in links(page) if inside(target))
    return [path for path in found if not path.is_relative_to(DOCS)]


def _place(path: Path) -> str:
    return f"sources/{path.relative_to(ROOT).as_posix()}.md"


def _shown(path: Path) -> str:
    """A file, or what a folder holds, as a page."""
    title = f"# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_dir():
        return title + "\n".join(f"- `{each.name}`" for each in sorted(path.iterdir()) if each.name != "__pycache__")
    return f"{title}`````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text(encoding='utf-8')}\n`````\n"
