"""Recipes are configurations that train, and their rows are flags that parse."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from benchmarks.recipes import as_row, chosen, read

from onward.train import parse_tokens

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_row_is_a_configuration(path: Path) -> None:
    plain, rows = parse_tokens([str(path)]), read(path)[1]
    configs = [parse_tokens([str(path), *row.flags]) for row in rows]
    assert all(config.data == plain.data for config in configs)
    if path.parent.name != "full":  # whose second stages have epochs of their own
        assert all(config.train.epochs == plain.train.epochs for config in configs)
    told = {(config.model_dump_json(), *row.uses.items()) for config, row in zip(configs, rows, strict=True)}
    assert len(told) == len(rows)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_row_uses_runs_of_rows_further_up(path: Path) -> None:
    rows = read(path)[1]
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
