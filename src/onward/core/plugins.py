"""Packages of others that add rules and choices: they name a module under an entry point, and it registers them."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points

from onward.core.registry import registering


def load_plugins(group: str) -> None:
    """Imports what installed distributions name under ``group``; warns of those that cannot be imported.

    A distribution says so in its pyproject.toml:

        [project.entry-points."onward.rules"]
        sign-feedback = "onward_sign_feedback"
    """
    for entry in entry_points(group=group):
        with registering(_origin(entry)):
            try:
                entry.load()
            except Exception as error:  # whatever a stranger's module raises, the rest of the program goes on
                warnings.warn(_lost(entry, error), stacklevel=2)


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value


def _lost(entry: EntryPoint, error: Exception) -> str:
    name = entry.dist.name if entry.dist is not None else entry.value
    return (
        f"the plug-in {_origin(entry)} is left out, for its module {entry.value} cannot be imported "
        f"({type(error).__name__}: {error}); install a version that works with this one, or: pip uninstall {name}"
    )
