"""Onward against the numbers that the original authors' code computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden.report import check, files, main

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
FOLDERS = ("neurons", "bptt", "ottt", "sltt", "dsr", "ide", "spide", "localzo", "pseuzo", "zo-snn", "hlop")
CASES = files(str(GOLDEN / folder) for folder in FOLDERS if (GOLDEN / folder).is_dir())

needs_vectors = pytest.mark.skipif(not CASES, reason=f"no golden vectors: {GOLDEN} is not there")


@needs_vectors
@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden_vectors_agree(path: Path):
    row = check(path)
    assert row.state == "pass", "\n".join([str(row), *row.details()])


@needs_vectors
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_cases(folder: str, capsys: pytest.CaptureFixture[str]):
    count = sum(path.is_relative_to(GOLDEN / folder) for path in CASES)
    assert count, f"{folder} holds no case"
    if folder == "neurons":
        assert main([str(GOLDEN / folder)]) == 0
        assert f"{count} pass, 0 mismatch, 0 unreadable" in capsys.readouterr().out.splitlines()[-1]
