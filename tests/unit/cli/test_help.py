"""Help that can be copied: every command shows examples, and every example is understood."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from inspect import BoundArguments
from typing import Any

import pytest
from cyclopts import App

from onward.cli import EXIT_CODES, app, main
from onward.cli.compare import planned
from onward.meta.config import MetaRecipe
from onward.train import RunConfig, parse_tokens
from onward.train.grammar import with_flags

FIELDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "train": parse_tokens,
    "memplan": parse_tokens,
    "meta-train": MetaRecipe.parse,
    "explain": lambda tokens: parse_tokens(("--rule", *tokens)),
    "resume": lambda tokens: with_flags(tokens, RunConfig()),
    "eval": lambda tokens: with_flags(tokens, RunConfig()),
    "energy": lambda tokens: with_flags(tokens, RunConfig()),
    "compare": planned,
    "sweep": parse_tokens,
}
"""How the commands that take a configuration's fields read them."""


def commands(of: App = app, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and every group of commands, as typed."""
    for name in of:
        if not name.startswith("-"):
            yield (*before, name)
            yield from commands(of[name], (*before, name))


def shown(chain: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command's help prints on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*chain, "--help"]) == 0
    return capsys.readouterr().out


def examples_of(text: str) -> list[str]:
    """The lines after `For example:`."""
    _, _, after = text.partition("For example:")
    return [line.strip() for line in after.splitlines() if line.strip()]


def parsed(line: str) -> tuple[str, BoundArguments]:
    """The command that a line names, and the arguments it would be called with; raises where it takes no such flag."""
    program, *tokens = shlex.split(line.partition(" > ")[0])
    assert program == "onward"
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    return tokens[0], bound


@pytest.mark.parametrize("chain", list(commands()), ids=" ".join)
def test_every_command_shows_examples_that_are_understood(
    chain: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examples_of(shown(chain, capsys, monkeypatch))
    assert 1 <= len(found) <= 3
    for line in found:
        assert line.startswith(" ".join(("onward", *chain)))
        name, bound = parsed(line)
        if "tokens" in bound.signature.parameters:
            assert name in FIELDS, "a command that takes fields needs a way to check them without doing anything"
            FIELDS[name](bound.arguments.get("tokens", ()))


def test_an_example_with_a_wrong_flag_or_field_would_be_found() -> None:
    with pytest.raises(Exception, match="--frce"):
        FIELDS["resume"](parsed("onward resume runs/RUN --frce")[1].arguments["tokens"])
    with pytest.raises(Exception, match="--prt"):
        parsed("onward serve --prt 3")


def test_the_help_states_the_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown((), capsys, monkeypatch)
    assert list(EXIT_CODES) == [0, 1, 2, 130]
    assert all(f"{code}: {meaning}" in text for code, meaning in EXIT_CODES.items())
