"""Data files named where a data set's name is expected."""

from __future__ import annotations

from onward.data.folders import expanded
from onward.data.npz import npz_keys
from onward.data.recordings import REQUIRED


def is_file(data: str) -> bool:
    """Whether ``data`` means a file, not the name of a data set, which has neither dots nor slashes."""
    return "." in data or "/" in data


def reader_of(data: str) -> str:
    """The name of the data set that reads the file; raises `DataError` where there is no readable file."""
    recordings = set(REQUIRED) <= set(npz_keys(expanded(data)))
    return "events" if recordings else "file"
