"""A server on this machine that speaks https with a certificate made for tests, and misbehaves when told to.

``localhost.pem`` holds a key and the certificate of it, valid until 2101; nothing outside these tests trusts it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

PEM = Path(__file__).with_name("localhost.pem")


class Handler(BaseHTTPRequestHandler):
    """Hands a request on to the behaviour in force."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: Site = self.server.site  # pyright: ignore[reportAttributeAccessIssue]
        site.asked.append((self.path, self.headers.get("Range")))
        self.close_connection = True
        behave = site.behaviours.pop(0) if len(site.behaviours) > 1 else site.behaviours[0]
        with suppress(OSError):  # a client that has enough hangs up
            behave(self, site.files.get(self.path))

    def begin(self, status: int, **headers: object) -> None:
        """The status line and headers; ``Content_Length`` stands for Content-Length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


Behaviour = Callable[[Handler, bytes | None], None]


def honest(handler: Handler, content: bytes | None) -> None:
    """As servers do: ranges are honoured."""
    if content is None:
        return handler.begin(404, Content_Length=0)
    start = int(re.findall(r"bytes=(\d+)-", handler.headers.get("Range", "bytes=0-"))[0])
    if start >= len(content):
        return handler.begin(416, Content_Length=0)
    body = content[start:]
    if start:
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.begin(206, Content_Length=len(body), Content_Range=span)
    else:
        handler.begin(200, Content_Length=len(body))
    handler.wfile.write(body)
    return None


def cutting(size: int) -> Behaviour:
    """Honest, but the connection ends after ``size`` bytes of a body."""

    def behave(handler: Handler, content: bytes | None) -> None:
        handler.wfile = Short(handler.wfile, size)  # pyright: ignore[reportAttributeAccessIssue]
        honest(handler, content)

    return behave


@dataclass
class Short:
    """A stream that swallows all but the first ``left`` bytes of a body; headers pass."""

    file: object
    left: int

    def write(self, block: bytes) -> None:
        if not block.startswith(b"HTTP/1.1"):
            block, self.left = block[: self.left], max(self.left - len(block), 0)
        self.file.write(block)  # pyright: ignore[reportAttributeAccessIssue]

    def flush(self) -> None:
        self.file.flush()  # pyright: ignore[reportAttributeAccessIssue]


def saying(length: int | None, body: bytes, status: int = 200, **headers: object) -> Behaviour:
    """Sends ``body``, whatever was asked for, and says that it is ``length`` bytes long."""

    def behave(handler: Handler, _content: bytes | None) -> None:
        handler.begin(status, **({} if length is None else {"Content_Length": length}), **headers)
        handler.wfile.write(body)

    return behave


def redirecting(url: str) -> Behaviour:
    """Sends the client elsewhere."""
    return lambda handler, _: handler.begin(302, Location=url, Content_Length=0)


@dataclass
class Site:
    """What the server offers, how it behaves (the last of ``behaviours`` for good), and what it was asked."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    behaviours: list[Behaviour] = field(default_factory=lambda: [honest])
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def ranges(self) -> list[str | None]:
        """The ranges that were asked for."""
        return [span for _, span in self.asked]


def trust() -> ssl.SSLContext:
    """What a client needs to believe the server."""
    return ssl.create_default_context(cafile=str(PEM))


@contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    """The server, as long as the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def site_of(server: ThreadingHTTPServer) -> Site:
    """A fresh site on ``server``."""
    site = Site(f"https://localhost:{server.server_address[1]}")
    server.site = site  # pyright: ignore[reportAttributeAccessIssue]
    return site
