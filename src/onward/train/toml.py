"""Configurations as TOML: read with the standard library, within limits, and written, which it cannot."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onward.core.errors import ConfigError

NONE = "none"

MOST_BYTES = 2**16
"""Of a recipe: twenty times the longest that there is."""

MOST_DOTS = 200
"""In a line. For a key of n parts, which stands in one line, tomllib takes time and memory in the square of n."""


def read(path: Path) -> dict[str, Any]:
    """The tables of a recipe; raises `ConfigError` where it cannot be read, is no TOML or is none in good faith."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"recipe {path} has more than {MOST_BYTES:,} bytes; expected a short text")
        text = content.decode().replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        if max(line.count(".") for line in text.split("\n")) > MOST_DOTS:
            raise ValueError(f"a line has more than {MOST_DOTS} dots")
        return tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f"recipe {path} is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"recipe {path} is nested too deeply; expected tables of plain values") from None


def dumps(table: Mapping[str, Any]) -> str:
    """``table`` as TOML; None, which TOML lacks, is written as the string "none".

    >>> print(dumps({"seed": 0, "rule": {"name": "opzo", "clip": None}}), end="")
    seed = 0
    <BLANKLINE>
    [rule]
    name = "opzo"
    clip = "none"
    """
    return "\n".join(_lines(table, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield f"\n[{'.'.join(path)}]"
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    for key, value in table.items():
        if key not in nested:
            yield f"{key} = {_value(value)}"
    for key, value in nested.items():
        yield from _lines(value, (*path, key))


def _value(value: Any) -> str:
    match value:
        case None:
            return _value(NONE)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"a {type(value).__name__} has no place in a configuration: {value!r}")
