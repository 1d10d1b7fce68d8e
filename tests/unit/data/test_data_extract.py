"""Taking files out of archives: the expected ones, all or none, and nothing that an evil archive would want."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.core.errors import DataError
from onward.data import extract as module
from onward.data.extract import SPARE_BYTES, SPARE_MEMBERS, extract
from onward.data.known import Known

FILES = {"set/a.bin": b"alpha" * 300, "set/b.bin": bytes(range(256))}
MEMBERS = {
    name: Known(Path(name).name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
    for name, content in FILES.items()
}
UNPACKED = {"a.bin": FILES["set/a.bin"], "b.bin": FILES["set/b.bin"]}


def plain(name: str, content: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


GOOD = [plain(name, content) for name, content in FILES.items()]


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for info, content in members:
            file.addfile(info, BytesIO(content))
    return path


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(archive: Path, tmp_path: Path, said: str) -> None:
    """Nothing is left, neither in the folder nor beside it nor outside."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=said):
        extract(archive, MEMBERS, tmp_path / "root" / "set")
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] in ([], [tmp_path / "root"])


def test_the_expected_files_of_a_tar(tmp_path: Path) -> None:
    extra = [special("set", tarfile.DIRTYPE), plain("set/readme.html", b"read me")]
    extract(tar(tmp_path / "s.tar.gz", *extra, *GOOD), MEMBERS, tmp_path / "root" / "set")
    assert contents(tmp_path / "root" / "set") == UNPACKED
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["set"]


def test_the_expected_files_of_a_zip(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "s.zip", ("set/", b""), ("set/readme.html", b"read me"), *FILES.items())
    extract(archive, MEMBERS, tmp_path / "root" / "set")
    assert contents(tmp_path / "root" / "set") == UNPACKED


def test_a_folder_that_is_there_keeps_its_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"damaged")
    (folder / "notes.txt").write_bytes(b"mine")
    extract(tar(tmp_path / "s.tar.gz", *GOOD), MEMBERS, folder)
    assert contents(folder) == {**UNPACKED, "notes.txt": b"mine"}


def test_modes_and_owners_of_an_archive_stay_there(tmp_path: Path) -> None:
    info, content = plain("set/a.bin", FILES["set/a.bin"])
    info.mode, info.uid = 0o6777, 12345
    extract(tar(tmp_path / "s.tar.gz", (info, content), GOOD[1]), MEMBERS, tmp_path / "set")
    assert not (tmp_path / "set" / "a.bin").stat().st_mode & 0o7111
    assert (tmp_path / "set" / "a.bin").stat().st_uid == os.getuid()


