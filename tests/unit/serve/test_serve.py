"""All runs on one page, their points as they come; nothing outside the folder, and nobody from elsewhere."""

from __future__ import annotations

import html
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from onward.cli import main
from onward.core.errors import ConfigError
from onward.serve import Server
from onward.serve.shelf import Found, shelf
from onward.serve.stream import Points, Tail

NASTY = "<img src=x onerror=alert(1)>&'\""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def make_run(path: Path, epochs: int = 0) -> Path:
    path.mkdir(parents=True)
    (path / "config.toml").write_text('seed = 0\n[rule]\nname = "</pre><script>alert(2)</script>"\n')
    (path / "interface.json").write_text("{}")
    for epoch in range(1, epochs + 1):
        log(path, epoch)
    return path


def log(path: Path, epoch: int) -> None:
    told = {"epoch": epoch, "loss": 1 / epoch, "accuracy": 80.0, "score": {"accuracy": 70.0 + epoch}}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(told) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_run(tmp_path / "runs" / "plain", 2)
    make_run(tmp_path / "runs" / "compared" / "runs" / NASTY / "a-run", 1)
    (tmp_path / "runs" / "compared" / "comparison.html").write_text("<p>compared</p>")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "runs"


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server: Server, path: str) -> str:
    with urlopen(server.url.rstrip("/") + path, timeout=10) as answer:
        return answer.read().decode()


def status(server: Server, path: str, host: str | None = None) -> int:
    """Of a request whose path nobody tidies on the way."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.port}")
    connection.endheaders()
    answer = connection.getresponse()
    assert "secret" not in answer.read().decode()
    connection.close()
    return answer.status


def test_the_page_lists_runs_and_pages(server: Server) -> None:
    page = get(server, "/")
    assert "plain" in page
    assert f"/page?name=compared{html.escape('&')}page=comparison.html" in page
    assert "seed = 0" in get(server, "/run?name=plain")
    assert get(server, "/page?name=compared&page=comparison.html") == "<p>compared</p>"


def test_a_malicious_name_and_configuration_stay_text(server: Server) -> None:
    name = f"compared/runs/{NASTY}/a-run"
    for page in (get(server, "/"), get(server, f"/run?name={quote(name, safe='')}")):
        assert "<img" not in page
        assert "<script>" not in page
        assert page.count("<script") == 1, "ours alone"
        assert html.escape(NASTY) in page
    assert "innerHTML" not in get(server, "/live.js")


def test_our_script_alone_may_run(server: Server) -> None:
    with urlopen(server.url, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe-inline'; script-src 'self'; connect-src 'self'" in page
    with urlopen(f"{server.url}page?name=compared&page=comparison.html", timeout=10) as answer:
        assert "script-src" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/run?name=../..",
        "/run?name=..%2f",
        "/run?name=.",
        "/page?name=compared&page=..%2f..%2fsecret.txt",
        "/page?name=..&page=secret.txt",
        "/page?name=compared",
        "/run?name=%00",
        "//secret.txt",
        "/plain/config.toml",
    ],
)
def test_nothing_outside_is_found(path: str, server: Server) -> None:
    assert status(server, path) == 404


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    run = make_run(root / "files")
    (run / "report.html").symlink_to(tmp_path / "secret.txt")
    (run / "interface.json").unlink()
    (run / "interface.json").symlink_to(tmp_path / "secret.txt")
    assert set(shelf(root)) == {"plain", "compared", f"compared/runs/{NASTY}/a-run"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "localhost.evil"])
def test_other_hosts_are_refused(host: str, server: Server) -> None:
    assert status(server, "/", host) == 403
    assert status(server, "/", f"localhost:{server.port}") == 200


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(HTTPError, match="501"):
        urlopen(Request(server.url, data=b"x"), timeout=10)


def test_the_stream_brings_the_points_of_a_file_that_grows(server: Server, root: Path) -> None:
    with urlopen(f"{server.url}events?name=plain", timeout=10) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        told = events(stream)
        assert [next(told)["epoch"] for _ in range(2)] == [1, 2]
        log(root / "plain", 3)
        third = next(told)
        assert third == {
            "run": "plain",
            "label": "plain",
            "anew": False,
            "epoch": 3.0,
            "loss": 1 / 3,
            "accuracy": 80.0,
            "tested": 73.0,
        }
        make_run(root / "other", 1)
        log(root / "plain", 4)
        assert next(told)["epoch"] == 4, "of the run that was asked for alone"


def events(stream: Iterator[bytes]) -> Iterator[dict]:
    for line in stream:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_new_runs_join_the_stream(root: Path) -> None:
    points = Points(root)
    assert len(list(points.new())) == 3
    make_run(root / "new", 1)
    assert [point["run"] for point in points.new()] == ["new"]


def test_a_tail_reads_whole_lines_and_begins_anew_where_the_file_was_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_text('{"epoch": 1}\nno json\n[1]\n{"epoch"')
    assert list(tail.lines()) == [(True, {"epoch": 1})]
    assert list(tail.lines()) == []
    path.write_text('{"epoch": 1}\nno json\n[1]\n{"epoch": 2}\n')
    assert list(tail.lines()) == [(False, {"epoch": 2})]
    path.write_text('{"epoch": 1}\n')
    assert list(tail.lines()) == [(True, {"epoch": 1})]


def test_what_cannot_be_served_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        Server(tmp_path / "nowhere")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="choose another with --port"),
    ):
        Server(tmp_path, taken.getsockname()[1])
    assert main(["serve", str(tmp_path), "--port", "70000"]) == 2
    assert "from 0 to 65535" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_draws_points_as_they_come(server: Server, root: Path, tmp_path: Path) -> None:
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    look = ["--timeout=9000", "--enable-logging=stderr", "--dump-dom", f"{server.url}run?name=plain"]
    with subprocess.Popen(
        [str(CHROMIUM), *options, *look], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as browser:
        time.sleep(3)
        log(root / "plain", 3)
        page, said = browser.communicate(timeout=90)
    assert "CONSOLE" not in said
    assert page.count('data-points="3"') == 2
    assert "epoch 3, 73.00 % tested" in page


def test_trainings_of_a_comparison_are_called_by_row_and_seed() -> None:
    path = Path()
    assert Found("a-run", path).label == "a-run"
    assert Found("runs/a-run", path).label == "runs/a-run"
    assert Found("old/compare/runs/opzo-seed-2/a-run", path).label == "opzo-seed-2, old/compare"
