"""Shells complete commands, flags and names with what `onward completion` prints."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from onward.cli import USER_ERROR, main

ASKED = {
    "onward tr": {"train"},
    "onward train --rule op": {"opzo", "opzo-gaussian"},
    "onward train --rule.temporal slt": {"sltt", "sltt-k"},
    "onward train --train.epo": {"--train.epochs"},
    "onward meta-train --meta.hor": {"--meta.horizon"},
    "onward resume --no-data.f": {"--no-data.flip"},
    "onward rules hl": {"hlop"},
    "onward data get fashion-": {"fashion-mnist"},
    "onward completion f": {"fish"},
}
BASH = """
source {script}
line={line!r}
COMP_WORDS=($line) COMP_LINE=$line COMP_POINT=${{#line}} COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_onward onward "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("completion"), {}
    with pytest.MonkeyPatch.context() as patch:
        for shell in ("bash", "zsh", "fish"):
            printed: list[str] = []
            patch.setattr("builtins.print", lambda text, printed=printed: printed.append(text))
            assert main(["completion", shell]) == 0
            found[shell] = folder / shell
            found[shell].write_text("".join(printed), encoding="utf-8")
    return found


def run(shell: str, *arguments: str) -> str:
    """What a shell prints; skips where it is not installed."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed here")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_sound_and_knows_fields_and_names(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text(encoding="utf-8")
    assert all(word in text for word in ("meta-train", "opzo-gaussian", "fashion-mnist", "sltt-k"))
    run(shell, "-n", str(scripts[shell]))


@pytest.mark.parametrize("line", ASKED)
def test_bash_completes(line: str, scripts: dict[str, Path]) -> None:
    assert set(run("bash", "-c", BASH.format(script=scripts["bash"], line=line)).split()) == ASKED[line]


@pytest.mark.parametrize("line", ASKED)
def test_fish_completes(line: str, scripts: dict[str, Path]) -> None:
    shown = run("fish", "--no-config", "-c", f"source {scripts['fish']}; complete -C '{line}'")
    assert {each.partition("\t")[0] for each in shown.splitlines()} == ASKED[line]


def test_as_json_and_for_a_shell_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shell"] == "bash"
    assert "_onward()" in found["script"]
    assert main(["completion", "tcsh"]) == USER_ERROR
    said = capsys.readouterr().err
    assert all(word in said for word in ("tcsh", "bash", "zsh", "fish"))
