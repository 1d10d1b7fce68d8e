"""How credit reaches one layer at one step, as a picture: layers up, time to the right, what was traced as arrows.

Four groups, of class ``forward``, ``error``, ``credit`` and ``update``, lie over one another; a page may show them one
after the other. Forward arrows leave a place to the left of its middle, credit comes down to the right of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from onward.core.rule import Traits
from onward.explain.tiny import HIDDEN, STEPS
from onward.explain.trace import FOCUS, Traced
from onward.explain.wording import letter
from onward.report.palette import paint
from onward.report.svg import text

LEFT, ACROSS, TOP, DOWN = 89, 78, 24, 68
"""The middle of the first place, and the distances from place to place."""
WIDE, HIGH, ASIDE, AWAY, APART = 46, 26, 8, 39, 7.6
"""Of a place; how far from its middle arrows run, and lines past it; how far neurons stand from one another."""
ROWS = ("output", "layer 3", "layer 2", "layer 1", "input")
"""Below errors."""
ERROR, OUTPUT, INPUT = 0, 1, 1 + HIDDEN + 1
FORWARD, CREDIT, LOCAL, NOISE, UPDATE = "edge", "1", "3", "4", "0"
"""Roles of colour."""
FAINT = 0.35
LABELS = {"weights": "Wᵀ", "signs": "sign Wᵀ"}


def picture(title: str, traits: Traits, found: Traced) -> str:
    """The picture of a rule with these ``traits``, of which these things were ``found``, as SVG.

    >>> from onward.explain import explain
    >>> dfa = explain("dfa")
    >>> picture("dfa", dfa.traits, dfa.traced)[:4]
    '<svg'
    """
    scene = Scene(traits, found)
    groups = {
        "forward": scene.forward(),
        "error": scene.error(),
        "credit": scene.credit(),
        "update": scene.update(),
    }
    width, height = _x(scene.columns) - 10, _y(INPUT) + 50
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>{_tips()}',
            f'<rect width="{width}" height="{height}" {paint(fill="paper")}/>',
            *scene.ground(),
            *(f'<g class="{name}">{"".join(parts)}</g>' for name, parts in groups.items()),
            "</svg>\n",
        ]
    )


@dataclass(frozen=True)
class Scene:
    """Where everything stands, and what each group draws."""

    traits: Traits
    found: Traced

    @property
    def columns(self) -> int:
        """Time steps, and perhaps one for the whole sequence."""
        return STEPS + self.found.whole

    @property
    def at(self) -> int:
        """The column where credit is shown."""
        return STEPS if self.found.whole else self.found.step

    @property
    def row(self) -> int:
        """The row of the layer whose credit is shown."""
        return INPUT - 1 - FOCUS

    def ground(self) -> Iterator[str]:
        """Names of layers and steps, and a band behind the column that is shown."""
        left, high = _x(self.at) - WIDE / 2 - 8, _y(INPUT) + 42
        band = f'x="{left}" y="4" width="{WIDE + 16}" height="{high}" rx="12" fill-opacity="0.35"'
        yield f"<rect {band} {paint(fill='grid')}/>"
        for row, name in enumerate(("loss" if self.found.time == "loss" else "error", *ROWS)):
            yield text(4, _y(row) + 4, name, "start", role="mute")
        names = [f"t = {column + 1}" for column in range(STEPS)] + ["mean" if self.found.time == "rates" else ""]
        for column, name in enumerate(names):
            yield text(_x(column), _y(INPUT) + 36, name, "middle", role="ink" if column == self.at else "mute")

    def forward(self) -> Iterator[str]:
        """Spikes and outputs; arrows up, and to the next step."""
        for column in range(STEPS):
            for row in range(OUTPUT, INPUT):
                yield arrow(_x(column) - ASIDE, _y(row + 1) - HIGH / 2, _x(column) - ASIDE, _y(row) + HIGH / 2, FORWARD)
                if row > OUTPUT and column + 1 < STEPS:
                    yield across(row, column, column + 1, FORWARD, -5, dashed=True)
            if self.found.cyclic and column + 1 < STEPS:
                yield self._loop(column)
            for row in range(OUTPUT, INPUT + 1):
                yield self._place(row, column)
        if self.traits.from_loss:
            yield from self._tried()
        elif self.traits.perturbs:
            yield from self._noise()

    def error(self) -> Iterator[str]:
        """What is compared with the label, and what comes of it."""
        if self.found.time == "rates":
            for row in range(OUTPUT, INPUT + 1):
                yield from self._mean(row)
        elif self.found.time == "loss":
            yield from self._gathered(OUTPUT)
            yield place(OUTPUT, STEPS, CREDIT)
            yield text(_x(STEPS), _y(OUTPUT) + 4, "all o", "middle", size=11)
        if self.found.whole:
            yield self._compared(STEPS, "L" if self.found.time == "loss" else "e", 1.0)
            return
        shown = self._lit()
        for column, lit in enumerate(self.found.lit):
            yield self._compared(column, "e", 1.0 if column in shown else FAINT if lit else 0.0)

    def credit(self) -> Iterator[str]:
        """What takes the error to the layer."""
        if self.found.time == "loss":
            yield from self._rail()
            return
        for column in self._lit():
            if self.found.through:
                yield from self._down(column)
            if self.found.direct:
                yield self._past(column)
        yield from self._aside()
        if self.found.time == "rates" and self.found.cyclic:
            yield self._round()
        for layer in dict.fromkeys(head.reads for head in self.found.heads):
            yield from self._head(layer)
        yield ring(self.row, self.at, CREDIT)

    def update(self) -> Iterator[str]:
        """What meets credit at the synapse, whose weights change."""
        if self.found.time == "loss":
            for row in range(OUTPUT, INPUT):
                yield from self._weight(row, f"ΔW{'⁴³²¹'[row - OUTPUT]}")
            return
        below = self.row + 1
        if self.found.time == "trace":
            pairs = [row[self.at] for row in self.found.routes[FOCUS].pairs]
            for column in range(self.at):
                yield across(below, column, column + 1, UPDATE, 6, strength=pairs[column] / (pairs[self.at] or 1))
                yield ring(below, column, UPDATE, strength=pairs[column] / (pairs[self.at] or 1))
        yield ring(below, self.at, UPDATE)
        yield from self._weight(self.row, "ΔW")

    def _place(self, row: int, column: int) -> str:
        """Spikes of a layer at a step: a dot for every neuron, filled where it fired."""
        if row == OUTPUT:
            return place(row, column) + text(_x(column), _y(row) + 4, "o", "middle", size=12)
        units = self.found.spikes[INPUT - row][column]
        return place(row, column) + _dots(row, column, [float(fired) for fired in units])

    def _noise(self) -> Iterator[str]:
        """At every hidden neuron."""
        for column in range(STEPS):
            for row in range(OUTPUT + 1, INPUT):
                yield text(_x(column) + 20, _y(row) - HIGH / 2 - 4, "+z", "middle", size=11, role=NOISE)

    def _tried(self) -> Iterator[str]:
        """At every weight, and how often."""
        for column in range(STEPS):
            for row in range(OUTPUT, INPUT):
                yield text(_x(column) - ASIDE + 6, _y(row) + DOWN / 2 + 4, "w+z", "start", size=11, role=NOISE)
        if self.found.passes:
            passes = "one pass" if self.found.passes == 1 else f"{self.found.passes} passes"
            yield text(_x(0) - WIDE / 2, _y(ERROR) + 4, passes, "start", role=NOISE)

    def _loop(self, column: int) -> str:
        """From the last hidden layer to the first, a step later."""
        start, stop = _x(column) + WIDE / 2, _x(column + 1) - WIDE / 2
        high, low = _y(OUTPUT + 1) + 6, _y(INPUT - 1) - 8
        middle = (start + stop) / 2
        return _path(f"M{start} {high}C{middle + 8} {high} {middle - 8} {low} {stop} {low}", FORWARD, dashed=True)

    def _compared(self, column: int, name: str, strength: float) -> str:
        """The output goes up to be compared."""
        role, x, y = CREDIT if strength else "grid", _x(column), _y(ERROR)
        up = _path(f"M{x - ASIDE} {_y(OUTPUT) - HIGH / 2}V{y + 13}", role, strength=strength or 1.0)
        faint = f' stroke-opacity="{strength}"' if 0 < strength < 1 else ""
        circle = f'<circle cx="{x}" cy="{y}" r="13" stroke-width="1.8"{faint} {paint(fill="paper", stroke=role)}/>'
        return up + circle + text(x, y + 4, name, "middle", size=13, role=CREDIT if strength == 1 else "mute")

    def _gathered(self, row: int) -> Iterator[str]:
        """Steps become a sum as they pass."""
        for column in range(STEPS):
            yield across(row, column, column + 1, CREDIT if row == OUTPUT else UPDATE, 6, strength=0.7)

    def _mean(self, row: int) -> Iterator[str]:
        """A layer's mean over time, fuller where it fires more."""
        yield from self._gathered(row)
        yield place(row, STEPS, CREDIT if row == OUTPUT else UPDATE)
        if row == OUTPUT:
            yield text(_x(STEPS), _y(row) + 4, "ō", "middle", size=12)
            return
        steps = self.found.spikes[INPUT - row]
        yield _dots(row, STEPS, [sum(unit) / STEPS for unit in zip(*steps, strict=True)])

    def _lit(self) -> list[int]:
        """The columns whose errors reach the layer at the step that is shown."""
        if self.found.whole:
            return [STEPS]
        return [column for column, value in enumerate(self.found.routes[FOCUS].posts[self.at]) if value] or [self.at]

    def _down(self, column: int) -> Iterator[str]:
        """Through the layers above."""
        x = _x(column) + ASIDE
        yield arrow(x, _y(ERROR) + 12, x, _y(OUTPUT) - HIGH / 2, CREDIT)
        for row in range(OUTPUT, self.row):
            yield arrow(x, _y(row) + HIGH / 2, x, _y(row + 1) - HIGH / 2, CREDIT)
            if column == self.at:
                label = LABELS.get(self.found.read) or letter(self.found)
                yield text(x + 5, (_y(row) + _y(row + 1)) / 2 + 4, label, "start", size=11, role=CREDIT)

    def _past(self, column: int) -> str:
        """Past the layers above."""
        x, label = _x(column) + AWAY, "L z" if self.found.told == "loss" else letter(self.found)
        way = f"M{_x(column) + 13} {_y(ERROR)}H{x - 9}Q{x} {_y(ERROR)} {x} {_y(ERROR) + 9}"
        drawn = _path(f"{way}{_into(x, self.row, column)}", CREDIT)
        return drawn + text(x + 5, (_y(OUTPUT) + _y(OUTPUT + 1)) / 2 + 4, label, "start", role=CREDIT)

    def _aside(self) -> Iterator[str]:
        """From later steps to the one that is shown, in layers that errors cross back in time; or from earlier ones."""
        columns = self._lit()
        for row in range(OUTPUT + 1, self.row + 1):
            if self.found.routes[INPUT - 1 - row].time == "back in time":
                for column in range(self.at, max(columns)):
                    yield across(row, column + 1, column, CREDIT, 6)
        for column in range(min(columns), self.at):
            yield across(self.row, column, column + 1, CREDIT, 6)

    def _round(self) -> str:
        """From the first hidden layer to the last, through the loop."""
        x, edge, high, low = _x(self.at) + AWAY, _x(self.at) + WIDE / 2, _y(OUTPUT + 1), _y(INPUT - 1)
        way = f"M{edge + 2} {low}H{x - 9}Q{x} {low} {x} {low - 9}V{high + 9}Q{x} {high} {x - 9} {high}H{edge + 2}"
        return _path(way, CREDIT) + text(x + 3, (high + low) / 2 + 4, "loop", "start", size=11, role=CREDIT)

    def _head(self, layer: int) -> Iterator[str]:
        """The readout of a hidden layer at the step that is shown, and the layers that it teaches."""
        edge, high = _x(self.at) - WIDE / 2, _y(INPUT - 1 - layer)
        x, y = _x(self.at) - AWAY + 2, high - 27
        yield _path(f"M{edge + 8} {high - HIGH / 2}V{y + 8}Q{edge + 8} {y} {edge} {y}H{x + 9}", LOCAL, tip=False)
        for pupil in sorted({pupil for head in self.found.heads if head.reads == layer for pupil in head.teaches}):
            start = f"M{x} {y + 8}" if pupil == layer else f"M{x - 8} {y}Q{x - 13} {y} {x - 13} {y + 8}"
            yield _path(f"{start}{_into(x if pupil == layer else x - 13, INPUT - 1 - pupil, self.at)}", LOCAL)
        yield f'<circle cx="{x}" cy="{y}" r="8" stroke-width="1.6" {paint(fill="paper", stroke=LOCAL)}/>'
        yield text(x, y + 4, "r", "middle", role=LOCAL)

    def _rail(self) -> Iterator[str]:
        """One number for all layers."""
        x, stop = _x(STEPS) + AWAY, (_y(INPUT) + _y(INPUT - 1)) / 2
        way = f"M{_x(STEPS) + 13} {_y(ERROR)}H{x - 9}Q{x} {_y(ERROR)} {x} {_y(ERROR) + 9}V{stop}"
        yield _path(way, CREDIT, tip=False)
        for row in range(OUTPUT, INPUT):
            middle = (_y(row) + _y(row + 1)) / 2
            yield arrow(x, middle, x - 18, middle, CREDIT)

    def _weight(self, row: int, name: str) -> Iterator[str]:
        """The synapse between ``row`` and the row below it, where credit and spikes meet."""
        x, y = _x(self.at), (_y(row) + _y(row + 1)) / 2
        if self.found.time != "loss":
            yield arrow(x - ASIDE, _y(row + 1) - HIGH / 2, x - ASIDE, y + 9, UPDATE)
            yield arrow(x + ASIDE, _y(row) + HIGH / 2, x + ASIDE, y - 9, CREDIT)
        yield f'<rect x="{x - 19}" y="{y - 9}" width="38" height="18" rx="9" {paint(fill=UPDATE)}/>'
        yield f'<g font-weight="600">{text(x, y + 4, name, "middle", size=11, role="over")}</g>'


