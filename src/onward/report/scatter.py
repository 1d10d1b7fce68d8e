"""Dots: one number against another, or against names, over a linear or a logarithmic axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from onward.report.palette import paint
from onward.report.svg import Axis, axis, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 300, 56, 16, 40, 48
SHORTEST = 14
"""Letters of a name below the axis."""


@dataclass(frozen=True)
class Dot:
    """A point; ``x`` is a number or one of the axis' names, ``says`` is shown on pointing at it.

    One that is not ``full`` is a ring.
    """

    x: float | str
    y: float
    says: str = ""
    full: bool = True


def scatter(
    title: str,
    dots: Sequence[Dot],
    x_label: str,
    y_label: str,
    *,
    names: Sequence[str] = (),
    log: bool = False,
    steps: Sequence[tuple[float, float]] = (),
) -> str:
    """The ``dots``, over ``names`` where there are some; ``steps`` are joined by a line behind them.

    >>> scatter("a < b", [Dot(1, 90.0, "<i>"), Dot(2, 95.0)], "trial", "accuracy (%)").count("<circle")
    2
    """
    places = {name: float(place) for place, name in enumerate(names)}
    at = [(places[dot.x] if isinstance(dot.x, str) else log10(dot.x) if log else dot.x, dot) for dot in dots]
    x = axis([*(a for a, _ in at), *places.values()], LEFT, WIDTH - RIGHT)
    y = axis([dot.y for dot in dots], HEIGHT - BOTTOM, TOP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'font-family="system-ui, sans-serif"><title>{escape(title)}</title>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" {paint(fill="paper")}/>',
            text((LEFT + WIDTH - RIGHT) / 2, 22, title, "middle", size=15),
            text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label, "middle", size=12),
            f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
            f"{text(0, 0, y_label, 'middle', size=12)}</g>",
            *_ways(x, y, _named(places) if names else _powers(x) if log else _plain(x)),
            *_line(steps, x, y),
            *(_dot(x(a), y(dot.y), dot) for a, dot in at),
            "</svg>\n",
        ]
    )


def _plain(x: Axis) -> dict[float, str]:
    return {tick: f"{tick:g}" for tick in x.ticks()}


def _powers(x: Axis) -> dict[float, str]:
    """Powers of ten; where the axis holds fewer than two, round steps of the logarithm."""
    whole = [float(k) for k in range(ceil(x.low), floor(x.high) + 1)]
    ticks = whole[:: ceil(len(whole) / 6)] if len(whole) > 1 else x.ticks()
    return {tick: f"{10**tick:.3g}" for tick in ticks}


def _named(places: Mapping[str, float]) -> dict[float, str]:
    return {place: name if len(name) <= SHORTEST else f"{name[: SHORTEST - 1]}\u2026" for name, place in places.items()}


def _ways(x: Axis, y: Axis, below: Mapping[float, str]) -> Iterator[str]:
    for tick in y.ticks():
        yield f'<path d="M{LEFT} {y(tick):.1f}H{x.stop:g}" {paint(stroke="grid")}/>'
        yield text(LEFT - 7, y(tick) + 4, f"{tick:g}", "end", size=11, role="mute")
    for tick, name in below.items():
        yield f'<path d="M{x(tick):.1f} {HEIGHT - BOTTOM}v4" {paint(stroke="edge")}/>'
        yield text(x(tick), HEIGHT - BOTTOM + 17, name, "middle", size=11, role="mute")
    yield f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{x.stop:g}" {paint(stroke="edge")}/>'


def _line(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> Iterator[str]:
    if points:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        yield f'<polyline points="{path}" {paint(stroke="1")} stroke-width="1.5"/>'


def _dot(a: float, b: float, dot: Dot) -> str:
    look = paint(fill="0") if dot.full else f'{paint(stroke="0")} stroke-width="1.3"'
    return f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.6" {look}><title>{escape(dot.says)}</title></circle>'
