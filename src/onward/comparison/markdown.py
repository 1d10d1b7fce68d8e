"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under ``head``; bars in cells are escaped.

    >>> print(as_table(("a", "b"), [("1", "x|y")]))
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    <BLANKLINE>
    """
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"
    )