def _x(column: int) -> int:
    return LEFT + ACROSS * column


def _y(row: int) -> int:
    return TOP + DOWN * row


def _into(x: float, row: int, column: int) -> str:
    """Down a line at ``x`` beside a place, round a corner, and into its side."""
    edge = _x(column) + (WIDE / 2 + 3 if x > _x(column) else -WIDE / 2 - 3)
    return f"V{_y(row) - 8}Q{x} {_y(row)} {x + (edge - x) / 2} {_y(row)}H{edge}"


def place(row: int, column: int, role: str = "edge") -> str:
    """The frame of a layer at a step."""
    corner = f'x="{_x(column) - WIDE / 2}" y="{_y(row) - HIGH / 2}" width="{WIDE}" height="{HIGH}" rx="8"'
    return f"<rect {corner} {paint(fill='paper', stroke=role)}/>"


def ring(row: int, column: int, role: str, strength: float = 1.0) -> str:
    """A frame around a place."""
    x, y = _x(column) - WIDE / 2 - 2, _y(row) - HIGH / 2 - 2
    corner = f'x="{x}" y="{y}" width="{WIDE + 4}" height="{HIGH + 4}" rx="10"'
    return f'<rect {corner} stroke-width="2.4" stroke-opacity="{max(strength, 0.2):.2f}" {paint(stroke=role)}/>'


