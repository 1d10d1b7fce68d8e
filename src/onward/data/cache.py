"""Arrays that take long to make, kept on disk under a key.

The folder is ``ONWARD_CACHE`` or the platform's folder for caches. Where it cannot be written, a temporary folder takes
its place, and where that cannot either, memory; one warning says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onward._folders import VARIABLE, cache_folder, temporary
from onward.core.errors import DataError
from onward.data.npz import npz_keys, read_npz

Arrays = dict[str, np.ndarray]


def folders() -> list[Path]:
    """Folders to look in and write to, best first."""
    return [cache_folder(), temporary()]


def cache_key(parameters: Mapping[str, Any], sources: list[Path]) -> str:
    """A hash over everything that the arrays depend on: parameters (plain JSON values) and source files."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:32]


def stamps(files: Iterable[Path]) -> list[list[str | int]]:
    """Names, sizes and times: what tells whether ``files`` are the same without reading them."""
    found = [(str(file), file.stat()) for file in files]
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in found]


def find_cached(name: str) -> Path | None:
    """The file of a cached entry, or None."""
    paths = (folder / f"{name}.npz" for folder in folders())
    return next((path for path in paths if os.path.isfile(path)), None)  # false, too, where it may not be looked


def cached(name: str, build: Callable[[], Arrays]) -> Arrays:
    """The arrays stored under ``name``, or those that ``build`` makes, stored for the next time.

    A stored file that is damaged is made anew. A file appears whole or not at all.
    """
    path = find_cached(name)
    if path is not None:
        try:
            return read_npz(path, npz_keys(path))
        except DataError as error:
            warnings.warn(f"the cache is damaged and is made anew: {error}", stacklevel=2)
    arrays = build()
    _store(name, arrays)
    return arrays


def _store(name: str, arrays: Arrays) -> None:
    failures = []
    for folder in folders():
        try:
            write_whole(folder / f"{name}.npz", arrays)
        except OSError as error:
            failures.append(f"{folder} ({error.strerror or error})")
            continue
        break
    if failures:
        kept = "in memory only" if len(failures) == len(folders()) else f"in {folders()[-1]}"
        warnings.warn(
            f"cannot write the cache to {' or '.join(failures)}; keeping it {kept}. "
            f"Name a folder that can be written with {VARIABLE}",
            stacklevel=3,
        )


def write_whole(path: Path, arrays: Arrays) -> None:
    """Writes the file under another name and moves it into place; raises `OSError` and leaves nothing if it cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=path.stem, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
