"""One file from the network: over https only, resumed, never more than its known size, verified, then put in place."""

from __future__ import annotations

import logging
import os
import re
import ssl
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from onward._durable import sync_folder
from onward._version import __version__
from onward.core.errors import DataError
from onward.data.known import Known, writing

TIMEOUT, TRIES, BLOCK = 30.0, 5, 1 << 16
_log = logging.getLogger(__name__)


class NotFetched(DataError):
    """A file that could not be had from its address."""


class Remote(NamedTuple):
    """A file and the https address that it is published at."""

    url: str
    known: Known


def fetch(remote: Remote, folder: Path, context: ssl.SSLContext | None = None) -> bool:
    """Puts the file into ``folder``, verified; false if it was there already.

    Costs one transfer and one reading of the file. What comes is kept in ``NAME.part``, from which a later call goes
    on. ``context`` takes the place of the system's certificates. Raises `NotFetched` if the file cannot be had or is
    another one, `DataError` if the folder cannot be written to.
    """
    known, target = remote.known, folder / remote.known.name
    if known.matches(target):
        return False
    if target.exists():
        _log.warning("%s is not the published file; fetching that", target)
    _require_https(remote.url)
    with writing(folder, known.size):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{known.name}.part"
        _complete(remote, part, _opener(context))
        os.replace(part, target)
        sync_folder(folder)
    return True


def _complete(remote: Remote, part: Path, opener: request.OpenerDirector) -> None:
    """Fills ``part`` and verifies it. One that an earlier call began may be of another file: then once more, anew."""
    begun, expected = part.exists(), remote.known.digest
    _fill(remote, part, opener)
    found = remote.known.digest_of(part)
    if begun and found != expected:
        part.unlink()
        _fill(remote, part, opener)
        found = remote.known.digest_of(part)
    if found != expected:
        part.unlink()
        raise NotFetched(f"{remote.url}: what came is {found}; expected {expected}. It was removed")


def _fill(remote: Remote, part: Path, opener: request.OpenerDirector) -> None:
    """Appends to ``part`` until it has its size, taking up a connection that was cut."""
    size = remote.known.size
    if _length(part) > size:
        part.unlink()
    for _ in range(TRIES):
        if _length(part) == size:
            return
        _append(remote, part, opener)
    if _length(part) != size:
        raise NotFetched(
            f"{remote.url}: the connection ended {TRIES} times, at last after {_length(part):,} of {size:,} bytes; "
            "they are kept, the next try goes on from there"
        )


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(remote: Remote, part: Path, opener: request.OpenerDirector) -> None:
    """One request for what ``part`` lacks. No ETag is needed: the digest shows whether the halves fit."""
    have = _length(part)
    headers = {"User-Agent": f"onward/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = opener.open(request.Request(remote.url, headers=headers), timeout=TIMEOUT)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: sent to an address that is none
        if have and isinstance(error, HTTPError) and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            return
        raise NotFetched(f"{remote.url}: {_reason(error)}") from None
    with response:
        start = _start(response, remote)
        if start not in (0, have):
            part.unlink(missing_ok=True)
            return
        with part.open("ab" if start else "wb") as file:
            _receive(response, file, remote.known, start)
            file.flush()
            os.fsync(file.fileno())


def _start(response: HTTPResponse, remote: Remote) -> int:
    """Where in the file the body begins: a server may ignore the range. Raises if the file is of another size."""
    span = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    resumed = span if response.status == HTTPStatus.PARTIAL_CONTENT else None
    whole = resumed[2] if resumed else response.headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,18}", whole) and int(whole) != remote.known.size:
        raise NotFetched(f"{remote.url}: is {int(whole):,} bytes long; expected {remote.known.size:,}")
    return int(resumed[1]) if resumed else 0


def _receive(response: HTTPResponse, file: IO[bytes], known: Known, start: int) -> None:
    """Writes the body until the file has its size or the connection ends."""
    have = start
    while have < known.size:
        try:
            block = response.read1(min(known.size - have, BLOCK))
        except (OSError, HTTPException) as error:
            _log.info("%s: %s; trying again", known.name, _reason(error))
            return
        if not block:
            return
        file.write(block)
        have += len(block)
        _log.info("fetching %s: %.1f of %.1f MB", known.name, have / 1e6, known.size / 1e6)


class _OnlyHttps(request.HTTPRedirectHandler):
    """Follows redirections to https addresses, and reads no body of one, however long."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        fp.close()
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(context: ssl.SSLContext | None) -> request.OpenerDirector:
    """What opens addresses; it knows no scheme but https."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPSHandler(context=context),
        _OnlyHttps(),
        request.HTTPErrorProcessor(),
        request.HTTPDefaultErrorHandler(),
        request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _require_https(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise NotFetched(f"{url}: is no https address; files are fetched over https only")


def _reason(error: Exception) -> str:
    """Why a request failed, in words."""
    if isinstance(error, HTTPError):
        error.close()
        return f"the server answered {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return str(cause.strerror if isinstance(cause, OSError) and cause.strerror else cause) or type(cause).__name__
