"""Recipes are configurations that train, and their rows are flags that parse."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from onward.train import parse_tokens

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_row_is_a_configuration(path: Path) -> None:
    recipe = tomllib.loads(path.read_text())["recipe"]
    plain = parse_tokens([str(path)])
    rows = [parse_tokens([str(path), *row["flags"]]) for row in recipe["row"]]
    assert all(row.data == plain.data and row.train.epochs == plain.train.epochs for row in rows)
    assert len({row.model_dump_json() for row in rows}) == len(rows)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_result_belongs_to_a_row_and_says_where_it_was_measured(path: Path) -> None:
    recipe = tomllib.loads(path.read_text())["recipe"]
    labels = tuple(row["label"] for row in recipe["row"])
    for result in recipe.get("result", []):
        assert result["label"].startswith(labels)
        assert result["date"]
        assert result["machine"]
        assert len(result["seeds"]) == len(result["accuracies"])
