"""Meta-training as a job: recipes, repeatability, resuming, what its file says, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from onward.cli import USER_ERROR, main
from onward.core.errors import ConfigError, NonFiniteError, OnwardError
from onward.meta.config import MetaRecipe
from onward.meta.tasks import RuleTask, Tasks
from onward.meta.train import KEPT, Judged, Planned, TaskDone, resume_meta
from onward.meta.train import meta_train as train_optimizer
from onward.optim import read_record
from onward.optim.cell_file import QUERY
from onward.optim.meta import Look
from onward.train import Event, RunFolder, Warned, checkpoint, toml
from reference.learned import weights


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    x = rng.random((60, 6), dtype=np.float32)
    y = (x[:, :3].sum(1) > x[:, 3:].sum(1)).astype(int)
    np.savez(tmp_path / "halves.npz", x=x, y=y, x_test=x[:20], y_test=y[:20])
    return [
        *("--data", str(tmp_path / "halves.npz"), "--train.out", str(tmp_path / "runs"), "--rule", "bptt"),
        *("--model.hidden", "5", "--train.steps", "3", "--train.batch-size", "8", "--meta.horizon", "4"),
        *("--meta.window", "2", "--meta.epochs", "2", "--meta.tasks", "2", "--meta.judge-every", "2"),
        *("--meta.judge-tasks", "1", "--meta.lr", "0.01"),
    ]


def learned(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, and of the file."""
    newest = RunFolder(run).newest(print)
    assert newest is not None
    parts = {
        f"{part}.{k}": t for part in checkpoint.PARTS for k, t in load_file(newest / f"{part}.safetensors").items()
    }
    return parts | load_file(run / "meta.safetensors")


def stopping(after: int) -> Callable[[Event], None]:
    """Ends the process, as it were, when so many tasks are done."""

    def on_event(event: Event) -> None:
        if isinstance(event, TaskDone) and event.task > after:
            raise KeyboardInterrupt

    return on_event


def run_of(flags: list[str]) -> Path:
    return Path(flags[flags.index("--train.out") + 1])


