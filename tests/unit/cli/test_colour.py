"""NO_COLOR is honoured wherever colour is written."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onward
from onward.cli import main

COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7]|10[0-7])[0-9;]*m")
SOURCES = Path(onward.__file__).parent
SHOWN = [["rules", "opzo"], ["data", "list"], ["doctor", "--no-check"], ["train", "--help"]]
FORCED = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}


@pytest.mark.parametrize("argv", SHOWN, ids=" ".join)
def test_colour_where_it_is_forced_and_none_with_no_color(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in FORCED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(argv) == 0
    coloured = capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(argv) == 0
    assert "\x1b[" in coloured
    assert not COLOUR.search(capsys.readouterr().out)


def test_help_of_commands_has_no_colour_with_no_color() -> None:
    """In a process of its own: the parser of commands asks for colour once."""
    environment = {**os.environ, **FORCED, "NO_COLOR": "1", "PYTHONPATH": str(SOURCES.parent)}
    command = [sys.executable, "-m", "onward", "memplan", "--help"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "--budget" in shown
    assert not COLOUR.search(shown)


def test_all_colour_is_written_by_one_console() -> None:
    """Which rich keeps to NO_COLOR; nothing writes escape codes of its own."""
    made = []
    for path in SOURCES.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "\x1b" not in text, path
        assert "\\x1b" not in text, path
        assert "\\033" not in text, path
        calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        made += [path.name for call in calls if ast.unparse(call.func) == "Console"]
    assert made == ["output.py"]
