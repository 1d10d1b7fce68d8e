"""Numbers and docstrings as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from textwrap import dedent

from onward.report.page import Html


def percent(value: float | None, digits: int = 2) -> str:
    """A share in percent, as it is recorded.

    >>> percent(97.5), percent(None)
    ('97.50 %', 'unknown')
    """
    return "unknown" if value is None else f"{value:.{digits}f} %"


def bytes_of(count: float) -> str:
    """An amount of memory.

    >>> bytes_of(20 * 2**20), bytes_of(512)
    ('20.0 MiB', '512 B')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """A time.

    >>> duration(7.25), duration(95), duration(7265)
    ('7.2 s', '1 min 35 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "epoch"), counted(60000, "sample")
    ('1 epoch', '60,000 samples')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def docstring(text: str) -> Html:
    """A docstring's paragraphs; what is indented, such as an equation, keeps its shape.

    >>> docstring("Rule of ``x``:\\n\\n    a < b\\n")
    '<p>Rule of <code>x</code>:</p>\\n<pre>a &lt; b</pre>'
    """
    return Html("\n".join(_blocks(dedent(text).strip("\n"))))


def _blocks(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text):
        if all(line.startswith("    ") or not line for line in block.split("\n")) or block.startswith("==="):
            yield f"<pre>{escape(dedent(block))}</pre>"
        elif block.strip():
            yield f"<p>{_inline(' '.join(block.split()))}</p>"


def _inline(text: str) -> str:
    """``code``, `names` and *emphasis*."""
    coded = re.sub(r"``(.+?)``|`([^`]+)`", lambda m: f"<code>{m[1] or m[2]}</code>", escape(text))
    return re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?!\w)", r"<em>\1</em>", coded)
