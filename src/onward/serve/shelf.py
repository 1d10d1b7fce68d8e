"""What there is under a folder: runs, and pages that commands of Onward wrote.

Whatever a browser asks for is looked up among these by its name; no path is ever made of what it sends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from onward.train.folder import CONFIG, DONE, INTERFACE, METRICS

DEEPEST = 5
"""Folders below the one served: a comparison's runs lie four deep."""
MOST = 5000
PAGES = ("comparison.html", "reproduction.html", "report.html", "run.html")
FRESH_SECONDS = 600.0


@dataclass(frozen=True)
class Found:
    """A folder by its ``name``, the path below the one served, with ``/`` between."""

    name: str
    path: Path

    @property
    def label(self) -> str:
        """What pages call it: its name, or row, seed and comparison where it is one of a comparison's trainings."""
        match self.name.split("/"):
            case [*above, "runs", row, _] if above:
                return f"{row}, {'/'.join(above)}"
        return self.name

    @property
    def is_run(self) -> bool:
        """Whether a training wrote the folder."""
        return _own(self.path / CONFIG) and _own(self.path / INTERFACE)

    @property
    def pages(self) -> list[str]:
        """The names of the pages in it."""
        return [name for name in PAGES if _own(self.path / name)]

    @property
    def summary(self) -> Mapping[str, Any]:
        """What a finished run came to; empty before."""
        try:
            told = json.loads((self.path / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return told if isinstance(told, dict) else {}

    @property
    def state(self) -> str:
        """Finished, in progress, or unfinished for some time, in words."""
        if (self.path / DONE).is_file():
            return "finished"
        return "in progress" if time() - self.touched < FRESH_SECONDS else "not finished"

    @property
    def touched(self) -> float:
        """When the run last wrote metrics, or else when its configuration or its page was written."""
        for name in (METRICS, CONFIG, *PAGES):
            if (self.path / name).is_file():
                return (self.path / name).stat().st_mtime
        return 0.0


def shelf(root: Path) -> dict[str, Found]:
    """Everything under ``root`` by name, what was written last first; links to elsewhere are not followed."""
    found = sorted(_walk(root), key=lambda one: (one.touched, one.name), reverse=True)
    return {one.name: one for one in found[:MOST]}


def _walk(root: Path) -> Iterator[Found]:
    for folder, below, _ in os.walk(root):
        path = Path(folder)
        one = Found(path.relative_to(root).as_posix(), path)
        if one.is_run or one.pages:
            yield one
        if one.is_run or len(path.relative_to(root).parts) >= DEEPEST:
            below.clear()
        below[:] = [name for name in below if not name.startswith(".") and not (path / name).is_symlink()]


def _own(path: Path) -> bool:
    """Whether there is such a file, and it is no link to one elsewhere."""
    return path.is_file() and not path.is_symlink()