def test_a_whole_meta_training(flags: list[str]) -> None:
    events: list[Event] = []
    summary = train_optimizer(MetaRecipe.parse(flags), events.append)
    planned = next(event for event in events if isinstance(event, Planned))
    assert (planned.learned, planned.parameters, planned.windows, planned.tasks) == (450, 47, 2, 4)
    assert (summary.tasks, summary.updates, summary.diverged) == (4, 8, 0)
    assert [event.task for event in events if isinstance(event, Judged)] == [2, 4]
    assert summary.best_loss == min(event.loss for event in events if isinstance(event, Judged) and event.loss)
    assert summary.dc_gain is not None
    record = read_record(Path(summary.weights))
    assert (record["meta_trained_on"], record["meta_selected_on"]) == ("training part", "validation part")
    assert record["recipe"]["meta"]["horizon"] == 4
    assert "out" not in record["recipe"]["train"]
    assert "root" not in record["recipe"]["data"]
    assert not any(isinstance(event, Warned) for event in events)
    lines = [json.loads(line) for line in (Path(summary.run) / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["TaskDone", "TaskDone", "Judged", "TaskDone", "TaskDone", "Judged"]
    assert len(checkpoint.newest_first(Path(summary.run) / "checkpoints")) == KEPT


@pytest.mark.parametrize("after", [1, 2, 3])
def test_one_that_was_cut_ends_as_one_in_one_piece(flags: list[str], after: int) -> None:
    whole = train_optimizer(MetaRecipe.parse([*flags, "--meta.input", "normalised"]))
    with pytest.raises(KeyboardInterrupt):
        train_optimizer(MetaRecipe.parse([*flags, "--meta.input", "normalised"]), stopping(after))
    cut = max(run_of(flags).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert cut != Path(whole.run)
    again = resume_meta(cut)
    first, second = learned(Path(whole.run)), learned(cut)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert (again.best_loss, again.updates, again.tasks) == (whole.best_loss, whole.updates, whole.tasks)
    assert (cut / "metrics.jsonl").read_text() == (Path(whole.run) / "metrics.jsonl").read_text()


def test_recipes_say_the_same_as_flags(flags: list[str], tmp_path: Path) -> None:
    recipe = MetaRecipe.parse([*flags, "--meta.momenta", "0.5", "0.9"])
    (tmp_path / "recipe.toml").write_text(toml.dumps(recipe.tables()))
    assert MetaRecipe.parse([str(tmp_path / "recipe.toml")]) == recipe
    changed = MetaRecipe.parse([str(tmp_path / "recipe.toml"), "--meta.horizon", "8", "--seed", "3"])
    assert (changed.meta.horizon, changed.run.seed, changed.meta.window) == (8, 3, 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--meta.window", "3"], "a window of 3 updates does not divide the horizon of 4; use a window of 2"),
        (["--meta.horizon", "0"], "at least 1"),
        (["--meta.horizont", "5"], "did you mean --meta.horizon"),
        (["--optim", "adam"], "the optimiser is what is trained"),
        (["--meta.learn-on", "all"], "one of train, validation, test"),
        (["--meta.memory", "none"], "a whole number"),
        (["--meta.input", "sqrt"], "unknown input"),
        (["--meta", "5"], "group of options"),
    ],
)
def test_what_cannot_be_is_refused_in_words(flags: list[str], given: list[str], said: str) -> None:
    with pytest.raises(OnwardError, match=said):
        MetaRecipe.parse([*flags, *given])


def test_rules_that_update_after_every_step_are_refused(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match="needs one gradient a sequence"):
        train_optimizer(MetaRecipe.parse([*flags, "--rule", "ottt", "--rule.schedule", "step"]))


@pytest.mark.parametrize("given", [["--meta.learn-on", "test"], ["--meta.judge-on", "test"]])
def test_test_data_that_take_part_are_named(flags: list[str], given: list[str]) -> None:
    events: list[Event] = []
    summary = train_optimizer(MetaRecipe.parse([*flags, *given]), events.append)
    assert any(isinstance(event, Warned) and "test data take part" in event.text for event in events)
    record = read_record(Path(summary.weights))
    assert "test split" in (record["meta_trained_on"], record["meta_selected_on"])


def test_tasks_are_fresh_repeatable_and_never_the_judges(flags: list[str]) -> None:
    tasks = Tasks(MetaRecipe.parse(flags))
    one, same, other, judge = tasks.learn(1), tasks.learn(1), tasks.learn(2), tasks.judge(1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters, same.parameters, strict=True))
    assert not torch.equal(one.parameters[0], other.parameters[0])
    assert not torch.equal(one.parameters[0], judge.parameters[0])
    before, again, after = (one.look(3, after=False), one.look(3, after=False), one.look(3, after=True))
    assert before.loss == again.loss == after.loss  # bptt draws nothing
    assert all(p.grad is None for p in one.parameters)
    seen = {len(part): name for name, part in tasks.parts.items()}
    assert seen == {54: "train", 6: "validation", 20: "test"}


def test_noise_is_drawn_anew_after_the_update(flags: list[str]) -> None:
    task = Tasks(MetaRecipe.parse([*flags, "--rule", "opzo", "--objective", "per-step"])).learn(0)
    first, again, fresh = (task.look(0, after=after).loss for after in (False, False, True))
    assert first == again != fresh


def test_tasks_that_diverge_are_left_and_counted(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: RuleTask, step: int, *, after: bool) -> Look:  # noqa: ARG001
        raise NonFiniteError("the loss")

    monkeypatch.setattr(RuleTask, "look", look)
    events: list[Event] = []
    summary = train_optimizer(MetaRecipe.parse(flags), events.append)
    assert (summary.diverged, summary.updates, summary.weights, summary.best_loss) == (4, 0, "", None)
    assert sum(isinstance(event, Warned) for event in events) == 4


def test_the_command_trains_tells_and_resumes(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["meta-train", *flags, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out.strip().splitlines()[-1])
    assert "450 numbers to learn from 4 tasks of 2 windows of 2 updates of 47 parameters" in captured.err
    assert "to differentiate 32 coordinates at a time" in captured.err
    assert main(["meta-train", "--resume", summary["run"]]) == 0
    assert "4 tasks were done before" in capsys.readouterr().out
    data = flags[: flags.index("--meta.horizon")]
    for name in ("lstm", "impulse"):
        trained = ["train", *data, "--train.epochs", "1", "--optim", name, "--optim.weights", summary["weights"]]
        assert main(trained) == 0
        assert "Test accuracy" in capsys.readouterr().out


def test_the_command_refuses_in_words(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["meta-train", "--resume", str(tmp_path)]) == USER_ERROR
    assert "is not the folder of a meta-training" in capsys.readouterr().err
    assert main(["meta-train", *flags, "--resume", str(tmp_path)]) == USER_ERROR
    assert "takes everything from the folder" in capsys.readouterr().err
    assert main(["meta-train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--meta.network.hidden" in shown
    assert "--meta.judge-on" in shown


def test_changed_data_are_noticed(flags: list[str]) -> None:
    summary = train_optimizer(MetaRecipe.parse(flags))
    path = Path(flags[1])
    arrays = dict(np.load(path))
    arrays["x"] = arrays["x"][::-1].copy()
    np.savez(path, **arrays)
    with pytest.raises(ConfigError, match="the data have changed"):
        resume_meta(Path(summary.run))
    events: list[Event] = []
    assert resume_meta(Path(summary.run), force=True, on_event=events.append).tasks == 4
    assert any(isinstance(event, Warned) and "the data have changed" in event.text for event in events)


@pytest.fixture
def querying(flags: list[str], tmp_path: Path) -> list[str]:
    """Flags that train a query network beside an optimiser that nobody trained."""
    return [*flags, "--meta.subject", "query", "--meta.subject.weights", weights(tmp_path), "--meta.subject.eps", "0.1"]


@pytest.mark.parametrize("after", [1, 3])
def test_a_query_network_is_trained_and_a_cut_training_ends_as_one_in_one_piece(
    querying: list[str], after: int
) -> None:
    querying = [*querying, "--meta.subject.directions", "2"]
    whole = train_optimizer(MetaRecipe.parse(querying))
    assert (whole.tasks, whole.updates, whole.diverged, whole.dc_gain) == (4, 8, 0, None)
    with pytest.raises(KeyboardInterrupt):
        train_optimizer(MetaRecipe.parse(querying), stopping(after))
    cut = max(run_of(querying).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    again = resume_meta(cut)
    first, second = learned(Path(whole.run)), learned(cut)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert (again.best_loss, again.updates) == (whole.best_loss, whole.updates)
    record = read_record(Path(whole.weights), QUERY)
    assert record["recipe"]["meta"]["subject"]["directions"] == 2
    assert "weights" not in record["recipe"]["meta"]["subject"]


def test_the_query_network_that_was_trained_is_used_by_its_rule(
    querying: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["meta-train", *querying, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out.strip().splitlines()[-1])
    assert "490 numbers to learn from 4 tasks" in captured.err
    assert "onward train --rule query --rule.weights" in captured.err
    data = [flag for flag in querying[: querying.index("--meta.horizon")] if flag not in ("--rule", "bptt")]
    run = ["train", *data, "--train.epochs", "1", "--rule", "query", "--rule.weights", summary["weights"], "--json"]
    assert main(run) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert "rule.weights" in json.loads((Path(found["run"]) / "data.json").read_text())


def test_what_a_query_network_needs_is_said(querying: list[str], flags: list[str]) -> None:
    for given, said in (
        ([*flags, "--meta.subject", "query"], "beside a learned optimiser that is there already"),
        ([*flags, "--meta.subject", "query", "--meta.subject.weights", "nowhere"], "nowhere: there is no such file"),
        ([*querying, "--meta.network.layers", "2"], "--meta.network says another"),
        ([*querying, "--meta.memory", "1", "--meta.subject.directions", "100000"], "use a shorter --meta.window"),
    ):
        with pytest.raises(OnwardError, match=said):
            train_optimizer(MetaRecipe.parse(given))


def test_another_frozen_optimiser_is_noticed(querying: list[str], tmp_path: Path) -> None:
    summary = train_optimizer(MetaRecipe.parse(querying))
    weights(tmp_path, scale=0.5)
    with pytest.raises(ConfigError, match=r"the file of meta\.subject\.weights has changed"):
        resume_meta(Path(summary.run))
