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
from pathlib import Path
from typing import Any

from docs.markdown import Block, blocks

from onward.cli import main

NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?")
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
            assert_shown(block.text.splitlines(), self.printed, str(block))
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


def assert_shown(shown: list[str], printed: str, where: str) -> None:
    """A page shows what was printed, but for numbers and breaks of lines; ``...`` stands for what is left out."""
    rest = plain(PROGRESS.sub("", printed))
    for part in filter(str.strip, plain("\n".join(shown)).split("...")):
        _, found, rest = rest.partition(part.strip())
        assert found, f"{where}: this was not printed (any more): {part}\n--- printed:\n{printed}"


def plain(text: str) -> str:
    """A text without its numbers and the width of its gaps."""
    return re.sub(r"[\s─━]+", " ", NUMBER.sub("#", text)).strip()
