"""Teachers that other runs trained: from the command line, across a cut, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from onward.core.errors import ConfigError
from onward.meta.config import MetaRecipe
from onward.train import RunFolder, evaluate_run, memory, parse_tokens, resume, train
from onward.train.folder import DATA, DONE
from onward.train.source import evaluation_data
from reference.runs import assert_same_run, cut, straight

RULES = ["bptt", "ottt", "opzo", "dsr"]


@pytest.fixture(autouse=True)
def _no_meter_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def teacher(tokens: list[str]) -> str:
    """A ReLU network, trained by the same command."""
    return straight([*tokens, "--neuron", "relu", "--rule", "bptt", "--train.steps", "1"]).run


@pytest.fixture
def taught(tokens: list[str], teacher: str) -> list[str]:
    return [*tokens, "--distil", "run", "--distil.teacher", teacher]


@pytest.mark.parametrize("rule", RULES)
def test_every_kind_of_rule_learns_from_a_teacher_and_goes_on_after_a_cut(rule: str, taught: list[str]) -> None:
    whole, run = straight([*taught, "--rule", rule]), cut([*taught, "--rule", rule], 5)
    resume(run)
    assert_same_run(Path(whole.run), run)
    alone = train(parse_tokens([*taught, "--rule", rule, "--distil.share", "0"]))
    assert alone.fingerprint != whole.fingerprint


def test_nothing_of_a_teacher_gives_what_labels_give(tokens: list[str], taught: list[str]) -> None:
    assert straight([*taught, "--distil.share", "0"]).fingerprint == straight(tokens).fingerprint


def test_a_network_may_teach_itself(tokens: list[str]) -> None:
    flags = [*tokens, "--distil", "self"]
    whole, run = straight(flags), cut(flags, 5)
    resume(run)
    assert_same_run(Path(whole.run), run)
    assert whole.fingerprint != straight(tokens).fingerprint


@pytest.mark.parametrize("file", ["checkpoints", "config.toml"])
def test_a_run_goes_on_with_the_same_teacher_alone(
    file: str, tokens: list[str], taught: list[str], teacher: str
) -> None:
    run = cut(taught, 5)
    assert "distil.teacher" in RunFolder(run).record(DATA)
    if file == "config.toml":
        path = Path(teacher) / file
        path.write_text(path.read_text().replace("seed = 0", "seed = 1"))
    else:
        other = straight([*tokens, "--neuron", "relu", "--rule", "bptt", "--train.steps", "1", "--seed", "3"]).run
        shutil.rmtree(Path(teacher) / file)
        shutil.copytree(Path(other) / file, Path(teacher) / file)
    with pytest.raises(ConfigError, match=r"the file of distil\.teacher.* has changed"):
        resume(run)


def test_what_was_taught_is_tested_without_the_teacher(taught: list[str], teacher: str) -> None:
    summary = straight(taught)
    shutil.rmtree(teacher)
    folder = RunFolder(Path(summary.run))
    found = evaluate_run(folder, evaluation_data(folder.config(), None, None, ()))
    assert found.test_accuracy == summary.test_accuracy
    with pytest.raises(ConfigError, match="there is no such folder; expected that of a finished run"):
        resume(folder.path, ["--seed", "1"], force=True)


def test_teachers_that_will_not_do_are_refused_in_words(tokens: list[str], taught: list[str], teacher: str) -> None:
    with pytest.raises(ConfigError, match="no run was named; train one"):
        train(parse_tokens([*tokens, "--distil", "run"]))
    (Path(teacher) / DONE).unlink()
    with pytest.raises(ConfigError, match="has not come to its end"):
        train(parse_tokens(taught))
    with pytest.raises(ConfigError, match="labels alone; leave out --distil"):
        MetaRecipe.parse(["--distil", "self"])
