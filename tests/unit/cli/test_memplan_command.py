"""``onward memplan``: the table, the proposal, JSON, exit codes, budgets in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.cli import USER_ERROR, main
from onward.cli.memplan import bytes_of
from onward.core.errors import ConfigError
from onward.plan.predict import ORDER


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("small.npz", x=rng.random((80, 6), dtype=np.float32), y=rng.integers(0, 2, 80))
    return ["--data", "small.npz", "--model.hidden", "40", "--train.batch-size", "48", "--train.steps", "3"]


def test_a_table_of_parts_the_total_and_what_was_measured(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memplan", *flags]) == 0
    shown = capsys.readouterr().out
    first, *lines = shown.splitlines()
    assert "opzo on file, mlp, cpu: mini-batches of 48, chunks of 3 of 3 time steps" in first
    named = [line.partition("  ")[0] for line in lines[1:]]
    assert named[-3:] == ["total", "measured in one step", "error of the prediction"]
    assert set(named[:-3]) <= set(ORDER)
    assert all(line.rstrip().endswith(("MiB", "%")) for line in lines[1:])
    assert not Path("runs").exists()


def test_a_proposal_as_flags_that_train_takes(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memplan", *flags, "--budget", "60kB", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out.strip().splitlines()[-1])
    assert len(captured.out.splitlines()) == 1
    assert found["total"] == sum(found["parts"].values()) > 60_000
    assert found["measured"] is None
    assert "Not measured: the prediction is beyond the budget." in captured.err
    proposal = found["proposal"]
    assert proposal["fits"]
    assert proposal["total"] <= proposal["budget"] == 60_000
    assert f"Within 0.1 MiB: {proposal['flags']}" in captured.err
    assert main(["memplan", *flags, *proposal["flags"].split(), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["batch"], again["total"]) == (proposal["batch"], proposal["total"])
    assert again["measured"]["total"] == again["measured"]["standing"] + again["measured"]["peak"]
    assert again["error"] == pytest.approx(again["total"] / again["measured"]["total"] - 1)


def test_what_fits_is_measured_too(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memplan", *flags, "--budget", "1GiB"]) == 0
    shown = capsys.readouterr().out
    assert "measured in one step" in shown
    assert "Within 1,024.0 MiB: --train.batch-size 48 --train.chunk 3" in shown


def test_help_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memplan", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("[RECIPE.toml]", "--budget", "--no-check", "--json"))
    assert main(["--help"]) == 0
    assert "memplan" in capsys.readouterr().out


def test_no_check_measures_nothing(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memplan", *flags, "--no-check"]) == 0
    shown = capsys.readouterr().out
    assert "measured" not in shown.lower()
    assert "total" in shown


def test_where_nothing_fits_words_and_an_exit_code(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memplan", *flags, "--budget", "100"]) == USER_ERROR
    shown = capsys.readouterr().out
    assert "Nothing fits 0.0 MiB: the least, --train.batch-size 1 --train.chunk " in shown
    assert "of it for optimiser state." in shown


def test_a_recipe_is_planned(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text('[rule]\nname = "bptt"\n', encoding="utf-8")
    assert main(["memplan", "mine.toml", *flags, "--no-check"]) == 0
    assert "bptt on file" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["--rule", "opz"], ["--data", "none.npz"], ["--device", "cuda:77"], ["--rule.k", "1"]]
)
def test_what_cannot_be_trained_is_refused_as_by_train(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memplan", *argv]) == main(["train", *argv]) == USER_ERROR
    planned, trained = capsys.readouterr().err.splitlines()
    assert planned == trained


@pytest.mark.parametrize(
    "text", ["lots", "", "0", "-3", "-2GB", "nan", "inf", "5 parsecs", "0.2", "512M iB", "1.2.3MB", "8bit"]
)
def test_budgets_that_are_none_are_refused_before_anything_is_built(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memplan", f"--budget={text}", "--data", "none.npz"]) == USER_ERROR
    said = capsys.readouterr().err
    assert said == f"onward: --budget: {text!r} was given; expected a number of bytes, such as 512MiB, 2GB or 4e8\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512MiB", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5 gib", 3 * 2**29),
        ("4e8", 4 * 10**8),
        (" 77 ", 77),
        ("9B", 9),
        ("8k", 8000),
    ],
)
def test_budgets_in_words(text: str, expected: int) -> None:
    assert bytes_of(text) == expected


@given(st.text(max_size=8))
def test_every_text_is_a_budget_or_refused_in_words(text: str) -> None:
    try:
        found = bytes_of(text)
    except ConfigError as refused:
        found = str(refused).count(repr(text))
    assert found >= 1
