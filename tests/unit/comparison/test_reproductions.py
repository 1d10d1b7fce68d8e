"""What must come out is judged by what did; the index says nothing that was not run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from onward.cli import main
from onward.comparison.index import index
from onward.comparison.reproduction import FAILS, HOLDS, OPEN, Check, Found, costs_of, every, read
from onward.comparison.rows import as_row
from onward.core.errors import ConfigError

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
ROWS = tuple(as_row({"label": label}) for label in "ab")
FOUND = {
    "a": Found("a", (0, 1), {"accuracies": (98.0, 99.0), "backward": (-1.0, -2.0)}),
    "b": Found("b", (0,), {"accuracies": (98.2,), "last": (1.6,)}),
    "d": Found("d", (0,), {"accuracies": (99.4,)}),
}


def test_the_index_is_current() -> None:
    written = (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")
    assert written == index(every(ROOT / "recipes")), "run: onward reproduce --index docs/reproductions.md"


def test_the_index_has_no_table_for_what_was_not_run() -> None:
    for one in every(ROOT / "recipes"):
        assert (f"\n## {one.name}\n" in index(every(ROOT / "recipes"))) == bool(one.found)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_checks_are_about_rows_of_the_recipe(path: Path) -> None:
    one = read(path)
    labels = tuple(row.label for row in one.rows)
    for check in one.checks:
        assert check.row.startswith(labels)
        assert {check.of, check.than} <= {"", *labels}
        assert any(bound is not None for bound in (check.at_least, check.at_most, check.within))


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (Check("", "a", at_least=98.5), HOLDS),
        (Check("", "a", at_least=98.51), FAILS),
        (Check("", "a", of="b", within=0.3), HOLDS),
        (Check("", "a", of="b", within=0.29), FAILS),
        (Check("", "b", of="a", at_most=0.0), HOLDS),
        (Check("", "a", measure="backward", at_least=-1.5), HOLDS),
        (Check("", "b", measure="last", at_most=1.59), FAILS),
        (Check("", "b", measure="backward", at_least=-9), OPEN),
        (Check("", "c", at_least=1), OPEN),
        (Check("", "a", of="b", than="d", at_most=0.3), HOLDS),
        (Check("", "a", of="b", than="d", at_most=0.2), FAILS),
        (Check("", "a", of="b", than="c", at_most=0.2), OPEN),
        (Check("", "a", of="c", at_least=1), OPEN),
    ],
)
def test_a_check_compares_means(check: Check, verdict: str) -> None:
    assert check.verdict(FOUND) == verdict


def test_what_was_not_reached_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = (ROOT / "recipes" / "mezo-mnist.toml").read_text(encoding="utf-8")
    (tmp_path / "mezo-mnist.toml").write_text(recipe.replace("85.66", "81.69"), encoding="utf-8")
    places = ["--recipes", str(tmp_path), "--to", str(tmp_path / "page")]
    assert main(["reproduce", "mezo-mnist", "--recorded", *places, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["verdict"].startswith("not reached")
    assert result["rows"][0]["ours"] == "81.69 % (1 seed)"
    assert "does not hold" in (tmp_path / "page" / "reproduction.html").read_text()
    assert "It takes long" in captured.err


def test_the_list_has_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list", "--recipes", str(ROOT / "recipes"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["reproductions"]
    assert [one["name"] for one in listed] == [path.stem for path in RECIPES]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["mnist-mpl"], "did you mean 'mnist-mlp'"),
        (["zo-snn-conv"], "python -m benchmarks.zosnn"),
        (["mnist-mlp", "--row", "BPP"], "no row is called BPP"),
    ],
)
def test_mistakes_are_told(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *argv, "--recipes", str(ROOT / "recipes")]) == 2
    assert words in capsys.readouterr().err


def test_a_recipe_without_a_reproduction_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[recipe]\ntitle = 3\n")
    with pytest.raises(ConfigError, match="is not a reproduction"):
        read(tmp_path / "r.toml")
    with pytest.raises(ConfigError, match="come with the source checkout"):
        every(tmp_path / "nowhere")


def test_every_number_of_the_index_is_a_result() -> None:
    """Means in the column of ours are those of the recipes' results."""
    for one in every(ROOT / "recipes"):
        for found in one.found.values():
            mean = sum(found.values["accuracies"]) / len(found.values["accuracies"])
            assert re.search(rf"\| {re.escape(found.label)} \|.*\| {mean:.2f}", index([one]))


def test_what_rows_took_is_shown_where_it_is_known() -> None:
    one = replace(read(ROOT / "recipes" / "mnist-mlp.toml"), found=FOUND, rows=ROWS)
    assert costs_of(one) == []
    known = replace(FOUND["a"], costs={"spikes": 1234.0, "peak_mib": 3.25})
    assert costs_of(replace(one, found={**FOUND, "a": known})) == [
        ("row", "peak memory (MiB)", "spikes a sample"),
        ("a", "3.2", "1,234"),
    ]
    assert "| a | 3.2 | 1,234 |" in index([replace(one, found={"a": known})])


def test_recipes_of_one_table_stand_side_by_side() -> None:
    one = replace(read(ROOT / "recipes" / "mnist-mlp.toml"), name="one", found=FOUND, rows=ROWS, table="Together")
    other = replace(one, name="other", found={"b": FOUND["b"]})
    page = index([one, other, replace(one, name="apart", table="")])
    _, together = page.split("## Together\n\n")
    assert together.split("\n\n")[0].splitlines()[2:] == [
        "| b | 98.20 %, 1.600 last losses | 98.20 %, 1.600 last losses |"
    ]
