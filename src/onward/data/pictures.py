"""Folders of picture files, decoded with Pillow into arrays of bytes that are kept in the cache.

A file may come from anywhere: only the formats that are expected are tried, and a picture that announces far more than
its file can hold is not decoded, see `onward.data.limits`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from onward.core.errors import DataError, one_line
from onward.data.cache import Arrays, cache_key, cached, stamps
from onward.data.limits import allowance, refusal

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 5
"""Files that a message names, with what is wrong with each."""

_CHUNK = 4096
_REASON = 80
_SUFFIXES = (".png", ".jpg", ".jpeg")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoder:
    """What becomes of a file of one of the ``formats``: bytes ``[channels, side, side]``.

    ``fit`` gives a picture its size and colours, or raises `ValueError` for one that it does not take; ``source`` is
    the file that defines it, so that a change of it makes what is in the cache anew.
    """

    formats: tuple[str, ...]
    channels: int
    side: int
    fit: Callable[[Image], Image]
    source: Path

    def __call__(self, path: Path) -> np.ndarray | str:
        """The bytes of a picture, or why there are none."""
        pillow = _pillow()
        try:
            with pillow.open(path, formats=self.formats) as picture:
                size, packed = 3 * picture.width * picture.height, path.stat().st_size
                if size > allowance(packed):
                    return refusal(size, packed)
                pixels = np.asarray(self.fit(picture))
        except pillow.UnidentifiedImageError:
            return f"it is no {' or '.join(self.formats)} file"
        except Exception as error:  # Pillow hands on whatever its decoders meet in a damaged file
            return str(error) or type(error).__name__
        return pixels.reshape(self.side, self.side, self.channels).transpose(2, 0, 1)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            "these are picture files, and Pillow, which decodes them, is not installed; install it with "
            "`pip install pillow`, or Onward with its extra `images`"
        ) from None
    return Image


def picture_files(folder: Path) -> list[Path]:
    """The picture files right in ``folder``, by name; none where there is no such folder."""
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))


def read_pictures(
    name: str, classes: Sequence[Sequence[Path]], decoder: Decoder, skip_unreadable: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures ``[N, channels, side, side]`` uint8 and labels ``[N]`` int64 of the files of each class, in their order.

    Files that cannot be decoded are left out, with a warning, if ``skip_unreadable``; else they are a `DataError`. Both
    count them and name some.
    """
    files = [file for group in classes for file in group]
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in classes])
    arrays = cached(f"{name}-{_key(files, decoder)}", partial(_decoded, name, files, decoder))
    rows = arrays["rows"]
    if len(rows) < len(files):
        _report(name, files, rows, arrays["why"], skip_unreadable)
    return arrays["x"], labels[rows]


def readable(name: str, files: Sequence[Path], decoder: Decoder) -> np.ndarray:
    """The rows of those ``files`` that can be decoded; all others are left out, with a warning that names some.

    Decodes every file once; what came of it is kept in the cache.
    """
    arrays = cached(f"{name}-readable-{_key(files, decoder)}", partial(_tried, name, files, decoder))
    rows = arrays["rows"]
    if not len(rows):
        raise DataError(f"{name}: none of its {len(files):,} files can be decoded")
    if len(rows) < len(files):
        _report(name, files, rows, arrays["why"], skip=True)
    return rows


def _key(files: Sequence[Path], decoder: Decoder) -> str:
    """Over what tells whether files are the same without reading them, and how they are decoded."""
    return cache_key({"files": stamps(files), "pillow": _pillow().__version__}, [Path(__file__), decoder.source])


def _decoded(name: str, files: Sequence[Path], decoder: Decoder) -> Arrays:
    """``x``, the ``rows`` of ``files`` that it comes from, and of all others ``why``."""
    x = np.empty((len(files), decoder.channels, decoder.side, decoder.side), np.uint8)
    why: dict[int, str] = {}
    for row, found in _attempts(name, files, decoder):
        if isinstance(found, str):
            why[row] = found
        else:
            x[row] = found
    outcome = _outcome(len(files), why)
    return {"x": x[outcome["rows"]] if why else x, **outcome}


def _tried(name: str, files: Sequence[Path], decoder: Decoder) -> Arrays:
    """As `_decoded`, without the pictures."""
    return _outcome(len(files), {row: f for row, f in _attempts(name, files, decoder) if isinstance(f, str)})


def _attempts(name: str, files: Sequence[Path], decoder: Decoder) -> Iterator[tuple[int, np.ndarray | str]]:
    """What the decoder makes of each file, or why it makes nothing of it."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _CHUNK):
            _log.info("decoding %s: %d of %d files done", name, start, len(files))
            for row, found in enumerate(pool.map(decoder, files[start : start + _CHUNK]), start):
                yield row, one_line(found, _REASON) if isinstance(found, str) else found


def _outcome(count: int, why: Mapping[int, str]) -> Arrays:
    return {"rows": np.delete(np.arange(count), list(why)), "why": np.array(list(why.values()), np.str_)}


def _report(name: str, files: Sequence[Path], rows: np.ndarray, why: np.ndarray, skip: bool) -> None:
    lost = np.delete(np.arange(len(files)), rows).tolist()
    shown = [f"{files[row].parent.name}/{files[row].name} ({reason})" for row, reason in zip(lost, why, strict=True)]
    more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
    what = f"{name}: {len(lost):,} of {len(files):,} files cannot be decoded: {', '.join(shown[:SHOWN])}{more}"
    if not skip:
        raise DataError(f"{what}. Leave them out with --data.skip-unreadable, or replace them")
    warnings.warn(f"{what}. They are left out", stacklevel=4)
