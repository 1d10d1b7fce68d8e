"""The one exception tree. Every message says what was given, what is expected, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MOST_CHARACTERS = 1000
"""Of a message. Lists of all names take some hundreds; what is longer quotes something that nobody reads."""

MOST_LETTERS = 100
"""Of a name; comparing words takes time in the square of their lengths."""


class OnwardError(Exception):
    """Root of everything Onward raises on purpose; the command line prints it without a traceback.

    Its text is one line whatever it quotes: control characters are escaped, a long middle is left out.

    >>> str(OnwardError("no data set 'a\\nb'"))
    "no data set 'a\\\\nb'"
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """``text`` with control characters escaped and its middle left out beyond ``most`` characters."""
    text = _shortened(text, most)
    if text.isprintable():
        return text
    return _shortened("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), most)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[-most // 3 :]}"


class UnknownName(OnwardError):
    """A name that no registry entry, field or option carries.

    >>> str(UnknownName("rule", "otttt", ["ottt", "sltt", "opzo"]))
    "unknown rule 'otttt'; did you mean 'ottt'? Known: opzo, ottt, sltt"
    """

    def __init__(self, kind: str, given: str, known: Iterable[str]):
        names = sorted(known)
        near = nearest(given, names, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        super().__init__(f"unknown {kind} {given!r}{hint} Known: {', '.join(names)}")
        self.kind, self.given, self.nearest = kind, given, near


def nearest(given: str, names: Iterable[str], *, cutoff: float, most: int = 3) -> list[str]:
    """The ``names`` that ``given`` may have been meant as, best first; none for what is far longer than a name."""
    return [] if len(given) > MOST_LETTERS else get_close_matches(given, names, n=most, cutoff=cutoff)


class ConfigError(OnwardError):
    """A value that a configuration field cannot take."""


class DataError(OnwardError):
    """A data file or array that cannot be used."""


class ShapeError(OnwardError):
    """A tensor of the wrong rank, batch or feature size."""


class UnsupportedModule(OnwardError):
    """A module that cannot stand where it stands in a network."""


class TopologyMismatch(OnwardError):
    """A network that the learning rule cannot train."""


class ObjectiveMismatch(OnwardError):
    """An objective that the learning rule cannot serve."""


class NotBound(OnwardError):
    """A learning rule used before ``rule.bind(net, objective, sample)``."""


class Divergence(OnwardError):
    """A mini-batch that cannot be learned; parameters may still be good."""


class NonFiniteError(Divergence):
    """NaN or infinity met during a run.

    ``where`` names the layer or quantity, ``step`` the time step (None when it belongs to no step).
    """

    def __init__(self, where: str, step: int | None = None):
        at = "" if step is None else f" at time step {step}"
        super().__init__(
            f"NaN or infinity in {where}{at}; lower the learning rate, clip gradients, or check the input data"
        )
        self.where, self.step = where, step
