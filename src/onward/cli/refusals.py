"""What the parser of commands refuses, in the words of the rest of the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclopts import CycloptsError
from cyclopts.exceptions import CoercionError, MissingArgumentError, UnknownCommandError, UnusedCliTokensError

from onward.core.errors import UnknownName

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def in_words(error: CycloptsError) -> str:
    """One line: what was given, and what is expected."""
    command = " ".join(("onward", *(error.command_chain or ())))
    match error:
        case UnknownCommandError(unused_tokens=[given, *_]):
            return str(_unknown(error, given))
        case UnusedCliTokensError(unused_tokens=[given, *_]):
            return f"{given!r} was given; `{command}` takes nothing like it, see `{command} --help`"
        case MissingArgumentError(argument=argument) if argument is not None:
            return f"`{command}` needs a value for {error.keyword or argument.name}; nothing was given"
        case CoercionError(token=token, target_type=kind) if token is not None and token.keyword and kind in KINDS:
            return f"{token.keyword}: {token.value} was given; expected {KINDS[kind]}"
    return str(error)


def _unknown(error: UnknownCommandError, given: str) -> UnknownName:
    """With the commands that there are, or the flags where a flag was meant."""
    known = [name for name in error.app or () if name.startswith("-") == given.startswith("-")]
    return UnknownName("option" if given.startswith("-") else "command", given, known)
