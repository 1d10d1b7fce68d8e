"""A package of somebody else's adds a rule: the example is installed, and everything knows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "onward-sign-feedback"
TINY = ["--data", "halves.npz", "--model.hidden", "8", "--train.epochs", "1", "--train.steps", "3", "--json"]
SUITE = """
from onward.testing import conformance
checks = conformance("sign-dfa")
for check in checks:
    check()
print(len(checks))
"""
HALVES = """
import numpy as np
x = np.random.default_rng(0).random((60, 6), dtype=np.float32)
np.savez("halves.npz", x=x, y=(x[:, :3].sum(1) > x[:, 3:].sum(1)).astype(int))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example in it, as pip installs it, and data."""
    folder = tmp_path_factory.mktemp("site")
    built = folder / "source"
    built.mkdir()
    for name in ("pyproject.toml", "README.md", "onward_sign_feedback.py"):  # pip builds beside them
        (built / name).write_bytes((EXAMPLE / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip, "--no-index", "--target", str(folder), str(built)], check=True, capture_output=True, timeout=120
    )
    exec(HALVES.replace('"halves.npz"', repr(str(folder / "halves.npz"))), {})
    return folder


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with the folder's packages, in it."""
    path = os.pathsep.join((str(folder), str(ROOT / "src")))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )


def onward(folder: Path, *argv: str) -> str:
    """What a command prints."""
    done = run(folder, "-m", "onward", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rules_shows_it_and_where_it_comes_from(installed: Path) -> None:
    found = json.loads(onward(installed, "rules", "sign-dfa", "opzo", "--json"))
    assert {line["name"]: line["origin"] for line in found["rules"]} == {
        "opzo": "onward",
        "sign-dfa": "onward-sign-feedback 0.1.0",
    }
    assert "From the plug-in onward-sign-feedback 0.1.0." in onward(installed, "rules", "sign-feedback")
    cited = onward(installed, "rules", "sign-dfa", "--cite")
    assert "onwardsignfeedback" in cited
    assert "xiao2022online" in cited


def test_it_trains_by_name_and_as_a_choice(installed: Path) -> None:
    by_name = json.loads(onward(installed, "train", "--rule", "sign-dfa", *TINY))
    cell = ["--rule", "online", "--rule.temporal.fidelity", "reference", "--rule.spatial", "sign-feedback"]
    as_choice = json.loads(onward(installed, "train", *cell, *TINY))
    assert by_name["test_loss"] == as_choice["test_loss"]


@pytest.mark.slow
def test_it_is_explained_and_completed(installed: Path) -> None:
    assert "random signs, fixed" in onward(installed, "explain", "sign-feedback")
    assert "sign-dfa" in onward(installed, "completion", "bash")


@pytest.mark.slow
def test_it_has_a_section_of_a_reference_page_and_a_row_of_benchmarks(installed: Path) -> None:
    code = (
        "from docs.reference_pages import entry_of; from benchmarks.suite import our_rules; "
        "print(entry_of('sign-dfa')); print(our_rules(['sign-dfa']))"
    )
    done = run(installed, "-c", f"import sys; sys.path.append({str(ROOT)!r}); {code}")
    assert done.returncode == 0, done.stderr
    assert "### sign-dfa" in done.stdout
    assert "onward-sign-feedback 0.1.0" in done.stdout


@pytest.mark.slow
def test_it_passes_the_conformance_suite(installed: Path) -> None:
    done = run(installed, "-c", SUITE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_a_plug_in_that_cannot_be_imported_is_left_out_with_a_warning(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onward.rules]\nbroken = broken_rule\n")
    (tmp_path / "broken_rule.py").write_text("from onward.core import NoSuchThing\n")
    path = os.pathsep.join((str(tmp_path), str(ROOT / "src")))
    done = run(tmp_path, "-m", "onward", "rules", "opzo", PYTHONPATH=path)
    assert done.returncode == 0
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("onward: warning: the plug-in broken 1.0 is left out")
    assert all(word in line for word in ("broken_rule", "NoSuchThing", "pip uninstall broken"))
