"""A server for this machine alone, of the standard library."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore, Event
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

from onward.core.errors import ConfigError
from onward.serve.live import SCRIPT
from onward.serve.pages import POLICY, overview, run
from onward.serve.shelf import shelf
from onward.serve.stream import Points

ADDRESS = "127.0.0.1"
"""Never another one: runs are nobody else's business."""
STREAMS = 32
POLL_SECONDS, ALIVE_SECONDS = 0.5, 10.0
HTML, JAVASCRIPT = "text/html; charset=utf-8", "text/javascript; charset=utf-8"


class Server(ThreadingHTTPServer):
    """Serves the runs under ``root``; ``url`` says where. Raises `ConfigError` where the port is taken."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0):
        if not root.is_dir():
            raise ConfigError(f"{root} is no folder; give the one that runs are in, such as runs")
        self.root, self.ended, self.streams = root, Event(), BoundedSemaphore(STREAMS)
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ConfigError(f"port {port} cannot be used; choose another with --port, or 0 for any") from None

    @property
    def port(self) -> int:
        """The port that was given, or found."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{ADDRESS}:{self.port}/"

    def server_close(self) -> None:
        """Ends streams as well."""
        self.ended.set()
        super().server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers GET, for what `shelf` knows, to browsers that asked for this machine by its own name."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "Onward", ""
    timeout = 30

    def do_GET(self) -> None:
        """Looks the answer up."""
        if self.headers.get("Host", "") not in {f"{name}:{self.server.port}" for name in (ADDRESS, "localhost")}:
            return self._refuse(HTTPStatus.FORBIDDEN, "this server answers to its own address alone")
        asked = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(asked.query).items()}
        answers: dict[str, Callable[[dict[str, str]], None]] = {
            "/": lambda _: self._send(overview(shelf(self.server.root)), HTML),
            "/live.js": lambda _: self._send(SCRIPT, JAVASCRIPT),
            "/run": self._run,
            "/page": self._page,
            "/events": self._events,
        }
        if asked.path not in answers:
            return self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        return answers[asked.path](query)

    def _run(self, query: dict[str, str]) -> None:
        found = shelf(self.server.root).get(query.get("name", ""))
        if found is None or not found.is_run:
            return self._refuse(HTTPStatus.NOT_FOUND, "there is no such run")
        return self._send(run(found), HTML)

    def _page(self, query: dict[str, str]) -> None:
        """A page that a command wrote, as it is: it brings a policy of its own, and may run nothing."""
        found = shelf(self.server.root).get(query.get("name", ""))
        if found is None or query.get("page") not in found.pages:
            return self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        text = (found.path / query["page"]).read_text(encoding="utf-8", errors="replace")
        return self._send(text, HTML, "default-src 'none'; style-src 'unsafe-inline'; img-src data:")

    def _events(self, query: dict[str, str]) -> None:
        """Points of runs, for as long as somebody listens."""
        if not self.server.streams.acquire(blocking=False):
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many streams are open; close some pages")
        try:
            self._head(HTTPStatus.OK, "text/event-stream; charset=utf-8", POLICY)
            self._stream(Points(self.server.root, query.get("name")))
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            return None  # nobody listens any more
        finally:
            self.server.streams.release()

    def _stream(self, points: Points) -> None:
        self.wfile.write(b": points of runs\n\n")
        told = monotonic()
        while not self.server.ended.is_set():
            new = "".join(f"data: {json.dumps(point)}\n\n" for point in points.new())
            if not new and monotonic() - told > ALIVE_SECONDS:
                new = ": nothing new\n\n"
            if new:
                self.wfile.write(new.encode())
                self.wfile.flush()
                told = monotonic()
            self.server.ended.wait(POLL_SECONDS)

    def _send(self, text: str, kind: str, policy: str = POLICY) -> None:
        content = text.encode()
        self._head(HTTPStatus.OK, kind, policy, len(content))
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, words: str) -> None:
        content = f"{words}\n".encode()
        self._head(status, "text/plain; charset=utf-8", "default-src 'none'", len(content))
        self.wfile.write(content)

    def _head(self, status: HTTPStatus, kind: str, policy: str, length: int | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            **({} if length is None else {"Content-Length": str(length)}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of every request."""


def serve(root: Path, port: int, tell: Callable[[str], None]) -> None:
    """Serves until Ctrl-C; ``tell`` hears of the address."""
    with Server(root, port) as server:
        tell(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
