"""Files out of a .tar.gz or .zip archive: only those that are expected, all of them or none.

Members are copied by their content alone, under names that the caller gives, so that no name, mode, owner or link of
an archive reaches the disk.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple, cast

from onward._durable import sync_folder
from onward.core.errors import DataError
from onward.data.known import Known, writing

SPARE_MEMBERS, SPARE_BYTES = 16, 1 << 20
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,  # also nested headers without end, an encrypted member, an unknown compression
    ValueError,
)


def extract(archive: Path, members: Mapping[str, Known], folder: Path) -> None:
    """Puts the ``members`` of ``archive``, each name inside it with the file that it must be, into ``folder``.

    They are written beside ``folder``, verified, then moved there. Plain members that nobody asked for are passed over,
    up to 16 of them and 1 MiB. Raises `DataError` for a member that is missing, comes twice or differs, for a link, a
    device, an absolute name or one with ``..`` anywhere in the archive, and for an archive that unpacks to more.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    with writing(folder.parent, sum(known.size for known in members.values())):
        try:
            draft.mkdir(parents=True)
            _unpack(archive, members, draft)
            _move(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _unpack(archive: Path, members: Mapping[str, Known], draft: Path) -> None:
    try:
        with closing(_entries(archive, members)) as entries:
            taken = _take(entries, members, draft)
    except _BROKEN as error:
        raise DataError(f"{archive}: cannot be unpacked ({error or type(error).__name__})") from None
    except DataError as refused:
        raise DataError(f"{archive}: {refused}; nothing of it is used") from None
    if missing := sorted(set(members) - taken):
        raise DataError(f"{archive}: lacks {', '.join(missing)}; nothing of it is used")


def _move(draft: Path, folder: Path) -> None:
    """Into place as one folder, or file by file into a folder that is there already."""
    if folder.is_dir():
        for path in draft.iterdir():
            path.replace(folder / path.name)
    else:
        draft.rename(folder)
    sync_folder(folder)
    sync_folder(folder.parent)


class _Entry(NamedTuple):
    """A member as the archive describes it: ``kind`` is "file", "folder", or what else it is, in words."""

    name: str
    size: int
    kind: str
    open: Callable[[], IO[bytes] | None]


def _take(entries: Iterable[_Entry], members: Mapping[str, Known], draft: Path) -> set[str]:
    """Copies the members that are asked for; the names of them."""
    taken = set[str]()
    for count, entry in enumerate(entries, 1):
        if count > len(members) + SPARE_MEMBERS:
            raise DataError(f"holds more than {len(members) + SPARE_MEMBERS} members")
        _check(entry)
        if entry.name in taken:
            raise DataError(f"holds {entry.name} twice")
        if entry.name in members:
            _copy(entry, members[entry.name], draft)
            taken.add(entry.name)
    return taken


def _check(entry: _Entry) -> None:
    path = PureWindowsPath(entry.name)  # which knows both separators, and drives
    if path.anchor or ".." in path.parts:
        raise DataError(f"holds {entry.name!r}, a name that leads out of the folder")
    if entry.kind not in ("file", "folder"):
        raise DataError(f"holds {entry.name!r}, which is {entry.kind}; expected plain files")


def _copy(entry: _Entry, known: Known, draft: Path) -> None:
    source = entry.open() if entry.kind == "file" else None
    if source is None or entry.size != known.size:
        raise DataError(f"holds {entry.name} as a {entry.kind} of {entry.size:,} bytes; expected {known}")
    target = draft / known.name
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())
    if not known.matches(target):
        raise DataError(f"holds {entry.name} with {known.digest_of(target)}; expected {known}")


def _entries(archive: Path, members: Mapping[str, Known]) -> Generator[_Entry, None, None]:
    if archive.suffix == ".zip":
        return _zip_entries(archive)
    return _tar_entries(archive, sum(known.size for known in members.values()) + SPARE_BYTES)


def _tar_entries(archive: Path, limit: int) -> Generator[_Entry, None, None]:
    with gzip.open(archive) as unpacked:
        capped = cast("IO[bytes]", _Capped(cast("IO[bytes]", unpacked), limit))
        with tarfile.open(fileobj=capped, mode="r|") as tar:
            for info in tar:
                plain = "file" if info.isreg() else "folder" if info.isdir() else "a link or a device"
                yield _Entry(info.name, info.size, plain, partial(tar.extractfile, info))


def _zip_entries(archive: Path) -> Generator[_Entry, None, None]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            yield _Entry(info.filename, info.file_size, _zip_kind(info), partial(file.open, info))


def _zip_kind(info: zipfile.ZipInfo) -> str:
    form = stat.S_IFMT(info.external_attr >> 16)
    if form not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed in an unknown way"
    return "folder" if info.is_dir() else "file"


class _Capped:
    """A stream that refuses to give more than ``limit`` bytes."""

    def __init__(self, file: IO[bytes], limit: int):
        self._file, self._left = file, limit

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise DataError("unpacks to more than its files and 1 MiB")
        return block
