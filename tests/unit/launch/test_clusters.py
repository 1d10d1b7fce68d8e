"""Jobs on a Ray cluster of two node processes, and by way of submitit; skipped where these are not installed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.core.errors import ConfigError
from onward.launch import Job, carry_out

from .fakes import PROGRAM
from .test_launch import wait_for

pytestmark = pytest.mark.filterwarnings("ignore")
SOURCES = os.pathsep.join([str(Path(__file__).parents[3] / "src"), str(Path(__file__).parents[3])])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install ray)")
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("PYTHONPATH", SOURCES)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_runs_jobs_on_two_nodes_and_runs_those_of_lost_workers_again(tmp_path: Path) -> None:
    from onward.launch.on_ray import OnRay

    launcher, gate, pids = OnRay(PROGRAM), tmp_path / "gate", tmp_path / "pid"
    jobs = [
        Job("first", ("run=there",)),
        Job("second", (f"note={pids}", f"until={gate}", "sleep=0.2"), uses={"-x=": "first"}),
        Job("third", ("complain=onward: no", "exit=2")),
    ]
    found = carry_out(jobs, launcher)
    early = {outcome.name: outcome for outcome in (next(found), next(found))}
    assert early["third"].problem == "onward: no"
    wait_for(pids)
    os.kill(parent(int(pids.read_text())), signal.SIGKILL)  # the worker, on whichever node it is
    until = time.monotonic() + 60
    while len(pids.read_text().split()) < 2:
        assert time.monotonic() < until, "the job of the lost worker was not run again"
        time.sleep(0.05)
    gate.touch()
    (last,) = found
    assert last.answer is not None
    launcher.close()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("executor", ["local", "debug"])
def test_submitit_runs_jobs(executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install submitit)")
    from onward.launch.on_slurm import OnSlurm

    monkeypatch.setenv("PYTHONPATH", SOURCES)
    launcher = OnSlurm(tmp_path, {"partition": "cpu"}, PROGRAM, executor, poll_seconds=0.05)
    jobs = [Job("first", ("run=there",)), Job("second", (), uses={"-x=": "first"}), Job("third", ("exit=2",))]
    found = {outcome.name: outcome for outcome in carry_out(jobs, launcher)}
    launcher.close()
    assert found["second"].answer is not None
    assert found["third"].problem == "ended with exit status 2"


def test_what_slurm_does_not_know_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install submitit)")
    from onward.launch.on_slurm import OnSlurm

    with pytest.raises(ConfigError, match="--launcher slurm: Unknown argument 'nonsense'"):
        OnSlurm(tmp_path, {"nonsense": 3}, cluster="local")
    with pytest.raises(ConfigError, match="--launcher slurm: "):
        OnSlurm(tmp_path, {})
