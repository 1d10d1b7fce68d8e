"""The wheel: what is inside, and that it works away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from onward._version import __version__

ROOT = Path(__file__).parents[2]
MOST_BYTES = 15_000_000
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel({folder!r}))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by setuptools from a copy of the sources, so that no folder is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    dist = tmp_path_factory.mktemp("dist")
    code = BUILD.format(folder=str(dist))
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=300)
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that it is installed in, by itself."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True, capture_output=True, timeout=300)
    return folder


def onward(site: Path, *argv: str) -> str:
    """What a command prints, with the installed package and outside the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "onward", *argv], capture_output=True, text=True, env=environment, cwd=site, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_is_needed_and_no_tests(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES
    names = set(ZipFile(wheel).namelist())
    embedded = {f"onward/data/embedded/{path.name}" for path in (ROOT / "src/onward/data/embedded").iterdir()}
    assert {"onward/py.typed", "onward/works.bib", "onward/testing/suite.py"} | embedded <= names
    licences = {"LICENSE", "NOTICE", "src/onward/data/embedded/LICENSE-MNIST.txt"}
    assert {f"onward-{__version__}.dist-info/licenses/{name}" for name in licences} <= names
    assert {name.partition("/")[0] for name in names} == {"onward", f"onward-{__version__}.dist-info"}


def test_it_works_outside_the_checkout(site: Path) -> None:
    where = "import onward; print(onward.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    shown = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, env=environment, cwd=site)
    assert Path(shown.stdout.strip()).is_relative_to(site)
    assert onward(site, "--version").strip() == __version__
    assert "opzo" in {line["name"] for line in json.loads(onward(site, "rules", "--json"))["rules"]}
    assert json.loads(onward(site, "doctor", "--json"))["findings"]
