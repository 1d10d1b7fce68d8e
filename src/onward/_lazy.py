"""Names that are imported when first used, so that a package costs nothing until then (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str], packages: str = "") -> Callable[[str], Any]:
    """A module's ``__getattr__``: ``homes`` maps a module to the names it offers, ``packages`` lists subpackages.

    >>> lazy("here", {"math": "pi tau"})("pi") > 3
    True
    """
    where = {name: module for module, names in homes.items() for name in names.split()}

    def find(name: str) -> Any:
        if name in packages.split():
            return import_module(f"{package}.{name}")
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(where[name]), name)

    return find
