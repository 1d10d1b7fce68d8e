"""Credit choices, one file each, found by scanning this folder."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from onward.credit.base import locals_, spatials, temporals

__all__ = ["locals_", "spatials", "temporals"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
