"""Every block of code in the documentation is run, read by the parsers, or says why it is not."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from inspect import BoundArguments
from pathlib import Path

import pytest
from docs.markdown import DOCS, ROOT, Block, blocks, every_page
from docs.reference_pages import pages
from tests.unit.cli.test_help import FIELDS
from tests.unit.pages.runner import Reader

from onward.cli import app, main
from onward.core.registry import Registry
from onward.credit.base import locals_, spatials, temporals
from onward.rules import rules

RUN = ("python", "console")
SHOWN = ("text", "toml", "sh")
PROMISED = [page for page in every_page() if page not in pages()]
"""Pages written by hand; examples of the others are those of the commands' help, which has tests of its own."""
SLOW = ("tutorials/continual.md",)
"""Pages that take more than a few seconds."""
LEFT_OUT = {"library": 6, "fragment": 2, "machine": 4}
"""How many blocks are not run, of each kind. Think of a way to run a block before you raise a number."""
SMALL = "train --data.limit 200 --data.limit-test 50 --train.epochs 1 --model.hidden 8"
FIRST = {
    "how-to/binary.md": [f"{SMALL} 8 --weights binary"],
    "how-to/energy.md": [SMALL],
    "how-to/export.md": [SMALL, "export torch runs/RUN --out network.pt2"],
}
"""What a reader of a page has done before, in commands; the run becomes runs/RUN."""


def where(page: Path) -> str:
    """A page's place."""
    return page.relative_to(DOCS).as_posix()


def code(*languages: str) -> list[Block]:
    """The blocks in these languages that say nothing of not being run."""
    found = (block for page in PROMISED for block in blocks(page))
    return [block for block in found if block.language in languages and block.left_out is None]


RUNNABLE = sorted({block.page for block in code(*RUN)})


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Somebody in an empty folder that has the recipes; what pages register is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    known: tuple[Registry, ...] = (rules, temporals, spatials, locals_)
    for registry in known:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    modules = set(sys.modules)
    yield Reader(tmp_path)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if where(page) in SLOW else []) for page in RUNNABLE],
    ids=where,
)
def test_a_page_works_from_top_to_bottom(page: Path, reader: Reader) -> None:
    for command in FIRST.get(where(page), ()):
        assert main(shlex.split(command)) == 0
        for run in reader.folder.glob("runs/2*"):
            run.rename(reader.folder / "runs" / "RUN")
    assert reader.work_through(page) > 0


@pytest.mark.parametrize("block", code("sh"), ids=str)
def test_a_command_line_is_understood(block: Block) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            understood(words)


def understood(words: list[str]) -> None:
    """Raises where a command does not exist, or takes no such argument."""
    match words:
        case ["onward", *tokens]:
            parsed(tokens)
        case ["torchrun", *options] if "onward" in options:
            parsed(options[options.index("onward") + 1 :])
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        case ["python", "-m", module, *_] if module.startswith(("benchmarks.", "docs.")):
            assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), module
        case ["python", "-m", "pytest", *_] | ["tensorboard", "--logdir", _]:
            pass
        case ["pip", "install", package] if package.startswith("onward["):
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert package.removeprefix("onward[").removesuffix("]") in extras
        case _:
            pytest.fail(f"cannot tell whether this works: {shlex.join(words)}")


def parsed(tokens: list[str]) -> BoundArguments:
    """What `onward` would be called with; what it would read from a run's folder is left out."""
    if tokens[0] in ("compare", "sweep", "train") and tokens[1:2] and tokens[1].startswith("runs/"):
        tokens = [tokens[0], *tokens[2:]]
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if "tokens" in bound.signature.parameters:
        FIELDS[tokens[0]](bound.arguments.get("tokens", ()))
    return bound


def test_a_wrong_command_would_be_found() -> None:
    with pytest.raises(Exception, match="--rul"):
        understood(["onward", "train", "--rul", "opzo"])
    with pytest.raises(AssertionError, match="dmo"):
        understood(["make", "dmo"])


def test_blocks_that_are_not_run_say_why_and_are_counted() -> None:
    found = [block for page in every_page() for block in blocks(page)]
    assert Counter(block.left_out.kind for block in found if block.left_out) == LEFT_OUT
    for block in found:
        assert block.language in (*RUN, *SHOWN), f"{block}: which language is this? text, if it is none"


@pytest.mark.parametrize("block", code("toml"), ids=str)
def test_toml_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


def test_no_code_hides_in_indented_blocks() -> None:
    hidden = re.compile(r"^(?: {4}|\t)(?:\$ |>>> |onward |make |pip |from \w[\w.]* import |import \w)", re.MULTILINE)
    for page in PROMISED:
        if page.name != "credit-table.md":  # made by a program, which has tests
            assert not hidden.search(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)), page
