"""The fuzzer finds what it looks for, always the same, and finds nothing in the readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from tests.fuzz import report, watch
from tests.fuzz.mutate import Mutator
from tests.fuzz.readers import READERS, Reader
from tests.fuzz.watch import Auditor, Verdict, judge

from onward.core.errors import DataError

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits memory and measures it as Linux does")
AUDITOR = Auditor()
INPUTS = 80 * len(READERS)
"""With fewer, some reader may meet no input that is still whole."""


@LINUX
def test_no_input_crashes_a_reader(tmp_path: Path) -> None:
    """In a process of its own, whose address space is limited."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(INPUTS), "--json", str(tmp_path / "fuzz.json")]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    tallies = json.loads((tmp_path / "fuzz.json").read_text())["readers"]
    assert [tally["reader"] for tally in tallies] == list(READERS)
    assert sum(tally["inputs"] for tally in tallies) > 1000
    assert all(tally["refused"] and tally["accepted"] and not tally["crashes"] for tally in tallies)
    assert all(f"| {name} |" in ran.stdout for name in READERS)


@pytest.mark.parametrize("name", READERS)
def test_seeds_are_valid(name: str, tmp_path: Path) -> None:
    """Nothing is learned from damage to what was refused before; what names files that are not there may be."""
    reader, accepted = READERS[name], 0
    for parts in reader.seeds:
        for file, content in reader.pack(parts).items():
            (tmp_path / file).write_bytes(content)
        verdict = _judged(lambda: reader.read(tmp_path))
        assert not verdict.crash
        accepted += not verdict.refused
    assert accepted


@pytest.mark.parametrize("name", READERS)
def test_the_same_number_is_the_same_damage(name: str) -> None:
    reader = READERS[name]
    mutator = Mutator(reader.seeds, reader.words)
    once, again, other = (report.damaged(reader, mutator, Random(f"0 {name} {n}")) for n in (5, 5, 6))
    assert once == again
    assert once != other


def fail_with(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@LINUX
@pytest.mark.parametrize(
    ("read", "crash"),
    [
        (fail_with(ValueError("bad")), "ValueError: bad"),
        (fail_with(MemoryError()), "MemoryError"),
        (fail_with(RecursionError()), "RecursionError"),
        (fail_with(DataError("")), "a message of 0 characters"),
        (lambda: time.sleep(5), "TooSlow: no answer after 0.2 s"),
        (lambda: os.system("true"), "started something: os.system"),
        (lambda: __import__(f"{watch.CANARY}.boom"), "started something: import"),
    ],
)
def test_what_counts_as_a_crash(read: Callable[[], object], crash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SECONDS", 0.2)
    assert _judged(read).crash.startswith(crash)


@LINUX
def test_memory_is_measured() -> None:
    assert _judged(lambda: bytes(bytearray(b"\x01") * 2**27)).peak_bytes > 2**27
    assert _judged(lambda: None).peak_bytes < 2**24


def test_messages_must_be_a_line_that_a_person_reads() -> None:
    assert not watch.unreadable("mine.npz: holds NaN")
    assert "control characters" in watch.unreadable("mine\x1b[2J")
    assert "2000 characters" in watch.unreadable("a" * 2000)


def test_a_crash_is_counted_told_and_can_be_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(folder: Path) -> None:
        if b"\x07" not in (folder / "file").read_bytes():
            raise ZeroDivisionError("no bell")

    fragile = Reader([(b"\x07 1 2 3",)], lambda parts: {"file": parts[0]}, read)
    monkeypatch.setitem(report.READERS, "fragile", fragile)
    tally = report.run_reader("fragile", 3, 0, 60, AUDITOR)
    assert (tally.inputs, tally.refused) == (61, 0)
    assert 0 < tally.crashes < 61
    label, _, crash = tally.crashed[0].partition(": ")
    assert crash == "ZeroDivisionError: no bell"
    again = report.run_reader("fragile", 3, int(label.split()[-1]), 1, AUDITOR)
    assert again.crashed == tally.crashed[:1]
    assert "| fragile | 61 | 0 |" in report.table([tally])


def _judged(read: Callable[[], object]) -> Verdict:
    return judge(read, AUDITOR)
