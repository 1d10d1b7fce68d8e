"""Learning rules, one file each, found by scanning this folder; third parties add theirs by entry point."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from onward.core.plugins import load_plugins
from onward.rules.registry import RuleChoice, rules

__all__ = ["RuleChoice", "build", "rules"]

build = rules.build


def _discover() -> None:
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    load_plugins("onward.rules")


_discover()
