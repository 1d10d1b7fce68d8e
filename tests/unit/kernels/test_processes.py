"""Threads and processes: kernels take as many threads as they were given, and none after a fork."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from onward.kernels.compiled import Use, using
from onward.kernels.rows import sparse_rows

COUNT = """
import torch
{given}
from onward.kernels.rows import sparse_rows
before = torch.get_num_threads()
assert sparse_rows(torch.eye(300)[None], most=1.0) is not None
import numba
print(before, torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [("1", "", 1), ("", "torch.set_num_threads(1)", 1), ("2", "", 2), ("1", "torch.set_num_threads(2)", 2)],
)
def test_kernels_and_torch_use_the_threads_they_were_given(environment: str, given: str, expected: int) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor: nothing to share")
    variables = {**os.environ, "ONWARD_KERNELS": "always"}
    variables.pop("OMP_NUM_THREADS", None)
    variables |= {"OMP_NUM_THREADS": environment} if environment else {}
    command = [sys.executable, "-c", COUNT.format(given=given)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(expected)] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_computes_without_the_team_of_threads_it_lost() -> None:
    x = torch.eye(300)[None]
    with using(Use.ALWAYS):
        assert sparse_rows(x, most=1.0) is not None
        worker = os.fork()
        if worker == 0:
            os._exit(0 if sparse_rows(x, most=1.0) is None else 1)
        _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == 0