@pytest.mark.parametrize(
    ("evil", "said"),
    [
        (plain("/etc/passwd", b"root"), "'/etc/passwd', a name that leads out"),
        (plain("set/../../out", b"x"), r"'set/\.\./\.\./out', a name that leads out"),
        (plain("..", b"x"), "a name that leads out"),
        (plain("set\\..\\out", b"x"), "a name that leads out"),
        (plain("C:/out", b"x"), "a name that leads out"),
        (special("set/link", tarfile.SYMTYPE, "/etc/passwd"), "'set/link', which is a link or a device"),
        (special("set/a.bin", tarfile.SYMTYPE, "../../out"), "'set/a.bin', which is a link or a device"),
        (special("set/b.bin", tarfile.LNKTYPE, "set/a.bin"), "'set/b.bin', which is a link or a device"),
        (special("set/null", tarfile.CHRTYPE), "a link or a device"),
        (special("set/disk", tarfile.BLKTYPE), "a link or a device"),
        (special("set/pipe", tarfile.FIFOTYPE), "a link or a device"),
        (special("set/a.bin", tarfile.DIRTYPE), r"holds set/a\.bin as a folder"),
        (plain("set/a.bin", FILES["set/a.bin"] + b"!"), r"as a file of 1,501 bytes; expected a\.bin \(1,500 bytes"),
        (plain("set/a.bin", b"ALPHA" * 300), r"holds set/a\.bin with sha256:"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_evil_member(tmp_path: Path, evil: tuple[tarfile.TarInfo, bytes], said: str, first: bool) -> None:
    others = [member for member in GOOD if member[0].name != evil[0].name]
    members = [evil, *others] if first else [*others, evil]
    refused(tar(tmp_path / "s.tar.gz", *members), tmp_path, said)


@pytest.mark.parametrize("name", ["/etc/passwd", "set/../../out", "C:\\out"])
def test_an_evil_name_in_a_zip(tmp_path: Path, name: str) -> None:
    refused(zipped(tmp_path / "s.zip", *FILES.items(), (name, b"x")), tmp_path, "a name that leads out")


@pytest.mark.parametrize("form", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_link_or_a_device_in_a_zip(tmp_path: Path, form: int) -> None:
    info = zipfile.ZipInfo("set/a.bin")
    info.external_attr = (form | 0o777) << 16
    refused(zipped(tmp_path / "s.zip", (info, FILES["set/a.bin"])), tmp_path, "a link or a device")


def test_another_compression_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("set/a.bin", FILES["set/a.bin"])
    refused(tmp_path / "s.zip", tmp_path, "packed in an unknown way")


@pytest.mark.parametrize("make", [tar, zipped])
def test_a_name_that_comes_twice(tmp_path: Path, make: Callable[..., Path]) -> None:
    members = [*GOOD, GOOD[0]] if make is tar else [*FILES.items(), ("set/a.bin", FILES["set/a.bin"])]
    path = tmp_path / ("s.tar.gz" if make is tar else "s.zip")
    with pytest.warns(UserWarning, match="Duplicate name") if make is zipped else pytest.MonkeyPatch.context():
        make(path, *members)
    refused(path, tmp_path, r"holds set/a\.bin twice; nothing of it is used")


@pytest.mark.parametrize("make", [tar, zipped])
def test_a_member_that_is_missing(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = tar(tmp_path / "s.tar.gz", GOOD[1]) if make is tar else zipped(tmp_path / "s.zip", *[*FILES.items()][1:])
    refused(archive, tmp_path, r"lacks set/a\.bin; nothing of it is used")


@pytest.mark.parametrize("make", [tar, zipped])
def test_too_many_members(tmp_path: Path, make: Callable[..., Path]) -> None:
    names = [f"set/{i}" for i in range(SPARE_MEMBERS + 1)]
    if make is tar:
        archive = tar(tmp_path / "s.tar.gz", *GOOD, *map(plain, names))
    else:
        archive = zipped(tmp_path / "s.zip", *FILES.items(), *((name, b"") for name in names))
    refused(archive, tmp_path, f"holds more than {SPARE_MEMBERS + 2} members")


def test_a_bomb_among_the_others(tmp_path: Path) -> None:
    archive = tar(tmp_path / "s.tar.gz", plain("set/zeros", bytes(2 * SPARE_BYTES)), *GOOD)
    assert archive.stat().st_size < 10_000
    refused(archive, tmp_path, "unpacks to more than its files and 1 MiB")


def test_a_bomb_in_a_header(tmp_path: Path) -> None:
    header = tarfile.TarInfo("set/pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    archive = tmp_path / "s.tar.gz"
    archive.write_bytes(gzip.compress(header.tobuf() + bytes(4 * SPARE_BYTES)))
    refused(archive, tmp_path, "unpacks to more than its files and 1 MiB")


def test_headers_without_end(tmp_path: Path) -> None:
    header = tarfile.TarInfo("set/pax")
    header.type, header.size = tarfile.XHDTYPE, 0
    archive = tmp_path / "s.tar.gz"
    archive.write_bytes(gzip.compress(header.tobuf() * 2_000))
    refused(archive, tmp_path, r"unpacks to more|cannot be unpacked")


def test_a_member_of_a_zip_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "s.zip", ("set/a.bin", bytes(1 << 20)), [*FILES.items()][1])
    content = archive.read_bytes()
    said, real = (1500).to_bytes(4, "little"), (1 << 20).to_bytes(4, "little")
    archive.write_bytes(content.replace(real, said))
    refused(archive, tmp_path, r"cannot be unpacked|with sha256")


def test_an_encrypted_zip(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "s.zip", *FILES.items())
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    content[6] |= 1
    archive.write_bytes(content)
    refused(archive, tmp_path, "cannot be unpacked .*encrypted")


@pytest.mark.parametrize("name", ["s.tar.gz", "s.zip"])
@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(b"no tar", mtime=0)[:-4]])
def test_what_is_no_archive(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, tmp_path, "cannot be unpacked|lacks set/a.bin")


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["s.tar.gz", "s.zip", "tar inside"])
def test_damage_is_refused_or_harmless(tmp_path_factory, kind: str, data: st.DataObject) -> None:
    tmp_path = tmp_path_factory.mktemp("damaged")
    path = tmp_path / ("s.zip" if kind == "s.zip" else "s.tar.gz")
    made = zipped(path, *FILES.items()) if kind == "s.zip" else tar(path, *GOOD)
    content = bytearray(gzip.decompress(made.read_bytes()) if kind == "tar inside" else made.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    path.write_bytes(gzip.compress(content) if kind == "tar inside" else content)
    try:
        extract(path, MEMBERS, tmp_path / "set")
    except DataError:
        assert list(tmp_path.iterdir()) == [path]
    else:
        assert contents(tmp_path / "set") == UNPACKED


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    archive = tar(tmp_path / "s.tar.gz", *GOOD)

    def refuse(*_args) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.shutil, "copyfileobj", refuse)
    refused(archive, tmp_path, rf"cannot be written to \({os.strerror(number)}\); 1,756 bytes are needed")
