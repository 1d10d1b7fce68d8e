"""Where data files are looked for: a folder that is named, that of the environment, or that of the platform."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from os.path import isfile
from pathlib import Path

from onward._folders import shared_folder
from onward.core.errors import DataError

VARIABLE = "ONWARD_DATA"


def expanded(path: str) -> Path:
    """``path`` with ``~`` and ``~user`` in full; raises `DataError` where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path}: there is no such user; give the path in full") from None


def data_folder() -> Path:
    """Where data sets are fetched to unless a folder is named: ``ONWARD_DATA``, or the platform's folder for data."""
    return expanded(os.environ.get(VARIABLE) or str(shared_folder()))


def candidates(subfolder: str, root: str | None) -> list[Path]:
    """Folders that may hold a data set, in order.

    ``root``, or else $ONWARD_DATA, with and without ``subfolder``; without a ``root`` also the platform's folder.
    """
    named = root or os.environ.get(VARIABLE)
    folders = [expanded(named) / subfolder, expanded(named)] if named else []
    return folders if root else [*folders, shared_folder() / subfolder]


def find_files(
    subfolder: str, root: str | None, names: Sequence[str], suffixes: Iterable[str], advice: str
) -> list[Path]:
    """The files ``names``, each with one of ``suffixes``, all from the first folder that has every one of them.

    Raises `DataError`, which says what was looked for, where, and how to get the files (``advice``).
    """
    folders, endings = candidates(subfolder, root), list(suffixes)
    for folder in folders:
        found = [next((p for end in endings if isfile(p := folder / (name + end))), None) for name in names]
        present = [path for path in found if path is not None]
        if len(present) == len(names):
            return present
    places = " or ".join(str(folder) for folder in folders)
    first = names[0] + "".join(f"[{end}]" for end in endings if end)
    raise DataError(
        f"{subfolder}: looked for {first} and {len(names) - 1} more in {places}. {advice}; or put files of your own "
        f"into a folder named {subfolder}, and give its parent with --data.root or {VARIABLE}"
    )
