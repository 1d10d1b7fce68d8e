"""``onward explain``: words, JSON, pages, refusals in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onward.cli import USER_ERROR, main


def shown(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    assert main(["explain", *tokens]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_words_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "dfa")
    for words in (
        "in the cell temporal ottt, spatial dfa, local none",
        "spatial dfa gˡ[t] = Bˡ e[t], Bˡ random and fixed",
        "Local layer 1: each step's error meets the spikes of the same step alone",
        "Transported errors go straight from the output to every hidden layer",
        "Memory O(1) in the number of time steps",
        "one forward pass, no backward pass",
        "Nokland 2016. Published: results in Xiao et al. 2024 (ICLR 2026). Inferred: scale of B.",
        "A picture of it: onward explain dfa --out dfa.html",
    ):
        assert words in said, words


def test_flags_choose_where_no_name_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "--rule.spatial", "bp", "--rule.temporal", "sltt")
    assert "opzo" in said
    assert "through the transposed weights Wᵀ" in said


def test_a_rule_without_its_file_is_told_from_its_traits(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Not traced, so that this is what its traits claim: rule query needs the weights" in shown(capsys, "query")


def test_a_page_and_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "ll.html"
    assert main(["explain", "ll", "--out", str(page), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["page"] == str(page)
    assert found["name"] == "ll"
    assert found["choice"]["local"]["name"] == "ll"
    assert found["traced"]["heads"][0] == {"reads": 0, "teaches": [0]}
    assert "How ll assigns credit" in page.read_text()
    assert f"The page is {page}" in captured.err


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["opzoo"], "unknown rule 'opzoo'; did you mean 'opzo'"),
        (["dfa", "dsr"], "dfa dsr was given; expected one name, then flags"),
        (["dfa", "--rule.rhoo", "0.5"], "unknown option --rule.rhoo"),
        (["mezo", "--out", "/nowhere/at/all.html"], "--out /nowhere/at/all.html: the page cannot be written"),
    ],
)
def test_refusals_in_words(tokens: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *tokens]) == USER_ERROR
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_help_names_the_command_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert "explain" in shown(capsys, "--help")
    main(["explain", "--help"])
    assert "onward explain opzo --out opzo.html" in " ".join(capsys.readouterr().out.split())
