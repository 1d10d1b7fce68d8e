"""Runs the code of a page as a reader would: block after block, in one folder and one Python session."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from math import inf
from pathlib import Path
from typing import Any

from docs.markdown import Block, blocks

from onward.cli import main

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
MARK = re.compile(rf"{NUMBER.pattern}|[^\s─━]")
SAME, NEAR = 0.05, 5.0
"""By how much numbers that code prints, and points in percent, may differ from what a page shows."""
PROGRESS = re.compile(r"^epoch \d+/\d+ batch .*\n", re.MULTILINE)
"""Lines that a slow machine prints, and a fast one does not."""


@dataclass
class Reader:
    """Somebody who works through a page in ``folder``."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    printed: str | None = None

    def work_through(self, page: Path) -> int:
        """Does what the page says; returns how many blocks were run, saved or compared."""
        return sum(self.follow(block) for block in blocks(page) if block.left_out is None)

    def follow(self, block: Block) -> bool:
        """Saves a block that is a file, runs one that is code, compares one that shows what code printed."""
        if block.saved_as is not None:
            self.save(block, block.saved_as)
        elif block.language == "python":
            self.printed = self.run_python(block)
        elif block.language == "console":
            self.run_console(block)
        elif block.language == "text" and block.adjoins and self.printed is not None:
            assert_shown(block.text.splitlines(), self.printed, str(block), SAME)
        else:
            self.printed = None
            return False
        return True

    def save(self, block: Block, name: str) -> None:
        """Writes a file; a module of Onward's own is imported, as it would be when Onward starts."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        if name.startswith("src/onward/"):
            self.load(path, ".".join(Path(name).relative_to("src").with_suffix("").parts))

    def load(self, path: Path, name: str) -> None:
        """Imports ``path`` as the module ``name``."""
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])

    def run_python(self, block: Block) -> str:
        """What a block prints."""
        shifted = "\n" * block.line + block.text
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(shifted, str(block.page), "exec"), self.names)
        return out.getvalue()

    def run_console(self, block: Block) -> None:
        """Every command of a block must end well and print what is shown below it."""
        for line, shown in commands(block.text):
            program, *tokens = shlex.split(line, comments=True)
            assert program == "onward", f"{block}: {program} cannot be run here; say why it is not, or make it `sh`"
            with redirect_stdout(io.StringIO()) as out:
                code = main([found for token in tokens for found in self.expanded(token)])
            assert code == 0, f"{block}: `{line}` ended with {code}:\n{out.getvalue()}"
            assert_shown(shown, out.getvalue(), str(block))

    def expanded(self, token: str) -> list[str]:
        """What a shell makes of a word with a star."""
        found = sorted(path.relative_to(self.folder) for path in self.folder.glob(token)) if "*" in token else []
        return [path.as_posix() for path in found] or [token]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console, each with the lines shown below it."""
    joined = text.replace("\\\n", " ")
    for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        yield line, shown


def assert_shown(shown: list[str], printed: str, where: str, within: float = inf) -> None:
    """A page shows what was printed, but for breaks of lines; ``...`` stands for what is left out.

    Shares in percent may differ by `NEAR`, other numbers ``within`` that and as large a part of themselves.
    """
    rest = marks(PROGRESS.sub("", printed))
    for part in filter(None, map(marks, "\n".join(shown).split("..."))):
        starts = range(len(rest) - len(part) + 1)
        at = next((start for start in starts if all(map(alike, part, rest[start:]))), None)
        assert at is not None, f"{where}: this was not printed (any more): {' '.join(part)}\n--- printed:\n{printed}"
        for told, real, unit in zip(part, rest[at:], [*part[1:], ""], strict=False):
            near = told == real or near_by(number(told), number(real), NEAR if unit == "%" else within)
            assert near, f"{where}: {told} is shown, and {real} was printed:\n{printed}"
        rest = rest[at + len(part) :]


def marks(text: str) -> list[str]:
    """Numbers, and whatever else leaves a mark, one by one."""
    return MARK.findall(text)


def alike(told: str, real: str) -> bool:
    """Whether two marks are the same, or both numbers."""
    return told == real or bool(NUMBER.fullmatch(told) and NUMBER.fullmatch(real))


def number(told: str) -> float:
    """What a number says; a comma parts thousands, or ends a number in a list."""
    return float(told.replace(",", ""))


def near_by(told: float, real: float, within: float) -> bool:
    """Whether two numbers are close: shares in percent by points, others by as large a part of themselves, too."""
    return abs(told - real) <= within + (within * abs(real) if within < 1 else 0)
