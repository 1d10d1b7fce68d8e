"""Small pictures of one size, to stand side by side: lines, strips, histograms, spikes, membranes, tables of shades."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, isfinite, log10

from onward.report.palette import paint, series_role
from onward.report.png import Channel, data_url
from onward.report.svg import Axis, axis, spread, text

Point = tuple[float, float]
Values = Sequence[float | None]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 236, 44, 12, 36, 38
LETTER, LABEL = 6.1, 12
ROW, MOST_ROWS, MOST_COLUMNS, MOST_POINTS = 17, 24, 60, 200
"""Height of a strip; at most so many strips, cells in one, points of a line."""
SHADES = 16
MOST_NUMBERED = 12
"""Classes up to which a table shows its numbers."""


def thinned(values: Sequence, most: int) -> list:
    """At most so many of ``values``, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]


def lines(
    title: str,
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    *,
    bounds: Sequence[float] = (),
    logarithmic: bool = False,
    names: bool = True,
    height: int = HEIGHT,
) -> str:
    """One line for each of the ``series``, named at its end; the y axis holds ``bounds`` too.

    Where ``names`` is false, all but the first three are background.
    """
    drawn = {name: _points(points, logarithmic) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    labels = {n: f"{n} {_value(p[-1][1], logarithmic)}" for n, p in list(drawn.items())[: None if names else 3]}
    margin = max((LETTER * len(label) + 8 for label in labels.values()), default=RIGHT)
    x = axis([p[0] for line in drawn.values() for p in line], LEFT, WIDTH - min(margin, 130))
    y = axis([*(p[1] for line in drawn.values() for p in line), *bounds], height - BOTTOM, TOP)
    if not drawn:
        return _svg(title, height, [text(WIDTH / 2, height / 2, "nothing was noted", "middle", role="mute")])
    return _svg(title, height, [*_ways(x, y, x_label, logarithmic), *_polylines(drawn, labels, x, y)])


MOST_LINES = 6
"""Layers up to which each gets a line of its own; more become strips."""


def over_epochs(
    title: str, series: Mapping[str, Sequence[Point]], *, bounds: Sequence[float] = (), logarithmic: bool = False
) -> str:
    """A quantity of every layer over epochs: lines where they are few, strips where they are many."""
    if len(series) <= MOST_LINES:
        return lines(title, series, "epoch", bounds=bounds, logarithmic=logarithmic)
    return strips(title, {name: [value for _, value in points] for name, points in series.items()}, "epoch")


def _points(points: Sequence[Point], logarithmic: bool) -> list[Point]:
    found = [(a, b) for a, b in points if isfinite(a) and isfinite(b) and (b > 0 or not logarithmic)]
    return [(a, log10(b) if logarithmic else b) for a, b in thinned(found, MOST_POINTS)]


def _value(value: float, logarithmic: bool) -> str:
    shown = 10**value if logarithmic else value
    return f"{shown:,.0f}" if abs(shown) >= 1000 else f"{shown:.3g}"


def _polylines(drawn: Mapping[str, list[Point]], labels: Mapping[str, str], x: Axis, y: Axis) -> Iterator[str]:
    heights = spread({name: y(drawn[name][-1][1]) for name in labels}, y.start - 6, LABEL + 2)
    for place, (name, points) in reversed(list(enumerate(drawn.items()))):
        role, width = (series_role(place), 2) if name in labels else ("grid", 1)
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        yield f'<polyline points="{path}" {paint(stroke=role)} stroke-width="{width}" stroke-linejoin="round"/>'
        if name in labels:
            a, b = points[-1]
            yield f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.6" {paint(fill=role)}/>'
            yield text(x(a) + 7, heights[name] + 4, labels[name], "start", size=LABEL, role=role)


def _ways(x: Axis, y: Axis, x_label: str, logarithmic: bool = False) -> Iterator[str]:
    """Axes, ticks and the label below."""
    for tick in _decades(y) if logarithmic else y.ticks():
        yield f'<path d="M{LEFT} {y(tick):.1f}H{x.stop:.1f}" {paint(stroke="grid")}/>'
        yield text(LEFT - 6, y(tick) + 4, _value(tick, logarithmic), "end", size=11, role="mute")
    yield from _across(x, x_label, y.start)


def _decades(y: Axis) -> list[float]:
    """Powers of ten where the axis, of logarithms, holds two of them, else round steps."""
    found = [float(k) for k in range(ceil(y.low), floor(y.high) + 1)]
    return found[:: ceil(len(found) / 6)] if len(found) > 1 else y.ticks()


def _across(x: Axis, label: str, height: float) -> Iterator[str]:
    yield f'<path d="M{x.start:.1f} {height:.1f}H{x.stop:.1f}" {paint(stroke="edge")}/>'
    for tick in x.ticks():
        if label not in WHOLE or tick == round(tick):
            yield text(x(tick), height + 15, f"{tick:g}", "middle", size=11, role="mute")
    yield text((x.start + x.stop) / 2, height + 31, label, "middle", size=11, role="mute")


WHOLE = ("epoch", "time step")
"""What is counted in whole numbers."""


def strips(title: str, rows: Mapping[str, Values], x_label: str, low: float = 0.0, high: float | None = None) -> str:
    """A strip for each of many ``rows``: the stronger, the larger the value; its last value stands at its end."""
    kept = dict(thinned(list(rows.items()), MOST_ROWS))
    values = {name: thinned(row, MOST_COLUMNS) for name, row in kept.items()}
    top = high or max((v for row in values.values() for v in row if v is not None), default=1.0) or 1.0
    left = min(130.0, LETTER * max(map(len, values), default=0) + 14)
    columns = max(map(len, values.values()), default=1)
    wide, bottom = (WIDTH - 46 - left) / columns, TOP + ROW * len(values)
    shares = [[None if v is None else (v - low) / (top - low) for v in row] for row in values.values()]
    parts = [*_cells(shares, left, TOP, wide, ROW, "0")]
    for k, (name, row) in enumerate(values.items()):
        middle = TOP + (k + 0.5) * ROW + 4
        last = next((f"{v:.3g}" for v in reversed(row) if v is not None), "")
        parts += [text(left - 6, middle, name, "end", size=11), text(WIDTH - 40, middle, last, "start", size=11)]
    parts.append(text(left + wide * columns / 2, bottom + 20, x_label, "middle", size=11, role="mute"))
    return _svg(title, bottom + 32, parts)


def _cells(
    shares: Sequence[Sequence[float | None]], left: float, top: float, wide: float, high: float, role: str
) -> Iterator[str]:
    """Cells in as many paths as there are shades: few bytes, however many cells."""
    shades: dict[int, list[str]] = {}
    for line, row in enumerate(shares):
        for place, share in enumerate(row):
            shade = 0 if share is None else ceil(min(max(share, 0.0), 1.0) * SHADES - 1e-9)
            cell = (
                f"M{left + place * wide:.1f} {top + line * high:.1f}h{wide - 0.6:.1f}v{high - 1:.1f}h{0.6 - wide:.1f}z"
            )
            shades.setdefault(shade, []).append(cell)
    for shade, cells in sorted(shades.items()):
        if shade:
            yield f'<path d="{"".join(cells)}" {paint(fill=role)} fill-opacity="{shade / SHADES:.3f}"/>'


def histogram(title: str, low: float, high: float, counts: Values, slopes: Values, level: float | None) -> str:
    """Bars of ``counts``, with the mean of a function over each bin as a line of its own scale, and a ``level``."""
    x, bottom = Axis(low, high, LEFT - 24, WIDTH - RIGHT), HEIGHT - BOTTOM
    most = max((c for c in counts if c), default=1.0)
    step = (x.stop - x.start) / max(1, len(counts))
    room = bottom - TOP - 16
    bars = "".join(
        f"M{x.start + k * step:.1f} {bottom}v{-(c or 0) / most * room:.1f}h{step - 0.7:.1f}V{bottom}z"
        for k, c in enumerate(counts)
        if c
    )
    steepest = max((s for s in slopes if s), default=0.0)
    curve = [
        f"{x.start + (k + 0.5) * step:.1f},{bottom - s / (steepest or 1) * room:.1f}"
        for k, s in enumerate(slopes)
        if s is not None and 0 < k < len(slopes) - 1  # the bins at the ends hold whatever is beyond
    ]
    parts = [f'<path d="{bars}" {paint(fill="0")} fill-opacity="0.45"/>']
    if level is not None:
        parts.append(f'<path d="M{x(level):.1f} {TOP - 4}V{bottom}" {paint(stroke="ink")} stroke-dasharray="3 3"/>')
        anchor = "end" if x(level) > 0.6 * WIDTH else "start"
        away = -5 if anchor == "end" else 5
        parts.append(text(x(level) + away, TOP + 5, "fires", anchor, size=11))
    if steepest:
        parts.append(f'<polyline points="{" ".join(curve)}" {paint(stroke="1")} stroke-width="2"/>')
        parts.append(text(x.start, TOP + 5, f"slope, up to {steepest:.3g}", "start", size=11, role="1"))
    return _svg(title, HEIGHT, [*parts, *_across(x, "membrane potential before the reset", bottom)])


def activity(
    title: str,
    steps: int,
    spikes: Sequence[Sequence[int]],
    traced: Sequence[int],
    potentials: Sequence[Sequence[float]],
    level: float | None,
) -> str:
    """Spikes of some neurons over time, one row each; below, the membrane potentials of those ``traced``."""
    x, row = Axis(-0.5, steps - 0.5, LEFT, WIDTH - RIGHT), 4
    middle = TOP + row * max(1, len(spikes))
    parts = []
    for place, neuron in enumerate(traced):
        parts.append(
            f'<path d="M{LEFT} {TOP + neuron * row + row / 2:.1f}H{x.stop:.1f}" '
            f'{paint(stroke=series_role(place))} stroke-opacity="0.28" stroke-width="{row}"/>'
        )
    wide = max(1.2, min(9.0, 0.7 * (x(1) - x(0))))
    ticks = "".join(
        f"M{x(t) - wide / 2:.1f} {TOP + k * row + row / 2:g}h{wide:.1f}"
        for k, times in enumerate(spikes)
        for t in times
    )
    parts.append(f'<path d="{ticks}" {paint(stroke="ink")} stroke-width="{row - 1}"/>')
    tall, start = 46, middle + 14
    for place, trace in enumerate(potentials):
        y = axis([*trace, *([] if level is None else [level])], start + tall, start)
        if level is not None:
            at = f"M{LEFT} {y(level):.1f}H{x.stop:.1f}"
            parts.append(f'<path d="{at}" {paint(stroke="edge")} stroke-dasharray="2 3"/>')
            parts.append(text(LEFT - 6, y(level) + 4, "fires", "end", size=10, role="mute"))
        path = " ".join(f"{x(t):.1f},{y(u):.1f}" for t, u in enumerate(trace))
        parts.append(f'<polyline points="{path}" {paint(stroke=series_role(place))} stroke-width="1.6"/>')
        fired = spikes[traced[place]] if place < len(traced) and traced[place] < len(spikes) else ()
        dot = f'r="2.4" {paint(fill=series_role(place))}'
        parts += [f'<circle cx="{x(t):.1f}" cy="{y(trace[t]):.1f}" {dot}/>' for t in fired if 0 <= t < len(trace)]
        start += tall + 8
    return _svg(title, start + BOTTOM, [*parts, *_across(x, "time step", start)])


def pixels(title: str, channels: Sequence[Channel], *, over_time: bool = False) -> str:
    """A sample's input as a picture, as large as it fits."""
    rows, columns = len(channels[0]), len(channels[0][0])
    room = 128 - (BOTTOM if over_time else 0)
    wide, tall = (WIDTH - LEFT - RIGHT, room) if over_time else (min(WIDTH - 2 * RIGHT, room * columns / rows), room)
    left = LEFT if over_time else (WIDTH - wide) / 2
    image = (
        f'<image x="{left:.1f}" y="{TOP}" width="{wide:.1f}" height="{tall:.1f}" preserveAspectRatio="none" '
        f'image-rendering="pixelated" href="{data_url(channels)}"/>'
    )
    below = _across(Axis(-0.5, columns - 0.5, left, left + wide), "time step", TOP + tall) if over_time else ()
    return _svg(title, TOP + 134, [image, *below])


def shades(title: str, counts: Sequence[Sequence[int]], x_label: str, y_label: str) -> str:
    """A table of counts, each row as shares of its sum: what is on the diagonal in blue, the rest in orange."""
    classes, side = len(counts), 420
    left, cell = 44.0, (side - 56) / max(1, len(counts))
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    right = [[s if i == j else None for j, s in enumerate(row)] for i, row in enumerate(shares)]
    # Errors are rare: the root lets one in a hundred be seen.
    wrong = [[None if i == j else s**0.5 for j, s in enumerate(row)] for i, row in enumerate(shares)]
    parts = [*_cells(right, left, TOP, cell, cell, "0"), *_cells(wrong, left, TOP, cell, cell, "1")]
    if classes <= MOST_NUMBERED:
        parts += _numbers(counts, shares, left, cell)
    for k in range(classes):
        if classes <= MOST_NUMBERED or k % ceil(classes / 10) == 0:
            parts.append(text(left - 7, TOP + (k + 0.5) * cell + 4, str(k), "end", size=12, role="mute"))
            parts.append(
                text(left + (k + 0.5) * cell, TOP + classes * cell + 16, str(k), "middle", size=12, role="mute")
            )
    parts.append(text(left + classes * cell / 2, TOP + classes * cell + 36, x_label, "middle", size=12, role="mute"))
    parts.append(
        f'<g transform="translate(12 {TOP + classes * cell / 2:.1f}) rotate(-90)">'
        f"{text(0, 0, y_label, 'middle', size=12, role='mute')}</g>"
    )
    return _svg(title, TOP + classes * cell + 46, parts, side)


def table_of_shades(title: str, rows: Mapping[str, Values], x_label: str) -> str:
    """Percentages, each in a cell that is the stronger the larger it is."""
    columns = max((len(row) for row in rows.values()), default=1)
    wide, high, left = max(30.0, min(64.0, 640 / columns)), 26.0, 78.0
    shares = [[None if v is None else v / 100 for v in row] for row in rows.values()]
    parts = [*_cells(shares, left, TOP, wide, high, "0")]
    for line, (name, row) in enumerate(rows.items()):
        middle = TOP + (line + 0.5) * high + 4
        parts.append(text(left - 8, middle, name, "end", size=12, role="mute"))
        for place, value in enumerate(row):
            if value is not None and columns <= 20:
                role = "over" if value > 50 else "ink"
                parts.append(text(left + (place + 0.5) * wide, middle, f"{value:.1f}", "middle", size=11, role=role))
    bottom = TOP + high * len(rows)
    parts += [
        text(left + (k + 0.5) * wide, bottom + 16, str(k + 1), "middle", size=11, role="mute") for k in range(columns)
    ]
    parts.append(text(left + wide * columns / 2, bottom + 34, x_label, "middle", size=12, role="mute"))
    return _svg(title, bottom + 44, parts, max(WIDTH, round(left + wide * columns + RIGHT)))


def _numbers(
    counts: Sequence[Sequence[int]], shares: Sequence[Sequence[float]], left: float, cell: float
) -> Iterator[str]:
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count:
                role = "over" if i == j and shares[i][j] > 0.5 else "ink"
                yield text(
                    left + (j + 0.5) * cell, TOP + (i + 0.5) * cell + 4, str(count), "middle", size=11, role=role
                )


def _svg(title: str, height: float, parts: Iterable[str], width: int = WIDTH) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{width}" height="{height:.0f}" {paint(fill="paper")}/>'
    )
    heading = f'<g font-weight="600">{text(LEFT - 24, 18, title, "start")}</g>' if title else ""
    return "\n".join([head, heading, *parts, "</svg>\n"])
