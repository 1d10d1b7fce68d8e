"""The package ``nir``, which is needed for nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from onward.core.errors import ConfigError


def package() -> Any:
    """``nir``, imported; raises `ConfigError` with the fix where it is not installed."""
    try:
        return import_module("nir")
    except ImportError:
        raise ConfigError(
            "networks are exchanged in NIR files by the package nir, which is not installed; install it with "
            "`pip install nir`, or Onward with its extra `nir`"
        ) from None
