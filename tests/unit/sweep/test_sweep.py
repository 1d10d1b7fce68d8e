"""A sweep chooses by held-out accuracy, gives up what is bad, and goes on where it was cut short."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from onward.cli import main
from onward.core.errors import ConfigError, UnknownName
from onward.launch import Job, Outcome
from onward.report.scatter import Dot, scatter
from onward.sweep import Plan, SweepFolder, Trial, planned, read_axis, record, sweep, swept, write
from onward.sweep.axes import Range
from onward.sweep.plan import read_plan
from onward.train import RunConfig
from onward.train.folder import DONE, METRICS
from onward.train.grammar import load

optuna = pytest.importorskip("optuna", reason="Optuna is not installed (pip install optuna)")
sqlalchemy = pytest.importorskip("sqlalchemy", reason="Optuna brings it")

EPOCHS = ("--train.epochs", "3")
LR = "optim.lr=1e-4..1e-1:log"
Accuracies = Callable[[RunConfig], Sequence[float]]


def bump(config: RunConfig) -> Sequence[float]:
    """Best at a learning rate of 0.01; test accuracies say the opposite."""
    rate = float(config.optim.model_dump()["lr"])
    return [90 - 10 * abs(math.log10(rate / 0.01)) - 2 / epoch for epoch in range(1, 1 + config.train.epochs)]


class Fake:
    """Trains in no time: writes what ``accuracies`` says; a job in ``cut`` is killed, one in ``refused`` fails."""

    def __init__(self, accuracies: Accuracies = bump, cut: Sequence[str] = (), refused: Sequence[str] = ()):
        self.accuracies, self.cut, self.refused = accuracies, list(cut), refused
        self.jobs, self.stopped, self.closed = list[Job](), list[str](), False
        self.waiting: dict[str, Iterator[Outcome | None]] = {}

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self.waiting[job.name] = self.train(job)

    def train(self, job: Job) -> Iterator[Outcome | None]:
        config, run = load(Path(job.arguments[1])), Path(job.arguments[3]) / "the-run"
        run.mkdir(parents=True, exist_ok=True)
        (run / METRICS).write_text("")
        if job.name in self.refused:
            yield Outcome(job.name, problem="onward: it <diverged>")
        for epoch, accuracy in enumerate(self.accuracies(config), 1):
            with (run / METRICS).open("a") as file:
                line = {"epoch": epoch, "judged_on": "validation", "score": {"accuracy": accuracy}}
                file.write(json.dumps(line) + '\n{"epoch": 1, "judged_on": "test", "score": {"accuracy": 100}}\n{"tor')
            yield None
            if job.name in self.stopped:
                yield Outcome(job.name, problem="interrupted", interrupted=True)
            if job.name in self.cut:
                self.cut.remove(job.name)
                yield Outcome(job.name, problem="ended by SIGKILL", interrupted=True)
            (run / METRICS).write_text((run / METRICS).read_text().removesuffix('{"tor'))
        (run / DONE).write_text(json.dumps({"test_accuracy": 100 - accuracy}))
        yield Outcome(job.name, {"run": str(run), "test_accuracy": 100 - accuracy})

    def poll(self, seconds: float) -> Outcome | None:
        for name, training in list(self.waiting.items()):
            outcome = next(training)
            if outcome is not None:
                del self.waiting[name]
                return outcome
        return None

    def next(self) -> Outcome:
        raise AssertionError("a sweep watches what runs")

    def stop(self, name: str) -> None:
        self.stopped.append(name)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """No waiting for the disk: what is tested is what is written, not whether it survives a power cut."""

    def trust(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", trust)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", trust)


def silent(*_: object) -> None:
    """Hears nothing."""


def swept_by(launcher: Fake, path: Path, plan: Plan, **how: int) -> list[Trial]:
    path.mkdir(exist_ok=True)
    folder = SweepFolder(path)
    folder.begin(plan)
    sweep(plan, folder, launcher, silent, **how)
    return list(swept(plan, folder).trials)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ("optim.lr", "expected FIELD=LO..HI"),
        ("optim.lr=", "expected FIELD=LO..HI"),
        ("optim.lr=0.1..0.1", "the range is empty; set the field itself, --optim.lr 0.1"),
        ("optim.lr=0.1..0.01", "reversed; expected the lower end first, optim.lr=0.01..0.1"),
        ("optim.lr=0..0.1:log", "starts above 0"),
        ("optim.lr=0..0.1:lin", "expected log, or nothing"),
        ("optim.lr=a..b", "'a' was given as an end"),
        ("optim.lr=0..inf", "'inf' was given as an end"),
        ("rule=opzo,opzo", "expected different values"),
        ("rule=opzo,,dfa", "expected different values"),
        ("rule=0..1", "--rule takes a name, and no range"),
        ("train.drop-last=0..1", "takes true or false, and no range"),
        ("optim.lrr=0..1", "unknown option --optim.lrr; did you mean --optim.lr"),
        ("train.batch-size=32.5..64", "expected a whole number"),
        ("train.batch-size=0..64", "at least 1"),
        ("rule=opzo,nonsense", "unknown rule 'nonsense'"),
        ("seed=0..3", "hold out other data"),
        ("data=mnist,fashion-mnist", "onward compare --datasets"),
        ("train.validation=0.1,0.2", "cannot be compared"),
        ("train.out=a,b", "--to FOLDER"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(over: str, words: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=words):
        planned(EPOCHS, [over], 3)


@pytest.mark.parametrize(
    ("tokens", "over", "trials", "words"),
    [
        ((), (), 3, "needs fields to search over"),
        ((), (LR,), 0, "at least 1"),
        ((), (LR, "optim.lr=0.1,0.2"), 3, "--optim.lr is searched over already"),
        (("--train.validation", "0"), (LR,), 3, "never on test data"),
        (("--stream", "permuted-mnist", "--rule", "bptt"), (LR,), 3, "nothing is held out"),
    ],
)
def test_what_makes_no_sweep_is_refused_in_words(tokens: tuple, over: tuple, trials: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        planned(tokens, over, trials)


def test_a_plan_holds_data_out_and_finds_its_fields() -> None:
    plan = planned(EPOCHS, ["rule.rho=0.5..0.9", "train.batch_size=16..64:log", "model.hidden=40,20 20"], 3)
    assert plan.base.train.validation == 0.1
    assert [isinstance(axis, Range) and axis.whole for axis in plan.axes] == [False, True, False]
    values = {"rule.rho": 0.75, "train.batch-size": 20, "model.hidden": "20 20"}
    config = plan.config(values).model_dump()
    assert config["rule"]["spatial"]["rho"] == 0.75
    assert config["model"]["hidden"] == [20, 20]
    own = planned(["--train.validation", "0.25"], [LR], 3)
    assert own.base.train.validation == 0.25
    assert read_axis("data.file=../a.npz,../b.npz").extremes == ("../a.npz", "../b.npz")


def test_the_search_comes_near_the_best_and_repeats_itself(tmp_path: Path) -> None:
    plan = planned(EPOCHS, [LR], 12)
    one, other = (swept_by(Fake(), tmp_path / name, plan) for name in "ab")
    assert one == other
    best = max(one, key=lambda trial: trial.accuracy or 0)
    assert abs(math.log10(float(best.values["optim.lr"]) / 0.01)) < 0.3
    elsewhere = swept_by(Fake(), tmp_path / "c", planned([*EPOCHS, "--seed", "1"], [LR], 1))
    assert one[0].values != elsewhere[0].values


def test_what_is_bad_is_ended_early(tmp_path: Path) -> None:
    plan, launcher = planned(EPOCHS, [LR], 10), Fake()
    found = swept_by(launcher, tmp_path, plan)
    pruned = [trial for trial in found if trial.state == "pruned"]
    assert pruned
    assert [f"trial {trial.place}" for trial in pruned] == launcher.stopped
    assert all(len(trial.accuracies) < 3 for trial in pruned)
    assert all(trial.state == "finished" for trial in found[:5]), "there is no median to be below of so far"
    assert max(trial.accuracy or 0 for trial in pruned) < max(trial.accuracy or 0 for trial in found)
    whole = swept_by(Fake(), tmp_path / "whole", planned(EPOCHS, [LR], 7, prune=False))
    assert {trial.state for trial in whole} == {"finished"}


def test_a_sweep_that_was_cut_short_ends_like_one_in_one_piece(tmp_path: Path) -> None:
    plan, told = planned(EPOCHS, [LR, "rule=opzo,dfa"], 8), list[int]()
    whole = swept_by(Fake(), tmp_path / "whole", plan)

    def interrupt(_trial: Trial, ended: int, _trials: int) -> None:
        told.append(ended)
        if ended in (3, 6):
            raise KeyboardInterrupt

    folder = SweepFolder(tmp_path / "cut")
    folder.path.mkdir()
    folder.begin(plan)
    launchers = [Fake(), Fake(cut=["trial 4"]), Fake()]
    for launcher in launchers[:2]:
        with pytest.raises(KeyboardInterrupt):
            sweep(plan, folder, launcher, interrupt)
        assert launcher.closed
    sweep(plan, folder, launchers[2], silent)
    assert list(swept(plan, folder).trials) == whole
    assert [job.name for job in launchers[1].jobs][:2] == ["trial 4", "trial 4"]


def test_a_trial_at_hand_when_everything_ended_is_run_again_in_its_folder(tmp_path: Path) -> None:
    plan, folder, again = planned(EPOCHS, [LR], 3), SweepFolder(tmp_path), Fake()
    folder.begin(plan)

    class Ends(Fake):
        def poll(self, seconds: float) -> Outcome | None:
            super().poll(seconds)
            raise KeyboardInterrupt

    first = Ends()
    with pytest.raises(KeyboardInterrupt):
        sweep(plan, folder, first, silent, jobs=2)
    assert [trial.state for trial in swept(plan, folder).trials] == ["running", "running"]
    sweep(plan, folder, again, silent)
    assert [job.arguments for job in again.jobs[:2]] == [job.arguments for job in first.jobs]
    assert [trial.state for trial in swept(plan, folder).trials] == ["finished"] * 3


def test_a_training_that_is_always_killed_is_given_up(tmp_path: Path) -> None:
    launcher = Fake(cut=["trial 2"] * 5)
    found = swept_by(launcher, tmp_path, planned(EPOCHS, [LR], 3))
    assert [trial.state for trial in found] == ["finished", "failed", "finished"]
    assert found[1].problem == "ended by SIGKILL, 3 times"


def test_a_sweep_grows(tmp_path: Path) -> None:
    plan = planned(EPOCHS, [LR], 3)
    swept_by(Fake(), tmp_path, plan)
    launcher = Fake()
    found = swept_by(launcher, tmp_path, planned(EPOCHS, [LR], 5))
    assert len(launcher.jobs) == 2
    assert [trial.place for trial in found] == [1, 2, 3, 4, 5]


def test_few_listed_settings_are_all_tried_once(tmp_path: Path) -> None:
    plan = planned(EPOCHS, ["optim.lr=0.1,0.01", "rule=opzo,dfa,ottt"], 20)
    assert plan.count == 6
    found = swept_by(Fake(), tmp_path, plan, jobs=4)
    assert len({tuple(trial.values.items()) for trial in found}) == 6


def test_several_at_a_time_share_the_cores(tmp_path: Path) -> None:
    launcher = Fake()
    found = swept_by(launcher, tmp_path, planned(EPOCHS, [LR], 6), jobs=3, threads=2)
    assert len(found) == 6
    assert {job.threads for job in launcher.jobs} == {2}


def test_what_cannot_be_trained_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    plan = planned(EPOCHS, ["rule=opzo,sltt", LR], 5)
    folder = SweepFolder(tmp_path)
    found = swept_by(Fake(refused=["trial 2"]), tmp_path, plan)
    assert [trial.state for trial in found].count("failed") == 1
    write(swept(plan, folder), folder)
    page = (tmp_path / "sweep.html").read_text()
    assert "it &lt;diverged&gt;" in page
    assert "<diverged>" not in page


def test_settings_that_do_not_fit_together_fail_in_words(tmp_path: Path) -> None:
    over = ["rule=opzo,ottt", "rule.rho=0.9,0.99"]
    with pytest.raises(UnknownName, match=r"--rule\.rho"):
        planned(EPOCHS, over, 4)
    found = swept_by(Fake(), tmp_path, read_plan(EPOCHS, over, 4, prune=True))
    assert [trial.state for trial in found] == ["finished", "finished", "failed", "failed"]
    assert "unknown option --rule.rho" in found[2].problem


def test_only_the_best_is_told_a_test_accuracy(tmp_path: Path) -> None:
    plan, folder = planned([*EPOCHS, "--train.out", "elsewhere"], [LR], 6), SweepFolder(tmp_path)
    swept_by(Fake(), tmp_path, plan)
    found = swept(plan, folder)
    write(found, folder)
    told = record(found, folder)
    assert found.best is not None
    assert told == json.loads((tmp_path / "sweep.json").read_text())
    assert told["best"]["test_accuracy"] == pytest.approx(100 - (found.best.accuracy or 0))
    assert found.best.accuracy == max(trial.accuracy or 0 for trial in found.trials), "and not the best on test data"
    assert all("test_accuracy" not in trial for trial in told["trials"])
    best = load(tmp_path / "best.toml")
    assert best.optim.model_dump()["lr"] == found.best.values["optim.lr"]
    assert best.train.out == "elsewhere"


@pytest.mark.parametrize(("best", "value"), [(True, 80.0), (False, 20.0)])
def test_the_value_is_that_of_the_epoch_that_is_kept(best: bool, value: float, tmp_path: Path) -> None:
    plan = planned([*EPOCHS, "--train.keep-best", str(best).lower()], [LR], 1)
    (found,) = swept_by(Fake(lambda config: [50.0, 80.0, 20.0]), tmp_path, plan)
    assert found.accuracy == value


def test_a_folder_goes_on_by_itself(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[train]\nepochs = 2\n")
    plan, folder = planned([str(recipe), "--rule", "dfa"], [LR, "model.hidden=8,8 8"], 7), SweepFolder(tmp_path / "s")
    folder.path.mkdir()
    folder.begin(plan)
    recipe.unlink()
    again = SweepFolder.open(folder.path).plan()
    folder.begin(again)
    assert (again.axes, again.trials, again.prune) == (plan.axes, 7, True)
    assert again.base.train.epochs == 2
    assert again.base.rule.name == "dfa"
    (folder.path / "sweep-plan.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not say what is searched"):
        folder.plan()
    with pytest.raises(ConfigError, match="not the folder of a sweep"):
        SweepFolder.open(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    with folder.held(), pytest.raises(ConfigError, match="another process"), SweepFolder(tmp_path).held():
        pass


def test_a_damaged_database_is_refused_in_words(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.database.write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match="cannot be read as a sweep's database"):
        sweep(planned(EPOCHS, [LR], 2), folder, Fake(), silent)


def test_without_optuna_the_command_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["sweep", "--over", LR, "--train.out", str(tmp_path / "runs")]) == 2
    assert "pip install 'onward[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_command_refuses_changes_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(EPOCHS, [LR], 3)
    swept_by(Fake(), tmp_path, plan)
    for given, words in (
        ([str(tmp_path), "--rule", "dfa"], "goes on as it was begun"),
        ([str(tmp_path), "--over", LR], "goes on as it was begun"),
        ([str(tmp_path), "--trials", "2"], "can only grow"),
        (["--over", LR, "--to", str(tmp_path)], "a sweep is there already"),
        (["--over", LR, "--jobs", "0"], "--jobs: 0 was given"),
    ):
        assert main(["sweep", *given]) == 2
        assert words in capsys.readouterr().err


def test_the_command_shows_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swept_by(Fake(), tmp_path, planned(EPOCHS, [LR], 3))
    assert main(["sweep", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["best"]["trial"] >= 1
    assert "chosen by" in said.err


@pytest.mark.slow
def test_real_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data.limit", "400", "--data.limit-test", "100", "--model.hidden", "16", "--train.epochs", "2"]
    folder = tmp_path / "sweep"
    assert main(["sweep", *small, "--over", "optim.lr=1e-5,1e-2", "--jobs", "2", "--to", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["best"]["values"] == {"optim.lr": "1e-2"}
    assert told["best"]["test_accuracy"] is not None
    assert load(Path(told["best"]["config"])).train.validation == 0.1


def test_dots_are_drawn_over_numbers_powers_and_names() -> None:
    assert ">0.01<" in scatter("rate", [Dot(1e-3, 1.0), Dot(1e-1, 2.0)], "x", "y", log=True)
    named = scatter("<b>", [Dot("<i>", 1.0, "<u>", full=False)], "x", "y", names=["<i>", "other"])
    assert "&lt;i&gt;" in named
    assert not {"<b>", "<i>", "<u>"} & set(named.replace("><", ">\n<").split("\n"))
