"""Where data files are looked for: a folder that is named, or the folder of the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from os.path import isfile
from pathlib import Path

from onward.core.errors import DataError

VARIABLE = "ONWARD_DATA"


def expanded(path: str) -> Path:
    """``path`` with ``~`` and ``~user`` in full; raises `DataError` where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path}: there is no such user; give the path in full") from None


def candidates(subfolder: str, root: str | None) -> list[Path]:
    """Folders that may hold a data set, in order: ``root`` or else $ONWARD_DATA, with and without ``subfolder``."""
    base = root or os.environ.get(VARIABLE)
    if not base:
        return []
    folder = expanded(base)
    return [folder / subfolder, folder]


def find_files(
    subfolder: str, root: str | None, names: Sequence[str], suffixes: Iterable[str], origin: str
) -> list[Path]:
    """The files ``names``, each with one of ``suffixes``, all from the first folder that has every one of them.

    Raises `DataError`, which says what was looked for, where, and where the files come from (``origin``).
    """
    folders, endings = candidates(subfolder, root), list(suffixes)
    for folder in folders:
        found = [next((p for end in endings if isfile(p := folder / (name + end))), None) for name in names]
        present = [path for path in found if path is not None]
        if len(present) == len(names):
            return present
    places = " or ".join(str(folder) for folder in folders) or f"no folder: neither --data.root nor {VARIABLE} is set"
    first = names[0] + "".join(f"[{end}]" for end in endings if end)
    raise DataError(
        f"{subfolder}: looked for {first} and {len(names) - 1} more in {places}. Get them from {origin}, "
        f"put them into a folder named {subfolder}, and give its parent with --data.root or {VARIABLE}"
    )
