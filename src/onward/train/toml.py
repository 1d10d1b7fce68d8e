"""Writing configurations as TOML (the standard library reads TOML but does not write it)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

NONE = "none"


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
