"""Fetching a file: resumed, capped, verified, over https only; the table of published sets; ``onward data get``."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from https_site import PEM, Site, cutting, honest, redirecting, saying, serving, site_of, trust
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward._folders import shared_folder
from onward.cli import USER_ERROR, main
from onward.core.errors import DataError, UnknownName
from onward.data import datasets, download, listing, load, obtain
from onward.data.download import NotFetched, Remote, fetch
from onward.data.known import Known
from onward.data.published import PUBLISHED, Loose, Packed

CONTENT = np.random.default_rng(0).bytes(100_000)


def known(content: bytes, name: str = "file.gz", algorithm: str = "sha256") -> Known:
    return Known(name, len(content), f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    """A server that nothing reaches through a proxy."""
    with serving() as running, pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "*")
        yield running


@pytest.fixture
def site(server: ThreadingHTTPServer) -> Site:
    """An empty site that behaves."""
    return site_of(server)


@pytest.fixture
def remote(site: Site) -> Remote:
    site.files["/file.gz"] = CONTENT
    return Remote(f"{site.url}/file.gz", known(CONTENT))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_is_fetched_once(site: Site, remote: Remote, tmp_path: Path, algorithm: str) -> None:
    remote = remote._replace(known=known(CONTENT, algorithm=algorithm))
    folder = tmp_path / "new" / "folder"
    assert fetch(remote, folder, trust())
    assert contents(folder) == {"file.gz": CONTENT}
    assert not fetch(remote, folder, trust())
    assert site.asked == [("/file.gz", None)]


def test_a_cut_connection_is_taken_up_again(site: Site, remote: Remote, tmp_path: Path) -> None:
    site.behaviours = [cutting(30_000), cutting(20_000), honest]
    assert fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": CONTENT}
    assert site.ranges == [None, "bytes=30000-", "bytes=50000-"]


def test_what_came_is_kept_for_the_next_call(site: Site, remote: Remote, tmp_path: Path) -> None:
    site.behaviours = [cutting(7)]
    with pytest.raises(NotFetched, match=r"ended 5 times, at last after 35 of 100,000 bytes; they are kept"):
        fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz.part": CONTENT[:35]}
    site.behaviours = [honest]
    assert fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": CONTENT}
    assert site.ranges[-1] == "bytes=35-"


def test_a_server_that_knows_no_ranges(site: Site, remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:40_000])
    site.behaviours = [saying(len(CONTENT), CONTENT)]
    assert fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": CONTENT}
    assert site.ranges == ["bytes=40000-"]


@pytest.mark.parametrize("size", [10, 100_000, 100_001])
def test_a_part_of_another_file_is_given_up(site: Site, remote: Remote, tmp_path: Path, size: int) -> None:
    (tmp_path / "file.gz.part").write_bytes(bytes(size))
    assert fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": CONTENT}
    assert site.ranges[-1] is None


@pytest.mark.parametrize(
    "odd", [saying(0, b"", 416), saying(3, b"abc", 206, Content_Range="bytes 5-7/100000")], ids=["416", "other range"]
)
def test_a_range_that_is_not_served_is_given_up(site: Site, remote: Remote, tmp_path: Path, odd) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:10])
    site.behaviours = [odd, honest]
    assert fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": CONTENT}
    assert site.ranges == ["bytes=10-", None]


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_another_file_is_refused_and_removed(site: Site, remote: Remote, tmp_path: Path, algorithm: str) -> None:
    other = bytes(len(CONTENT))
    site.files["/file.gz"] = other
    came, expected = known(other, algorithm=algorithm).digest, known(CONTENT, algorithm=algorithm)
    with pytest.raises(NotFetched, match=rf"what came is {came}; expected {expected.digest}\. It was removed"):
        fetch(remote._replace(known=expected), tmp_path, trust())
    assert contents(tmp_path) == {}


def test_a_file_that_differs_is_replaced_by_the_published_one(
    remote: Remote, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file.gz").write_bytes(CONTENT[:-1] + b"?")
    assert fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": CONTENT}
    assert "file.gz is not the published file; fetching that" in caplog.text


def test_a_file_that_differs_stays_if_the_published_one_cannot_be_had(
    site: Site, remote: Remote, tmp_path: Path
) -> None:
    (tmp_path / "file.gz").write_bytes(b"mine")
    site.files.clear()
    with pytest.raises(NotFetched, match="the server answered 404 Not Found"):
        fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": b"mine"}


@pytest.mark.parametrize("length", [1, 99_999, 100_001, 10**15])
def test_another_length_is_refused_before_anything_is_read(
    site: Site, remote: Remote, tmp_path: Path, length: int
) -> None:
    site.behaviours = [saying(length, CONTENT)]
    with pytest.raises(NotFetched, match=rf"is {length:,} bytes long; expected 100,000"):
        fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {}


def test_another_length_is_seen_in_a_range_as_well(site: Site, remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:10])
    site.files["/file.gz"] = CONTENT + b"more"
    with pytest.raises(NotFetched, match=r"is 100,004 bytes long; expected 100,000"):
        fetch(remote, tmp_path, trust())


@pytest.mark.parametrize("length", [None, 100_000, "nonsense", "9" * 5000])
def test_no_more_than_the_known_size_is_kept(site: Site, remote: Remote, tmp_path: Path, length) -> None:
    site.behaviours = [saying(length, CONTENT + bytes(1 << 20))]
    assert fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {"file.gz": CONTENT}


def test_a_body_without_end(site: Site, remote: Remote, tmp_path: Path) -> None:
    sent = []

    def endless(handler, _content) -> None:
        handler.begin(200)
        while True:
            sent.append(handler.wfile.write(bytes(1 << 16)))

    site.behaviours = [endless]
    with pytest.raises(NotFetched, match="what came is sha256:"):
        fetch(remote, tmp_path, trust())
    assert sum(sent) < 1 << 26
    assert contents(tmp_path) == {}


@given(st.lists(st.integers(0, 400), max_size=4), st.integers(0, 600))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_the_connection_ends_the_file_is_whole(server, tmp_path_factory, cuts: list[int], left: int) -> None:
    content, site, folder = CONTENT[:500], site_of(server), tmp_path_factory.mktemp("cut")
    (folder / "file.gz.part").write_bytes(content[:left])
    site.files["/file.gz"], site.behaviours = content, [*map(cutting, cuts), honest]
    assert fetch(Remote(f"{site.url}/file.gz", known(content)), folder, trust())
    assert contents(folder) == {"file.gz": content}


@pytest.mark.parametrize("url", ["http://localhost/file.gz", "ftp://localhost/file.gz", "file:///etc/hosts"])
def test_only_https_is_spoken(tmp_path: Path, url: str) -> None:
    with pytest.raises(NotFetched, match="over https only"):
        fetch(Remote(url, known(CONTENT)), tmp_path, trust())
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("http://localhost/file.gz", "http://localhost/file.gz: is no https address"),
        ("ftp://localhost/file.gz", "over https only"),
        ("file:///etc/hosts", "the server answered 302"),
        ("/file.gz", "the server answered 302"),
        ("https://[::1/file.gz", "Invalid IPv6 URL"),
        ("https://a..b/file.gz", "label empty or too long"),
    ],
    ids=["http", "ftp", "file", "itself", "no host", "no name"],
)
def test_redirections_that_are_not_followed(site: Site, remote: Remote, tmp_path: Path, to: str, said: str) -> None:
    site.behaviours = [redirecting(to)]
    with pytest.raises(NotFetched, match=said):
        fetch(remote, tmp_path, trust())
    assert contents(tmp_path) == {}


def test_a_redirection_to_https_is_followed(site: Site, remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:10])
    site.files["/elsewhere"] = CONTENT
    site.behaviours = [redirecting(f"{site.url}/elsewhere"), honest]
    assert fetch(remote, tmp_path, trust())
    assert site.asked == [("/file.gz", "bytes=10-"), ("/elsewhere", "bytes=10-")]
    assert contents(tmp_path) == {"file.gz": CONTENT}


def test_a_certificate_that_nobody_vouches_for(site: Site, remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(NotFetched, match="certificate verify failed"):
        fetch(remote, tmp_path)
    assert site.asked == []


def test_no_network(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(NotFetched, match=r"https://localhost:1/file\.gz: Connection refused"):
        fetch(remote._replace(url="https://localhost:1/file.gz"), tmp_path, trust())


@pytest.mark.parametrize("after", ["request", "headers"])
def test_a_server_that_falls_silent(
    site: Site, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    done = Event()

    def silent(handler, _content) -> None:
        if after == "headers":
            handler.begin(200, Content_Length=len(CONTENT))
        done.wait(10)

    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    site.behaviours = [silent]
    try:
        with pytest.raises(NotFetched, match=r"timed out|ended 5 times, at last after 0 of"):
            fetch(remote, tmp_path, trust())
    finally:
        done.set()


def test_a_server_that_does_not_speak_http(site: Site, remote: Remote, tmp_path: Path) -> None:
    site.behaviours = [lambda handler, _: handler.wfile.write(b"hello\r\n\r\n") and None]
    with pytest.raises(NotFetched, match=r"file\.gz: hello"):
        fetch(remote, tmp_path, trust())


def test_a_folder_that_is_a_file(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(DataError, match=r"taken: cannot be written to \(File exists\); 100,000 bytes are needed"):
        fetch(remote, tmp_path / "taken", trust())


@pytest.mark.parametrize(
    ("call", "number", "said"),
    [
        ("os.fsync", errno.ENOSPC, "No space left on device"),
        ("os.replace", errno.EROFS, "Read-only file system"),
        ("pathlib.Path.mkdir", errno.EACCES, "Permission denied"),
    ],
)
def test_a_disk_that_refuses(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, said: str
) -> None:
    def refuse(*_args, **_options) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(call, refuse)
        with pytest.raises(DataError, match=rf"cannot be written to \({said}\).*name another folder with --to"):
            fetch(remote, tmp_path, trust())
    assert not (tmp_path / "file.gz").exists()


# the table


def test_what_is_published_is_named_sized_and_hashed() -> None:
    assert set(PUBLISHED) == {"mnist", "fashion-mnist", "cifar10", "cifar100"}
    for published in PUBLISHED.values():
        _, remotes = published.by_hand(Path("nowhere"))
        members = list(published.members.values()) if isinstance(published, Packed) else []
        for one in [remote.known for remote in remotes] + members:
            algorithm, _, value = one.digest.partition(":")
            assert (algorithm, len(value), bytes.fromhex(value).hex()) == ("sha256", 64, value)
            assert one.size > 0
        for remote in remotes:
            assert remote.url.startswith("https://")
            assert remote.url.endswith(f"/{remote.known.name}")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_published_is_what_is_looked_for(tmp_path: Path, name: str) -> None:
    published = PUBLISHED[name]
    files = published.members.values() if isinstance(published, Packed) else published.by_hand(tmp_path)[1]
    folder = tmp_path / published.subfolder
    folder.mkdir()
    for file in files:
        (folder / (file.known if isinstance(file, Remote) else file).name).touch()
    entry = datasets.entry(name)
    assert entry.facts["locate"](entry.parse({"root": str(tmp_path)})) == str(folder)


def test_the_sizes_are_those_that_the_readers_expect() -> None:
    for name, label_bytes in (("cifar10", 1), ("cifar100", 2)):
        published = PUBLISHED[name]
        assert isinstance(published, Packed)
        assert sum(known.size for known in published.members.values()) == 60_000 * (label_bytes + 3072)


# onward data get


def idx_files() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {}
    for part, count in (("train", 20), ("t10k", 10)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
            body = rng.integers(0, 10, shape, dtype=np.uint8).tobytes()
            files[f"{part}-{kind}-ubyte.gz"] = gzip.compress(head + body, mtime=0)
    return files


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return packed.getvalue()


BATCHES = {f"data_batch_{i}.bin": bytes([i] * 40) for i in range(1, 6)} | {"test_batch.bin": b"t" * 40}


@pytest.fixture
def published(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Small sets under the names of real ones, and a user whose home is empty."""
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "share"))
    monkeypatch.delenv("ONWARD_DATA", raising=False)
    for name in ("mnist", "fashion-mnist"):
        files = idx_files()
        site.files |= {f"/{name}/{file}": content for file, content in files.items()}
        remotes = (Remote(f"{site.url}/{name}/{file}", known(content, file)) for file, content in files.items())
        monkeypatch.setitem(PUBLISHED, name, Loose(name, "here", tuple(remotes)))  # pyright: ignore[reportArgumentType]
    inside = {f"cifar-10-batches-bin/{name}": content for name, content in BATCHES.items()}
    packed = tar_of({**inside, "cifar-10-batches-bin/readme.html": b"read me"})
    site.files["/c.tar.gz"] = packed
    members = {name: known(content, Path(name).name) for name, content in inside.items()}
    packed_set = Packed(
        "cifar-10-batches-bin", "here", Remote(f"{site.url}/c.tar.gz", known(packed, "c.tar.gz")), members
    )
    monkeypatch.setitem(PUBLISHED, "cifar10", packed_set)  # pyright: ignore[reportArgumentType]
    return site


