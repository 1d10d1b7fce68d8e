"""What the README shows works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from onward.cli.compare import planned
from onward.train import parse_tokens

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ onward (train|compare) ?([^#\n]*)", README, re.MULTILINE)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    few = code.replace('"mnist"', '{"name": "mnist", "limit": 512, "limit_test": 100}')
    assert few != code
    assert len([line for line in code.splitlines() if line]) <= 20
    exec(compile(few, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip().endswith("%")


@pytest.mark.parametrize(("command", "line"), COMMANDS)
def test_the_command_lines_are_understood(
    command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    np.savez("mine.npz", x=np.zeros((4, 2), np.float32), y=np.arange(4))
    tokens = [token for token in shlex.split(line) if token != "--help"]
    if command == "train":
        assert parse_tokens(tokens).train.epochs > 0
    else:
        rules = tokens[tokens.index("--rules") + 1] if "--rules" in tokens else None
        assert len(planned(tokens[:1] if rules is None else (), rules).rows) >= 3


def test_every_command_line_is_looked_at() -> None:
    assert {command for command, _ in COMMANDS} == {"train", "compare"}
    assert len(COMMANDS) >= 6