def _dots(row: int, column: int, shares: Sequence[float]) -> str:
    """A dot for every neuron, the fuller the more it fired."""
    left = _x(column) - APART * (len(shares) - 1) / 2
    return "".join(
        f'<circle cx="{left + APART * k:.1f}" cy="{_y(row)}" r="2.5" fill-opacity="{share:.2f}" '
        f"{paint(fill='ink', stroke='edge')}/>"
        for k, share in enumerate(shares)
    )


def arrow(x1: float, y1: float, x2: float, y2: float, role: str) -> str:
    """A straight arrow."""
    return _path(f"M{x1} {y1}L{x2} {y2}", role)


def across(row: int, start: int, stop: int, role: str, low: float, strength: float = 1.0, dashed: bool = False) -> str:
    """An arrow from one column to its neighbour, ``low`` below the middle."""
    away = WIDE / 2 + 1 if stop > start else -WIDE / 2 - 1
    return _path(f"M{_x(start) + away} {_y(row) + low}H{_x(stop) - away}", role, strength=strength, dashed=dashed)


def _path(way: str, role: str, *, strength: float = 1.0, dashed: bool = False, tip: bool = True) -> str:
    width = 1.2 if role == FORWARD else 2
    style = f'stroke-width="{width}"' + (' stroke-dasharray="2 3"' if dashed else "")
    faint = f' stroke-opacity="{max(strength, 0.2):.2f}"' if strength < 1 else ""
    end = f' marker-end="url(#tip-{role})"' if tip else ""
    return f'<path d="{way}" {style}{faint} {paint(stroke=role)}{end}/>'


def _tips() -> str:
    """Heads of arrows in every colour."""
    made = (
        f'<marker id="tip-{role}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{size}" markerHeight="{size}" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.5L8 4L0 7.5z" {paint(fill=role)}/></marker>'
        for role, size in ((FORWARD, 6), ("grid", 6), (CREDIT, 8), (LOCAL, 8), (UPDATE, 8))
    )
    return f"<defs>{''.join(made)}</defs>"
