"""What all pictures are drawn with: axes and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, inf, log10

from onward.report.palette import paint


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high``, drawn from pixel ``start`` to pixel ``stop``."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values along the axis, at most about six."""
        step = _round_step((self.high - self.low) / 5)
        return [k * step for k in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def axis(values: Sequence[float], start: float, stop: float) -> Axis:
    """An axis that holds all ``values``, with a margin."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    return Axis(low - margin, high + margin, start, stop)


def spread(wanted: Mapping[str, float], lowest: float = inf, gap: float = 16) -> dict[str, float]:
    """Heights near the wanted ones, no two closer than ``gap``, and none below ``lowest`` (which is down the page).

    >>> spread({"a": 90.0, "b": 95.0}, lowest=100.0)
    {'a': 84.0, 'b': 100.0}
    """
    placed: dict[str, float] = {}
    for name, height in sorted(wanted.items(), key=lambda item: item[1]):
        placed[name] = max(height, max(placed.values(), default=-gap) + gap)
    below = range(len(placed) - 1, -1, -1)
    return {name: min(height, lowest - k * gap) for k, (name, height) in zip(below, placed.items(), strict=True)}


def text(x: float, y: float, content: str, anchor: str, *, size: int = 13, role: str = "ink") -> str:
    """A piece of text, painted by role."""
    style = f'text-anchor="{anchor}" font-size="{size}" {paint(fill=role)}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(content)}</text>'