def found(name: str) -> str | None:
    return next(line.where for line in listing() if line.name == name and line.found)


def last_line(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def test_a_set_that_was_got_is_found_without_a_flag(published: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "fashion-mnist", "--json"]) == 0
    captured = capsys.readouterr()
    result = last_line(captured.out)
    assert result["folder"] == str(shared_folder() / "fashion-mnist") == found("fashion-mnist")
    assert (result["fetched"], result["flags"]) == (list(idx_files()), "--data fashion-mnist")
    assert "fetching train-images-idx3-ubyte.gz" in captured.err
    assert len(load("fashion-mnist").train) == 20
    assert len(published.asked) == 4
    assert main(["data", "get", "fashion-mnist"]) == 0
    assert "Nothing had to be fetched" in capsys.readouterr().out
    assert len(published.asked) == 4


def test_an_archive_is_unpacked_and_removed(published: Site) -> None:
    result = obtain("cifar10")
    assert (result.fetched, result.flags) == (["c.tar.gz"], "--data cifar10")
    assert result.folder == found("cifar10")
    assert contents(Path(result.folder)) == BATCHES
    assert [path.name for path in shared_folder().iterdir()] == ["cifar-10-batches-bin"]
    assert obtain("cifar10").fetched == []
    assert len(published.asked) == 1


