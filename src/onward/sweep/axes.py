"""Fields that a sweep searches over, as a person writes them: a range of numbers, or a list of values."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

from onward.core.errors import ConfigError
from onward.train.config import RunConfig
from onward.train.grammar import option_of
from onward.train.schema import alternatives, expected

Value = int | float | str

FIXED = {
    ("seed",): "trials with other seeds hold out other data, and cannot be compared",
    ("data",): "trials on other data cannot be compared; `onward compare --datasets` shows them side by side",
    ("stream",): "in a stream of tasks nothing is held out to choose by",
    ("train", "validation"): "trials that hold out other data cannot be compared",
    ("train", "out"): "the sweep says where its trainings go; use --to FOLDER",
}
"""Fields that nobody can search over, and why."""


class Axis(ABC):
    """A field, and the values that it may take; ``text`` is what was written."""

    field: str
    text: str

    @property
    @abstractmethod
    def extremes(self) -> tuple[Value, ...]:
        """Values that must be good where all are: both ends, or everything that is listed."""

    def flags(self, value: Value) -> tuple[str, ...]:
        """The field with a value, as on the command line; words of a listed value are items of a list."""
        words = value.split() if isinstance(value, str) else [str(value)]
        return (f"--{self.field}", *words)


@final
@dataclass(frozen=True)
class Range(Axis):
    """Numbers from ``low`` to ``high``, both included; of a ``whole`` range, whole ones."""

    field: str
    text: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def extremes(self) -> tuple[Value, ...]:
        """See `Axis.extremes`."""
        return self.low, self.high


@final
@dataclass(frozen=True)
class Listed(Axis):
    """One of several values, as text."""

    field: str
    text: str
    values: tuple[str, ...]

    @property
    def extremes(self) -> tuple[Value, ...]:
        """See `Axis.extremes`."""
        return self.values


def read_axis(text: str) -> Axis:
    """``FIELD=LO..HI``, ``FIELD=LO..HI:log`` or ``FIELD=A,B,C``; raises `ConfigError` for anything else.

    >>> read_axis("optim.lr=1e-4..1e-1:log").extremes, read_axis("model.hidden=400,800 800").extremes
    ((0.0001, 0.1), ('400', '800 800'))
    """
    field, equals, values = text.partition("=")
    field = field.strip().lstrip("-").replace("_", "-")
    if not (equals and field and values.strip()):
        raise ConfigError(f"--over {text} was given; expected FIELD=LO..HI, FIELD=LO..HI:log or FIELD=A,B,C")
    span = re.fullmatch(r"([^,/]*?)\.\.([^,/:]*)(?::(.*))?", values.strip())
    return _listed(field, text, values) if span is None else _range(field, text, *span.groups())


def _listed(field: str, text: str, values: str) -> Listed:
    found = tuple(" ".join(value.split()) for value in values.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise ConfigError(f"--over {text}: expected different values with commas between, such as {field}=A,B,C")
    return Listed(field, text, found)


def _range(field: str, text: str, low: str, high: str, scale: str | None) -> Range:
    ends = _number(low, text), _number(high, text)
    if scale not in (None, "log"):
        raise ConfigError(f"--over {text}: {scale!r} was given behind the range; expected log, or nothing")
    if ends[0] == ends[1]:
        raise ConfigError(f"--over {text}: the range is empty; set the field itself, --{field} {low}")
    if ends[0] > ends[1]:
        raise ConfigError(f"--over {text}: the range is reversed; expected the lower end first, {field}={high}..{low}")
    if scale and ends[0] <= 0:
        raise ConfigError(f"--over {text}: a range on a log scale starts above 0; raise {low}, or leave out :log")
    return Range(field, text, *ends, log=scale is not None)


def _number(word: str, text: str) -> float:
    try:
        found = int(word) if re.fullmatch(r"[-+]?\d{1,18}", word.strip()) else float(word)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"--over {text}: {word!r} was given as an end of the range; expected a number")
    return found


def checked(axes: Iterable[Axis], config: RunConfig) -> tuple[Axis, ...]:
    """``axes`` that ``config`` has, each once; ranges of whole numbers are known as such from here on.

    Raises `ConfigError`, or `UnknownOption` for a field that there is not.
    """
    found: dict[tuple[str, ...], Axis] = {}
    for axis in axes:
        option = option_of(f"--{axis.field}", config)
        if option.path in FIXED or option.path[:1] == ("stream",):
            raise ConfigError(f"--over {axis.text}: {FIXED.get(option.path, FIXED[('stream',)])}")
        if option.path in found:
            raise ConfigError(f"--over {axis.text}: {option.flag} is searched over already; give each field once")
        if isinstance(axis, Range):
            kinds = alternatives(option.info)
            if option.registry is not None or not {int, float} & set(kinds):
                takes = "a name" if option.registry is not None else expected(option.info)
                raise ConfigError(
                    f"--over {axis.text}: {option.flag} takes {takes}, and no range; list values, {axis.field}=A,B,C"
                )
            axis = replace(axis, whole=float not in kinds)
        found[option.path] = axis
    return tuple(found.values())
