"""Line charts of several runs each: the mean, and a band from the lowest to the highest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from statistics import mean

from onward.report.figures import (
    BOTTOM,
    GAP,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Axis,
    Point,
    _axis,
    _grid,
    _head,
    _label,
    _margin,
    _spread,
    _text,
)
from onward.report.palette import paint, series_role

Spread = tuple[float, float, float, float]
"""x, and of the runs that reach it the lowest, the mean and the highest."""


def bands(series: Mapping[str, Sequence[Sequence[Point]]], title: str, x_label: str, y_label: str) -> str:
    """A line for each of the ``series``, which have one curve for each run; NaN and infinity are left out.

    >>> bands({"opzo": [[(1, 92.0), (2, 97.5)], [(1, 91.0), (2, 97.1)]]}, "mnist", "epoch", "accuracy (%)")[:4]
    '<svg'
    """
    spreads = {name: spread(runs) for name, runs in series.items()}
    means: dict[str, list[Point]] = {name: [(x, m) for x, _, m, _ in line] for name, line in spreads.items()}
    points = [point for line in spreads.values() for point in line]
    x = _axis([p[0] for p in points], LEFT, WIDTH - _margin(means))
    y = _axis([value for p in points for value in (p[1], p[3])], HEIGHT - BOTTOM, TOP)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return "\n".join(
        [
            *_head(title, HEIGHT),
            _text((LEFT + x.stop) / 2, 24, title, "middle", size=16),
            *_grid(x, y),
            _text((LEFT + x.stop) / 2, HEIGHT - 12, x_label, "middle"),
            f'<g transform="translate(16 {middle}) rotate(-90)">{_text(0, 0, y_label, "middle")}</g>',
            *_drawn(spreads, means, x, y),
            "</svg>\n",
        ]
    )


def spread(runs: Sequence[Sequence[Point]]) -> list[Spread]:
    """What the runs have in common, by x."""
    at: dict[float, list[float]] = {}
    for x, y in (point for run in runs for point in run):
        if isfinite(x) and isfinite(y):
            at.setdefault(x, []).append(y)
    return [(x, min(values), mean(values), max(values)) for x, values in sorted(at.items())]


def _drawn(spreads: Mapping[str, list[Spread]], means: Mapping[str, list[Point]], x: Axis, y: Axis) -> Iterator[str]:
    labels = _spread({name: y(points[-1][1]) for name, points in means.items() if points}, HEIGHT - BOTTOM)
    for place, (name, points) in enumerate(means.items()):
        if not points:
            continue
        role, band = series_role(place), spreads[name]
        around = [*((x(a), y(high)) for a, _, _, high in band), *((x(a), y(low)) for a, low, _, _ in reversed(band))]
        yield f'<polygon points="{_path(around)}" {paint(fill=role)} fill-opacity="0.18"/>'
        yield f'<polyline points="{_path([(x(a), y(b)) for a, b in points])}" {paint(stroke=role)} stroke-width="2"/>'
        for a, b in points if len(points) <= 30 else points[-1:]:
            yield f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" {paint(fill=role)}/>'
        yield _text(x.stop + GAP, labels[name] + 4, _label(name, points), "start", role=role)


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