def test_a_damaged_file_is_mended(published: Site) -> None:
    folder = Path(obtain("cifar10").folder)
    (folder / "test_batch.bin").write_bytes(b"?" * 40)
    assert obtain("cifar10").fetched == ["c.tar.gz"]
    assert contents(folder) == BATCHES
    assert len(published.asked) == 2


def test_an_archive_that_was_brought_by_hand_is_used_and_stays(published: Site, tmp_path: Path) -> None:
    (tmp_path / "c.tar.gz").write_bytes(published.files["/c.tar.gz"])
    assert obtain("cifar10", tmp_path).fetched == []
    assert contents(tmp_path / "cifar-10-batches-bin") == BATCHES
    assert (tmp_path / "c.tar.gz").exists()
    assert published.asked == []


def test_a_folder_of_ones_own_choice(published: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "cifar10", "--to", str(tmp_path / "mine")]) == 0
    assert f"onward train --data cifar10 --data.root {tmp_path / 'mine'}" in capsys.readouterr().out
    assert contents(tmp_path / "mine" / "cifar-10-batches-bin") == BATCHES
    assert len(published.asked) == 1


@pytest.mark.usefixtures("published")
def test_the_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path / "data"))
    result = obtain("cifar10")
    assert result == ("cifar10", str(tmp_path / "data" / "cifar-10-batches-bin"), ["c.tar.gz"], "--data cifar10")


