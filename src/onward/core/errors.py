"""The one exception tree. Every message says what was given, what is expected, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OnwardError(Exception):
    """Root of everything Onward raises on purpose; the command line prints it without a traceback."""


class UnknownName(OnwardError):
    """A name that no registry entry, field or option carries.

    >>> str(UnknownName("rule", "otttt", ["ottt", "sltt", "opzo"]))
    "unknown rule 'otttt'; did you mean 'ottt'? Known: opzo, ottt, sltt"
    """

    def __init__(self, kind: str, given: str, known: Iterable[str]):
        names = sorted(known)
        near = get_close_matches(given, names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        super().__init__(f"unknown {kind} {given!r}{hint} Known: {', '.join(names)}")
        self.kind, self.given, self.nearest = kind, given, near


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


class NonFiniteError(OnwardError):
    """NaN or infinity met during a run.

    ``where`` names the layer or quantity, ``step`` the time step (None when it belongs to no step).
    """

    def __init__(self, where: str, step: int | None = None):
        at = "" if step is None else f" at time step {step}"
        super().__init__(
            f"NaN or infinity in {where}{at}; lower the learning rate, clip gradients, or check the input data"
        )
        self.where, self.step = where, step
