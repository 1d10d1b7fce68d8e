"""What an operation costs, in picojoules (pJ), and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

from onward.core.errors import ConfigError, UnknownName

DEFAULT = "45nm-fp32"
HOROWITZ = "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, 45 nm CMOS at 0.9 V"


@dataclass(frozen=True)
class Technology:
    """Energies in pJ: ``mac`` of a multiplication and addition, ``ac`` of an addition, ``word`` of a number fetched.

    ``source`` says where they are from.

    >>> TECHNOLOGIES["45nm-fp32"].mac
    4.6
    """

    name: str
    mac: float
    ac: float
    word: float
    source: str

    def but(self, mac: float | None = None, ac: float | None = None, word: float | None = None) -> Technology:
        """The same with other energies, where given; the source says which. Raises `ConfigError` for nonsense."""
        given = {name: value for name, value in (("mac", mac), ("ac", ac), ("word", word)) if value is not None}
        for name, value in given.items():
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"--{name} {value} was given; expected an energy in pJ, such as 4.6")
        if not given:
            return self
        told = ", ".join(f"{name} {value:g} pJ" for name, value in given.items())
        rest = "" if len(given) == 3 else f"; the rest: {self.source}"
        return replace(self, **given, source=f"given: {told}{rest}")


def _horowitz(kind: str, multiplication: float, addition: float, bits: int) -> Technology:
    """Arithmetic of ``bits`` bits, and numbers from a cache of 1 MB, which takes 100 pJ for 64 bits."""
    mac = round(multiplication + addition, 3)
    parts = f"multiplication {multiplication:g} pJ, addition {addition:g} pJ, 64 bits from a 1 MB cache 100 pJ"
    return Technology(f"45nm-{kind}", mac, addition, 100 * bits / 64, f"{HOROWITZ}: {parts}")


TECHNOLOGIES: Mapping[str, Technology] = {
    found.name: found
    for found in (
        _horowitz("fp32", 3.7, 0.9, 32),
        _horowitz("fp16", 1.1, 0.4, 16),
        _horowitz("int32", 3.1, 0.1, 32),
        _horowitz("int8", 0.2, 0.03, 8),
    )
}


def technology(name: str) -> Technology:
    """The technology called ``name``; raises `UnknownName` with the nearest ones."""
    if name not in TECHNOLOGIES:
        raise UnknownName("technology", name, TECHNOLOGIES)
    return TECHNOLOGIES[name]