def test_files_that_are_elsewhere_already(published: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
    for name in BATCHES:
        (tmp_path / name).touch()
    assert obtain("cifar10") == ("cifar10", str(tmp_path), [], "--data cifar10")
    assert published.asked == []


def test_mnist_is_inside_the_package(published: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "mnist"]) == 0
    said = capsys.readouterr().out
    assert "inside the package" in said
    assert "Nothing had to be fetched" in said
    assert published.asked == []
    result = obtain("mnist", tmp_path)
    assert result.flags == f"--data mnist --data.root {tmp_path}"
    assert contents(tmp_path / "mnist") == idx_files()


@pytest.mark.usefixtures("published")
def test_without_a_network_it_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tuple(Remote(f"https://localhost:1/{name}", known(name.encode(), name)) for name in ("one.gz", "two.gz"))
    monkeypatch.setitem(PUBLISHED, "fashion-mnist", Loose("fashion-mnist", "here", files))  # pyright: ignore[reportArgumentType]
    assert main(["data", "get", "fashion-mnist", "--to", str(tmp_path)]) == USER_ERROR
    said = capsys.readouterr().err
    for name in ("one.gz", "two.gz"):
        assert f"{name} (6 bytes, {known(name.encode()).digest}) from https://localhost:1/{name}" in said
    assert f"into {tmp_path / 'fashion-mnist'}, then run `onward data get fashion-mnist --to {tmp_path}`" in said
    assert f"--data.root {tmp_path} or ONWARD_DATA={tmp_path}" in said
    for name in ("one.gz", "two.gz"):
        (tmp_path / "fashion-mnist" / name).write_text(name)
    assert obtain("fashion-mnist", tmp_path).fetched == []


@pytest.mark.parametrize("name", ["file", "events", "nmnist-sim"])
def test_what_is_not_published_is_refused_in_words(name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is not fetched \(.*\); these are: cifar10, cifar100, fashion-mnist"):
        obtain(name)


def test_a_typing_error_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'cifar10"):
        obtain("cifar1O")


@pytest.mark.usefixtures("published")
def test_the_list_says_how_to_get_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json"]) == 0
    where = {line["name"]: line["where"] for line in last_line(capsys.readouterr().out)["data"]}
    for name in ("fashion-mnist", "cifar10", "cifar100"):
        assert f"`onward data get {name}`" in where[name]
        assert str(shared_folder() / PUBLISHED[name].subfolder) in where[name]
