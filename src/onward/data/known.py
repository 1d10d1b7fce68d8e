"""Files whose size and digest are known before they are there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from onward.core.errors import DataError


class Known(NamedTuple):
    """A file as it must be: ``digest`` names an algorithm of hashlib and, after a colon, its hexadecimal value.

    >>> print(Known("labels.gz", 5148, "md5:bb300cfdad3c16e7a12a480ee83cd310"))
    labels.gz (5,148 bytes, md5:bb300cfdad3c16e7a12a480ee83cd310)
    """

    name: str
    size: int
    digest: str

    def __str__(self) -> str:
        return f"{self.name} ({self.size:,} bytes, {self.digest})"

    def matches(self, path: Path) -> bool:
        """Whether ``path`` is this file. Reads it, unless its size tells."""
        return path.is_file() and path.stat().st_size == self.size and self.digest_of(path) == self.digest

    def digest_of(self, path: Path) -> str:
        """The digest of the file at ``path``, in the form of ``digest``."""
        algorithm = self.digest.partition(":")[0]
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False))
        return f"{algorithm}:{found.hexdigest()}"


@contextmanager
def writing(folder: Path, size: int) -> Iterator[None]:
    """Raises `DataError` in words where ``folder`` cannot take the ``size`` bytes that are being written there."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written to ({error.strerror or error}); {size:,} bytes are needed there. "
            "Make room, or name another folder with --to"
        ) from None
