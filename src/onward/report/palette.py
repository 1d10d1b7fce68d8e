"""Colours of pictures and pages, for light and dark screens.

A picture names a role for each fill and stroke. By itself it is drawn for light paper; inside a page the same role
follows the reader's preference.
"""

from __future__ import annotations

# Okabe & Ito's palette, which people with any colour vision can tell apart; brighter where the ground is dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_BRIGHT = ("#4ba3dc", "#f08347", "#35c39b", "#e09cc3", "#f2b63c", "#93d2f7", "#e9e9e6")

LIGHT = {
    **{str(k): colour for k, colour in enumerate(COLOURS)},
    "ink": "#222222",
    "mute": "#666666",
    "grid": "#dddddd",
    "edge": "#666666",
    "paper": "#ffffff",
    "over": "#ffffff",
}
"""Each role's colour: series by number, text, lines, the ground, and text on a dark cell."""
DARK = {
    **{str(k): colour for k, colour in enumerate(_BRIGHT)},
    "ink": "#e6e6e3",
    "mute": "#a2a7ad",
    "grid": "#34383e",
    "edge": "#7d838a",
    "paper": "#1d2025",
    "over": "#0f1419",
}


def series_role(place: int) -> str:
    """The role of series number ``place``; colours return after seven."""
    return str(place % len(COLOURS))


def paint(*, fill: str | None = None, stroke: str | None = None) -> str:
    """The attributes of an SVG element that is painted by role.

    >>> paint(stroke="0")
    'class="stroke-0" fill="none" stroke="#0072b2"'
    """
    roles = {"fill": fill, "stroke": stroke}
    classes = " ".join(f"{kind}-{role}" for kind, role in roles.items() if role)
    ways = {kind: LIGHT[role] if role else "none" for kind, role in roles.items() if role or kind == "fill"}
    return f'class="{classes}" ' + " ".join(f'{kind}="{colour}"' for kind, colour in ways.items())


def style() -> str:
    """CSS: every role as a variable, dark where the reader prefers it on a screen, and the classes of `paint`."""
    uses = "".join(f".{kind}-{role}{{{kind}:var(--c-{role})}}" for role in LIGHT for kind in ("fill", "stroke"))
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    return f":root{{{_variables(LIGHT)}}}{dark}{uses}svg>.fill-paper{{fill:none}}"


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--c-{role}:{colour};" for role, colour in colours.items())
