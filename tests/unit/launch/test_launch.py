"""Jobs, in the order in which they end, within the cores there are, after those whose results they use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onward.core.errors import ConfigError, UnknownName
from onward.launch import Job, Launcher, Local, Outcome, carry_out, chosen
from onward.launch.choice import settings
from onward.launch.job import perform

from .fakes import PROGRAM, SCRIPT

SOURCE = str(Path(__file__).parents[3] / "src")


@pytest.fixture
def local() -> Iterator[Local]:
    launcher = Local(4, PROGRAM)
    yield launcher
    launcher.close()


def all_of(launcher: Launcher, *jobs: Job) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in carry_out(jobs, launcher)}


def test_outcomes_come_in_the_order_in_which_jobs_end(local: Local, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = [Job("slow", (f"until={gate}",)), Job("fast", ("run=here",))]
    found = carry_out(jobs, local)
    first = next(found)
    assert first == Outcome("fast", {"run": "here", "threads": "1"})
    gate.touch()
    assert [outcome.name for outcome in found] == ["slow"]


def test_jobs_fit_into_the_cores(tmp_path: Path) -> None:
    launcher, gate = Local(3, PROGRAM), tmp_path / "gate"
    for name, threads in (("a", 2), ("b", 2), ("c", 1)):
        launcher.start(Job(name, (f"touch={tmp_path / name}", f"until={gate}"), threads=threads))
    wait_for(tmp_path / "a")
    time.sleep(0.2)
    assert not (tmp_path / "b").exists(), "two and two threads are more than three cores"
    assert not (tmp_path / "c").exists(), "nobody overtakes"
    gate.touch()
    assert {launcher.next().name for _ in range(3)} == {"a", "b", "c"}


def test_a_job_of_more_threads_than_cores_runs_alone() -> None:
    found = all_of(Local(1, PROGRAM), Job("wide", (), threads=8), Job("thin", ()))
    assert {name: outcome.answer["threads"] for name, outcome in found.items() if outcome.answer} == {
        "wide": "8",
        "thin": "1",
    }


def test_a_failed_job_says_why_and_the_others_go_on(local: Local) -> None:
    found = all_of(
        local,
        Job("refused", ("complain=onward: no such rule", "exit=2")),
        Job("killed", (f"die={signal.SIGKILL.value}",)),
        Job("interrupted", ("exit=130",)),
        Job("mute", ("exit=3",)),
        Job("chatty", ("print=[1, 2]", "exit=0")),
        Job("good", ()),
    )
    assert found["refused"].problem == "onward: no such rule"
    assert found["killed"].problem == "ended by SIGKILL"
    assert found["killed"].interrupted
    assert found["interrupted"].interrupted
    assert found["mute"].problem == "ended with exit status 3"
    assert "no" not in found["chatty"].problem
    assert "without a JSON object" in found["chatty"].problem
    assert found["good"].answer is not None


def test_one_job_of_several_is_stopped(tmp_path: Path) -> None:
    launcher, gate = Local(2, PROGRAM), tmp_path / "gate"
    for name in ("long", "kept", "waiting"):
        launcher.start(Job(name, (f"touch={tmp_path / name}", f"until={gate}")))
    wait_for(tmp_path / "long")
    wait_for(tmp_path / "kept")
    assert launcher.poll(0.01) is None
    launcher.stop("waiting")
    launcher.stop("long")
    found = {outcome.name: outcome for outcome in (launcher.next(), launcher.next())}
    assert found["waiting"].interrupted
    assert found["long"].interrupted
    launcher.stop("long")
    gate.touch()
    last = launcher.poll(60)
    assert last is not None
    assert last.answer is not None
    assert not (tmp_path / "waiting").exists()


def test_a_job_uses_the_run_of_another(local: Local) -> None:
    jobs = [
        Job("student", ("kind=student",), uses={"--teacher=": "teacher", "--start=": "start"}),
        Job("teacher", ("run=there",)),
    ]
    ran: dict[str, tuple[str, ...]] = {}

    class Noting:
        def start(self, job: Job) -> None:
            ran[job.name] = job.arguments
            local.start(job)

        next, close = local.next, local.close

    found = list(carry_out(jobs, Noting(), {"start": "elsewhere"}))
    assert [outcome.name for outcome in found] == ["teacher", "student"]
    assert ran["student"] == ("kind=student", "--teacher=", "there", "--start=", "elsewhere")


def test_who_needs_a_failed_job_is_not_run(local: Local) -> None:
    chain = [Job("a", ("exit=1",)), Job("b", (), uses={"-x": "a"}), Job("c", (), uses={"-x": "b"}), Job("d", ())]
    found = all_of(local, *chain)
    assert found["b"].problem == "needs a, which failed"
    assert found["c"].problem == "needs b, which failed"
    assert found["d"].answer is not None


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([Job("a", (), uses={"-x": "b"})], "a uses the run of b"),
        ([Job("a", (), uses={"-x": "b"}), Job("b", (), uses={"-x": "a"})], "a and b wait for each other"),
    ],
)
def test_needs_that_nobody_meets_are_refused_before_anything_runs(jobs: list[Job], words: str, local: Local) -> None:
    with pytest.raises(ConfigError, match=words):
        next(carry_out(jobs, local))


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    launcher = Local(2, PROGRAM)
    launcher.start(Job("endless", (f"note={tmp_path / 'pid'}", "sleep=600")))
    launcher.start(Job("waiting", (), threads=2))
    wait_for(tmp_path / "pid")
    launcher.close()
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_job_ends_when_its_launcher_is_killed(tmp_path: Path) -> None:
    tied = "from onward.launch.tied import Thread, end_with_input\nThread(target=end_with_input, daemon=True).start()"
    launcher = (
        "from onward.launch import Job, Local\n"
        f"import sys; local = Local(1, (sys.executable, '-c', {tied + SCRIPT!r}))\n"
        f"local.start(Job('endless', ('note={tmp_path / 'pid'}', 'sleep=600'))); local.next()"
    )
    process = subprocess.Popen([sys.executable, "-c", launcher], env={**os.environ, "PYTHONPATH": SOURCE})
    wait_for(tmp_path / "pid")
    process.kill()
    process.wait()
    assert gone(int((tmp_path / "pid").read_text()))


def test_the_real_program_answers() -> None:
    listed = perform(Job("list", ("data", "list", "--json")))
    assert listed.answer is not None
    assert "mnist" in {line["name"] for line in listed.answer["data"]}
    refused = perform(Job("list", ("data", "lits", "--json")))
    assert "did you mean 'list'" in refused.problem


def test_unknown_launchers_and_settings_are_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'slurm'"):
        chosen("slrum")
    with pytest.raises(ConfigError, match="partition=gpu,timeout-min=600"):
        settings("partition")
    with pytest.raises(ConfigError, match="is for --launcher slurm"):
        chosen("local", slurm="partition=gpu")
    with pytest.raises(ConfigError, match="at least 1"):
        chosen("local", 0)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_is_refused_with_the_line_that_installs_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install {package}.*pip install 'onward\[{name}\]'"):
        chosen(name)


def wait_for(path: Path, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not (path.exists() and (path.stat().st_size or path.name != "pid")):
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)


def gone(pid: int, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
