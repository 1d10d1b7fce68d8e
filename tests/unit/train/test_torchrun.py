"""``torchrun -m onward train``: two real processes, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import socket

import pytest

SETTINGS = ["--model.hidden", "16", "--train.batch-size", "16", "--train.steps", "4", "--train.threads", "1"]
LONG, PATIENCE = ["--train.epochs", "12", "--train.save-every", "2"], 120


def torchrun(data: Path, out: Path, *flags: str, restarts: int = 0) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "--max-restarts", str(restarts), "-m", "onward", "train", "--data", str(data), *SETTINGS]
    return subprocess.Popen(
        [*command, "--train.out", str(out), *flags, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def summary(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def kill_a_rank(agent: int, out: Path) -> None:
    """SIGKILL for the second process, once checkpoints are being written."""
    end = time.monotonic() + PATIENCE
    while len(list(out.glob("*/checkpoints/step-*/COMMIT"))) < 2:
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.02)
    workers = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    ranks = [pid for pid in workers if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(ranks[0]), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes to kill in /proc")
def test_a_killed_process_is_started_again_and_the_run_ends_as_a_whole_one(data_file: Path, tmp_path: Path) -> None:
    whole = torchrun(data_file, tmp_path / "whole", *LONG)
    expected = summary(whole)
    process = torchrun(data_file, tmp_path / "killed", *LONG, restarts=1)
    kill_a_rank(process.pid, tmp_path / "killed")
    found = summary(process)
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["test_loss"] == expected["test_loss"]
    assert len(list((tmp_path / "killed").iterdir())) == 1


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes to kill in /proc")
def test_without_restarts_a_killed_process_ends_all_within_seconds(data_file: Path, tmp_path: Path) -> None:
    process = torchrun(data_file, tmp_path, *LONG, "--train.epochs", "4000")
    kill_a_rank(process.pid, tmp_path)
    began = time.monotonic()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    assert "Signal 9 (SIGKILL) received" in err


ENDED = """
import os, torch
from onward.train.ranks import group_of

with group_of("cpu") as group:
    import torch.distributed.nn.functional
    group.sum_([torch.ones(3)])
print(*(open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for threads in /proc")
def test_no_thread_of_a_group_is_left_when_it_has_ended() -> None:
    """A thread of gloo's that outlives the interpreter aborts the process, now and then."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ended = subprocess.run(
        [sys.executable, "-c", ENDED],
        env={**os.environ, **places, "TORCHELASTIC_RUN_ID": "test"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    assert "gloo" not in ended.stdout
