"""Network topologies, and their names for configurations; found by scanning this folder. They know no learning rule."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from onward.models.layers import Stack, Style, build_layers
from onward.models.registry import ModelChoice, models
from onward.models.twin import Twin, set_thresholds, thresholds_from_activations

__all__ = [
    "ModelChoice",
    "Stack",
    "Style",
    "Twin",
    "build",
    "build_layers",
    "models",
    "set_thresholds",
    "thresholds_from_activations",
]

build = models.build

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
