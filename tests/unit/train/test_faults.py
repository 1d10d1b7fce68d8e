"""Processes killed at random moments, full disks, damaged files: a run ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.faults import fill, flip, kill, overhead, tokens


def test_killed_processes_change_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills = request.config.getoption("--kills")
    found = kill(tmp_path, kills)
    assert found.kills == kills
    assert found.different == 0
    assert max(found.kills_by_run) > 1


def test_a_full_disk_is_told_and_costs_nothing_but_time(tmp_path: Path) -> None:
    found = fill(tmp_path)
    assert found.cut_short == found.runs > 0
    assert found.different == 0


def test_no_damaged_checkpoint_is_loaded(tmp_path: Path) -> None:
    found = flip(tmp_path, 200)
    assert found.noticed == found.damages == 200
    assert found.loaded == 0


def test_what_checkpoints_cost_is_counted(tmp_path: Path) -> None:
    found = overhead(tmp_path, [*tokens(tmp_path), "--train.save-every", "1000"])
    assert found.saves == 4
    assert 0 < found.saving < found.seconds
    assert found.bytes > 3 * 4 * found.parameters
