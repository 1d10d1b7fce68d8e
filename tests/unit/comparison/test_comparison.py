"""A comparison runs what is missing, says what came of it, and survives being cut short."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onward.cli.compare import planned
from onward.comparison import ComparisonFolder, Plan, Row, compare, compared, jobs_of, lines, record, write
from onward.comparison.rows import chosen, configured, read_recipe
from onward.comparison.table import as_csv, as_latex
from onward.core.errors import ConfigError
from onward.launch import Job, Outcome
from onward.train import parse_tokens

SOURCE = str(Path(__file__).parents[3] / "src")
RECIPE = """
[train]
epochs = 1
[recipe]
title = "Three rows"
seeds = [0, 1]
[[recipe.row]]
label = "first, real"
flags = ["--rule", "ottt"]
[[recipe.row]]
label = "second"
flags = []
evaluate = ["$PLACE/other.npz"]
starts = "first, real"
[[recipe.row]]
label = "third"
teacher = "second"
flags = ["--distil", "run"]
"""


class Fake:
    """Ends jobs in the order in which they come; ``answer`` makes up what they say."""

    def __init__(self, answer: Callable[[Job], dict | None] = lambda job: {"test_accuracy": 90.0 + len(job.name)}):
        self.answer, self.jobs, self.waiting, self.closed = answer, list[Job](), list[Job](), False

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self.waiting.append(job)

    def next(self) -> Outcome:
        job = self.waiting.pop(0)
        said = self.answer(job)
        return Outcome(job.name, said and {"run": f"run of {job.name}", **said}, "" if said else "went wrong")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def plan() -> Plan:
    rows = tuple(Row(label, parse_tokens(["--rule", label])) for label in ("ottt", "dfa"))
    return Plan("Two <rules>", rows, (0, 1, 2))


@pytest.fixture
def folder(tmp_path: Path, plan: Plan) -> ComparisonFolder:
    folder = ComparisonFolder(tmp_path / "comparison")
    folder.begin(plan)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def silent(*_: object) -> None:
    """Hears nothing."""


def test_only_what_is_missing_is_run(plan: Plan, folder: ComparisonFolder) -> None:
    first, again = Fake(), Fake()
    assert not compare(plan, folder, first, silent)
    assert [job.name for job in first.jobs] == [
        f"{label}, seed {seed}" for label in ("ottt", "dfa") for seed in (0, 1, 2)
    ]
    assert first.closed
    path = folder.path / "results.jsonl"
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:1] + kept[2:-1]) + kept[-1][:40])
    compare(plan, folder, again, silent)
    assert [job.name for job in again.jobs] == ["ottt, seed 1", "dfa, seed 2"]
    assert len(folder.results(plan)) == 6, "half a line spoils nothing"


def test_other_settings_and_more_seeds_are_run_anew(plan: Plan, folder: ComparisonFolder) -> None:
    compare(plan, folder, Fake(), silent)
    changed = Row("dfa", parse_tokens(["--rule", "dfa", "--optim.lr", "0.5"]))
    more, launcher = replace(plan, rows=(plan.rows[0], changed), seeds=(0, 3)), Fake()
    folder.begin(more)
    compare(more, folder, launcher, silent)
    assert [job.name for job in launcher.jobs] == ["ottt, seed 3", "dfa, seed 0", "dfa, seed 3"]


def test_ctrl_c_keeps_what_has_ended_and_closes_the_launcher(plan: Plan, folder: ComparisonFolder) -> None:
    def answer(job: Job) -> dict:
        if job.name == "dfa, seed 0":
            raise KeyboardInterrupt
        return {"test_accuracy": 90.0}

    launcher, again = Fake(answer), Fake()
    with pytest.raises(KeyboardInterrupt):
        compare(plan, folder, launcher, silent)
    assert launcher.closed
    compare(plan, folder, again, silent)
    assert [job.name for job in again.jobs] == ["dfa, seed 0", "dfa, seed 1", "dfa, seed 2"]


def test_failures_are_told_and_tried_again(plan: Plan, folder: ComparisonFolder) -> None:
    failed = compare(plan, folder, Fake(lambda job: None if "ottt" in job.name else {"test_accuracy": 1.0}), silent)
    assert [outcome.problem for outcome in failed] == ["went wrong"] * 3
    page = compared(plan, folder, failed)
    assert "Without results so far: ottt" in write_page(page, folder)
    again = Fake()
    compare(plan, folder, again, silent)
    assert len(again.jobs) == 3


def test_rows_of_a_recipe_use_each_others_runs(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    plan = planned([str(recipe)])
    assert (plan.title, plan.seeds) == ("Three rows", (0, 1))
    folder, launcher = ComparisonFolder(tmp_path / "c"), Fake()
    folder.begin(plan)
    assert folder.plan() == plan
    compare(plan, folder, launcher, silent)
    ran = {job.name: job.arguments for job in launcher.jobs}
    assert len(ran) == 8
    assert ran["second, seed 1"][-2:] == ("--train.init-from", "run of first, real, seed 1")
    assert ran["third, seed 0"][-2:] == ("--distil.teacher", "run of second, seed 0")
    test = ("eval", "run of second, seed 0", "--data", "/data/other.npz", "--device", "cpu", "--json")
    assert ran["second, seed 0, on other"] == test
    told = lines(plan, folder.results(plan))
    assert [line.label for line in told] == ["first, real", "second", "second on other", "third"]


def test_rows_by_name_bring_those_they_use(recipe: Path) -> None:
    rows = read_recipe(recipe)[1]
    assert [row.label for row in chosen(rows, ["third"])] == ["first, real", "second", "third"]
    with pytest.raises(ConfigError, match="no row is called fourth; rows of this recipe: first, real, second, third"):
        chosen(rows, ["fourth"])
    assert configured(recipe, rows[:1], ["--train.epochs", "7"])[0].config.train.epochs == 7


def test_rules_times_data_sets() -> None:
    plan = planned(["--model.hidden", "8"], "bp,dfa", "mnist,fashion-mnist", (3, 4))
    assert [row.label for row in plan.rows] == ["bp, mnist", "dfa, mnist", "bp, fashion-mnist", "dfa, fashion-mnist"]
    assert len(list(jobs_of(plan, Path("c"), 4))) == 8
    assert {row.config.data.name for row in plan.rows} == {"mnist", "fashion-mnist"}


def test_threads_are_a_share_of_the_cores(plan: Plan) -> None:
    assert {job.threads for job in jobs_of(plan, Path("c"), 64)} == {10}
    assert {job.threads for job in jobs_of(replace(plan, threads=3), Path("c"), 64)} == {3}


@pytest.mark.parametrize(
    "told", ["{", "[]", '{"title": 1}', '{"title": "t", "threads": null, "seeds": [0], "rows": [3]}']
)
def test_a_damaged_plan_is_refused(told: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(told)
    with pytest.raises(ConfigError, match="does not say what is compared"):
        ComparisonFolder.open(tmp_path).plan()


def test_a_recipe_whose_rows_are_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[recipe]\nrow = [3]\n")
    with pytest.raises(ConfigError, match="needs a label"):
        read_recipe(path)


def write_page(found: object, folder: ComparisonFolder) -> str:
    write(found, folder)  # pyright: ignore[reportArgumentType]
    return (folder.path / "comparison.html").read_text()


def metrics(path: Path, accuracies: list[float]) -> str:
    path.mkdir(parents=True)
    told = [
        {
            "epoch": k,
            "loss": 1.0 / k,
            "rates": {"n": 0.2},
            "judged_on": "test",
            "score": {"accuracy": a, "rates": {"n": 0.1}},
        }
        for k, a in enumerate(accuracies, 1)
    ]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, told)))
    return str(path)


def test_page_and_tables_hold_the_numbers_and_nothing_of_labels_is_markup(tmp_path: Path) -> None:
    config = parse_tokens([])
    label = "=<script>alert(1)</script>&_"
    plan = Plan("<b>title</b>", (Row(label, config), Row("plain", config)), (0, 1, 2))
    folder = ComparisonFolder(tmp_path / "c")
    folder.begin(plan)
    numbers = iter([98.47, 98.48, 98.50, 90.35, 90.27, 90.43])

    def answer(job: Job) -> dict:
        accuracy = next(numbers)
        told = {"test_accuracy": accuracy, "samples_per_second": 1280.0, "peak_bytes": 2**20}
        return {**told, "run": metrics(tmp_path / job.name.replace("/", ""), [80.0, accuracy])}

    compare(plan, folder, Fake(answer), silent)
    found = compared(plan, folder)
    page = write_page(found, folder)
    assert "<script" not in page
    assert not re.search(r"(src|href)=.?(http|//)", page)
    assert "98.48 ± 0.04" in page
    assert "100.00" in page, "128 samples at 1,280 a second take 100 ms"
    assert page.count("<polygon") == 4
    assert "0.1000" in page
    rows = list(csv.reader(as_csv(found.lines).splitlines()))
    assert rows[1][0] == f"'{label}"
    assert float(rows[1][2]) == pytest.approx(98.48333, rel=1e-6)
    assert r"$98.48 \pm 0.04$" in as_latex(found.lines)
    assert r"\&\_" in as_latex(found.lines)
    told = record(found, folder)
    assert told["differences"][0]["seeds"] == 3
    assert told["rows"][0]["accuracies"] == [98.47, 98.48, 98.50]


@pytest.mark.slow
def test_a_comparison_that_was_killed_goes_on_with_the_checkpoints_of_its_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x=rng.random((60, 6), dtype=np.float32), y=rng.integers(0, 2, 60))
    flags = ["--data", "few.npz", "--model.hidden", "8", "--train.steps", "2", "--train.epochs", "300"]
    onward = [sys.executable, "-m", "onward", "compare"]
    environment = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
    told = [*onward, "--rules", "bp", "--seeds", "0,1", *flags, "--to", "here", "--cores", "1", "--json"]
    begun = subprocess.Popen(told, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("here/runs/bp-seed-0/*/checkpoints/step-2?")):
        assert time.monotonic() < until
        time.sleep(0.02)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    time.sleep(0.5)  # the training notices, and ends
    (cut_short,) = tmp_path.glob("here/runs/bp-seed-0/*")
    assert not (cut_short / "DONE").exists()
    done = subprocess.run([*onward, "here", "--json"], cwd=tmp_path, env=environment, capture_output=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert Path(result["runs"]["bp"][0]["run"]).name == cut_short.name
    assert len(list(tmp_path.glob("here/runs/*/*"))) == 2
    assert len((cut_short / "metrics.jsonl").read_text().splitlines()) == 300
