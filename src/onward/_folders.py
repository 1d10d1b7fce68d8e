"""Where the program keeps what it can make or fetch again."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

VARIABLE = "ONWARD_CACHE"


def cache_folder() -> Path:
    """``ONWARD_CACHE``, or the platform's folder for caches; may not exist yet."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local") / "onward" / "cache"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "onward"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "onward"


def shared_folder() -> Path:
    """The platform's folder for a user's data, where data sets are fetched to; may not exist yet."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local") / "onward" / "data"
    if sys.platform == "darwin":
        return _home() / "Library" / "Application Support" / "onward"
    return Path(os.environ.get("XDG_DATA_HOME") or _home() / ".local" / "share") / "onward"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without an entry, as in some containers
        return temporary()


def temporary() -> Path:
    """A folder of this user's among the temporary ones."""
    return Path(tempfile.gettempdir()) / f"onward-cache-{os.environ.get('USER', 'user')}"
