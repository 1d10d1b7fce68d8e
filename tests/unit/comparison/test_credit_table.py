"""The table of rules x networks x data says what recipes hold and what rules claim, and takes in rules of others."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import credit_table as script
from benchmarks.recipes import results_in

from onward.comparison.credit_table import credit_table
from onward.comparison.reproduction import every, read
from onward.comparison.rows import as_row

ROOT = Path(__file__).parents[3]
SMALL = """
[data]
name = "mnist"
limit = 256
limit_test = 100

[model]
name = "mlp"
hidden = [20]

[train]
epochs = 1
steps = 2

[recipe]
table = "Together"
title = "MNIST, twenty neurons"
published = "none"
must = "end"
seeds = [0]

[[recipe.row]]
label = "BP"
flags = ["--rule", "ottt"]

# Results, written by `python -m benchmarks.recipes`.

[[recipe.result]]
label = "BP"
seeds = [0]
accuracies = [50.0]
mean = 50.0
samples = 100
seconds = 1
date = "2026-01-01"
machine = "a machine"
"""


def test_the_table_is_current() -> None:
    written = (ROOT / "docs" / "credit-table.md").read_text(encoding="utf-8")
    assert written == credit_table(every(ROOT / "recipes")), "run: python -m benchmarks.credit_table"


def test_needs_are_those_of_the_rule() -> None:
    page = credit_table([read(ROOT / "recipes" / "mnist-mlp.toml")])
    assert "| BP | 98.48 ± 0.04 % | 3 |" in page
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "| layer by layer | yes | O(1) |" in lines["BP"]
    assert "| straight | no | O(1) |" in lines["OPZO"]


def test_a_rule_that_is_not_installed_here_keeps_its_row() -> None:
    one = read(ROOT / "recipes" / "mnist-mlp.toml")
    far = as_row({"label": "far", "flags": ["--rule", "from-afar"]})
    found = replace(one.found["BP"], label="far", update={"time": 1.5, "mib": 12.0})
    page = credit_table([replace(one, rows=(far,), found={"far": found})])
    assert "| far | 98.48 ± 0.04 % | 3 | 1.50 | 12 |  |  |  |" in page


def test_a_rule_joins_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    places = ["--folder", str(tmp_path), "--docs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["credit_table", "--add", "opzo", "--rule.spatial.rho", "0.9", *places])
    script.main()
    told, held = tomllib.loads(recipe.read_text())["recipe"], results_in(recipe)
    assert told["row"][1] == {"label": "opzo", "flags": ["--rule", "opzo", "--rule.spatial.rho", "0.9"]}
    assert set(held) == {"BP", "opzo"}
    assert held["BP"]["update"]["time"] == 1.0
    assert held["opzo"]["update"]["mib"] > 0
    assert held["opzo"]["costs"]["spikes"] > 0
    assert "| opzo | " in (tmp_path / "credit-table.md").read_text()
    assert "small" in (tmp_path / "reproductions.md").read_text()


def test_recipes_that_do_not_exist_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    monkeypatch.setattr(sys, "argv", ["credit_table", "--recipes", "smal", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="no recipe of the table is called smal"):
        script.main()
