"""Recipes are configurations that train, and their rows are flags that parse."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from benchmarks.recipes import Host, Result, write

from onward.comparison.rows import as_row, chosen, read_recipe
from onward.train import parse_tokens

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_row_is_a_configuration(path: Path) -> None:
    plain, rows = parse_tokens([str(path)]), read_recipe(path)[1]
    configs = [parse_tokens([str(path), *row.flags]) for row in rows]
    assert all(config.data == plain.data for config in configs)
    if path.parent.name != "full":  # whose second stages have epochs of their own
        assert all(config.train.epochs == plain.train.epochs for config in configs)
    told = {(config.model_dump_json(), *row.uses.items()) for config, row in zip(configs, rows, strict=True)}
    assert len(told) == len(rows)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_row_uses_runs_of_rows_further_up(path: Path) -> None:
    rows = read_recipe(path)[1]
    for place, row in enumerate(rows):
        assert set(row.uses.values()) <= {other.label for other in rows[:place]}


def test_rows_bring_those_whose_runs_they_use() -> None:
    rows = [as_row({"label": "a"}), as_row({"label": "b", "starts": "a"})]
    rows += [as_row({"label": "c", "teacher": "b"}), as_row({"label": "d"})]
    assert rows[2].uses == {"--distil.teacher": "b"}
    assert chosen(rows, ["c"]) == rows[:3]
    assert chosen(rows, None) == rows


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_result_belongs_to_a_row_and_says_where_it_was_measured(path: Path) -> None:
    recipe = tomllib.loads(path.read_text())["recipe"]
    labels = tuple(row["label"] for row in recipe["row"])
    for result in recipe.get("result", []):
        assert result["label"].startswith(labels)
        assert result["date"]
        assert result["machine"]
        assert len(result["seeds"]) == len(result["accuracies"])


def test_results_are_written_into_the_recipe_and_rows_that_were_not_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[recipe]\ntitle = "r"\n[[recipe.row]]\nlabel = "a"\n[[recipe.row]]\nlabel = "b"\n')
    write(path, [Result("a", (0,), (90.0,), 1.0), Result("b", (0,), (80.0,), 1.0)], Host(1, "cpu"))
    write(path, [Result("b", (0, 1), (81.0, 82.004), 2.4, backward=(-1.0, -2.0))], Host(1, "cpu"))
    first, second = tomllib.loads(path.read_text())["recipe"]["result"]
    assert (first["label"], first["mean"]) == ("a", 90.0)
    assert (second["seeds"], second["accuracies"], second["mean"]) == ([0, 1], [81.0, 82.0], 81.5)
    assert (second["backward"], second["seconds"], second["samples"]) == ([-1.0, -2.0], 2, 10_000)
