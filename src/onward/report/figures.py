"""Line and bar charts, clouds of points, and tables of shades, as plain SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import isfinite
from types import MappingProxyType

from onward.report.palette import paint, series_role
from onward.report.svg import Axis
from onward.report.svg import axis as _axis
from onward.report.svg import spread as _spread
from onward.report.svg import text as _text

Point = tuple[float, float]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 64, 150, 40, 52
BAR, BAR_LEFT, MARGIN = 22, 160, 60
CELL, CELL_LEFT = 28, 90
GAP, LETTER = 12, 7.5


def curves(
    series: Mapping[str, Sequence[Point]],
    title: str,
    x_label: str,
    y_label: str,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """One line with dots for each of the ``series``, labelled at its end; NaN and infinity are left out.

    A line that stands ``beside`` another one is dashed, in the colour of the other.

    >>> curves({"opzo": [(1, 92.0), (2, 97.5)]}, "mnist", "epoch", "accuracy (%)")[:4]
    '<svg'
    """
    drawn = {name: [p for p in points if all(map(isfinite, p))] for name, points in series.items()}
    points = [point for line in drawn.values() for point in line]
    x = _axis([p[0] for p in points], LEFT, WIDTH - _margin(drawn))
    y = _axis([p[1] for p in points], HEIGHT - BOTTOM, TOP)
    return "\n".join(
        [
            *_head(title, HEIGHT),
            _text((LEFT + x.stop) / 2, 24, title, "middle", size=16),
            *_grid(x, y),
            *_axis_names(x, x_label, y_label),
            *_lines(drawn, x, y, beside),
            "</svg>\n",
        ]
    )


def scatter(series: Mapping[str, Sequence[Point]], title: str, x_label: str, y_label: str) -> str:
    """A dot for each point of the ``series``, both axes alike, and the diagonal where they are equal.

    >>> scatter({"deep": [(0.3, 0.4), (0.5, 0.5)]}, "law", "predicted", "measured").count("<circle")
    3
    """
    values = [value for points in series.values() for point in points for value in point]
    x, y = _axis(values, LEFT, WIDTH - _margin(series)), _axis(values, HEIGHT - BOTTOM, TOP)
    return "\n".join(
        [
            *_head(title, HEIGHT),
            _text((LEFT + x.stop) / 2, 24, title, "middle", size=16),
            *_grid(x, y),
            *_axis_names(x, x_label, y_label),
            f'<path d="M{x.start:g} {y.start:g}L{x.stop:g} {y.stop:g}" {paint(stroke="ink")} stroke-dasharray="4 3"/>',
            *_dots(series, x, y),
            "</svg>\n",
        ]
    )


def bars(values: Mapping[str, float], title: str, x_label: str, reference: float) -> str:
    """One horizontal bar from 0 for each of the ``values``, labelled, and a line at ``reference``.

    >>> bars({"event opzo": 2.8}, "speed", "ratio", 1.0).count("<rect")
    2
    """
    bottom = TOP + BAR * max(1, len(values))
    x = Axis(0.0, 1.05 * max([reference, *values.values()]), BAR_LEFT, WIDTH - MARGIN)
    middle = (BAR_LEFT + WIDTH - MARGIN) / 2
    return "\n".join(
        [
            *_head(title, bottom + BOTTOM),
            _text(middle, 24, title, "middle", size=16),
            _text(middle, bottom + 40, x_label, "middle"),
            *_bars(values, x, reference),
            *(_text(x(tick), bottom + 20, f"{tick:g}", "middle") for tick in x.ticks()),
            f'<path d="M{x(reference):.1f} {TOP}V{bottom}" {paint(stroke="ink")} stroke-dasharray="4 3"/>',
            "</svg>\n",
        ]
    )


def heatmap(rows: Mapping[str, Sequence[float]], columns: Sequence[str], title: str, x_label: str, y_label: str) -> str:
    """One cell for each number of the ``rows``, darker where it is larger, and the number in it.

    >>> heatmap({"after 1": [98.0, 50.0]}, ["1", "2"], "split", "task", "accuracy (%)").count("<rect")
    3
    """
    wide, bottom = (WIDTH - MARGIN - CELL_LEFT) / max(1, len(columns)), TOP + CELL * max(1, len(rows))
    middle = (CELL_LEFT + WIDTH - MARGIN) / 2
    values = [value for row in rows.values() for value in row if isfinite(value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    cells = [
        _cell(CELL_LEFT + place * wide, TOP + line * CELL, wide, value, (value - low) / (high - low or 1))
        for line, row in enumerate(rows.values())
        for place, value in enumerate(row)
    ]
    return "\n".join(
        [
            *_head(title, bottom + BOTTOM),
            _text(middle, 24, f"{title}, {y_label}", "middle", size=16),
            _text(middle, bottom + 40, x_label, "middle"),
            *(_text(CELL_LEFT + (k + 0.5) * wide, bottom + 20, name, "middle") for k, name in enumerate(columns)),
            *(_text(CELL_LEFT - 8, TOP + (k + 0.5) * CELL + 4, name, "end") for k, name in enumerate(rows)),
            *cells,
            "</svg>\n",
        ]
    )


def _cell(left: float, top: float, wide: float, value: float, share: float) -> str:
    """From the ground to blue; numbers stay readable on both."""
    place = f'x="{left:.1f}" y="{top:.1f}" width="{wide - 1:.1f}" height="{CELL - 1}"'
    number = _text(left + wide / 2, top + CELL / 2 + 4, f"{value:.1f}", "middle", role=_ink(share))
    return f'<rect {place} {paint(fill="0")} fill-opacity="{share:.3f}"/>{number}'


def _ink(share: float) -> str:
    return "over" if share > 0.5 else "ink"


def _bars(values: Mapping[str, float], x: Axis, reference: float) -> Iterator[str]:
    for place, (name, value) in enumerate(values.items()):
        top, width = TOP + place * BAR, x(value) - BAR_LEFT
        colour = paint(fill="0" if value >= reference else "1")
        yield f'<rect x="{BAR_LEFT}" y="{top + 3}" width="{width:.1f}" height="{BAR - 6}" {colour}/>'
        yield _text(BAR_LEFT - 8, top + BAR / 2 + 4, name, "end")
        yield _text(x(value) + 6, top + BAR / 2 + 4, f"{value:.2f}", "start")


def _head(title: str, height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13"><title>{escape(title)}</title>'
    )
    yield f'<rect width="{WIDTH}" height="{height}" {paint(fill="paper")}/>'


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    for tick in y.ticks():
        yield f'<path d="M{LEFT} {y(tick):.1f}H{x.stop:g}" {paint(stroke="grid")}/>'
        yield _text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end")
    for tick in x.ticks():
        yield f'<path d="M{x(tick):.1f} {HEIGHT - BOTTOM}v5" {paint(stroke="edge")}/>'
        yield _text(x(tick), HEIGHT - BOTTOM + 20, f"{tick:g}", "middle")
    yield f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{x.stop:g}" {paint(stroke="edge")}/>'


def _axis_names(x: Axis, x_label: str, y_label: str) -> Iterator[str]:
    yield _text((LEFT + x.stop) / 2, HEIGHT - 12, x_label, "middle")
    yield f'<g transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">{_text(0, 0, y_label, "middle")}</g>'


def _dots(series: Mapping[str, Sequence[Point]], x: Axis, y: Axis) -> Iterator[str]:
    """The points, and beside them what each colour stands for."""
    for place, (name, points) in enumerate(series.items()):
        role, height = series_role(place), TOP + 20 * (place + 1)
        for a, b in points:
            yield f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" {paint(fill=role)} fill-opacity="0.6"/>'
        yield f'<circle cx="{x.stop + GAP:.1f}" cy="{height}" r="4" {paint(fill=role)}/>'
        yield _text(x.stop + 2 * GAP, height + 4, name, "start", role=role)


def _lines(series: Mapping[str, Sequence[Point]], x: Axis, y: Axis, beside: Mapping[str, str]) -> Iterator[str]:
    places = {name: place for place, name in enumerate(name for name in series if name not in beside)}
    labels = _spread({name: y(points[-1][1]) for name, points in series.items() if points}, HEIGHT - BOTTOM)
    for name, points in series.items():
        if not points:
            continue
        role, dashes = series_role(places[beside.get(name, name)]), ' stroke-dasharray="5 4"' if name in beside else ""
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        yield f'<polyline points="{path}" {paint(stroke=role)} stroke-width="2"{dashes}/>'
        for a, b in points:
            yield f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" {paint(fill=role)}/>'
        yield _text(x.stop + GAP, labels[name] + 4, _label(name, points), "start", role=role)


def _label(name: str, points: Sequence[Point]) -> str:
    """A line's name, and where it ends."""
    return f"{name} {points[-1][1]:.2f}"


def _margin(series: Mapping[str, Sequence[Point]]) -> float:
    """Room for the labels to the right of the lines."""
    longest = max((len(_label(name, points)) for name, points in series.items() if points), default=0)
    return max(RIGHT, GAP + LETTER * longest)
