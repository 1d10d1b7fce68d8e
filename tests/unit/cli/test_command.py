"""The command: dispatch, words, JSON, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from cyclopts import App

from onward.cli import INTERRUPTED, USER_ERROR, app, main
from onward.cli.compare import configurations
from onward.cli.doctor import CHECK_FAILED
from onward.core.errors import ConfigError
from onward.train.selfcheck import CHECKS, Check, CheckFailed

SOURCE = str(Path(__file__).parents[3] / "src")
HELP = "from onward.cli import main; import sys; code = main({argv}); print('torch' in sys.modules, code)"


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.random((60, 6), dtype=np.float32)
    np.savez("halves.npz", x=x, y=(x[:, :3].sum(1) > x[:, 3:].sum(1)).astype(int))
    return ["--data", "halves.npz", "--model.hidden", "8", "--train.epochs", "2", "--train.steps", "3"]


def last_line(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=60
    )


@pytest.mark.parametrize("argv", [["--help"], [], ["--version"], ["data", "--help"]])
def test_help_imports_no_torch(argv: list[str]) -> None:
    assert python(HELP.format(argv=argv)).stdout.strip().splitlines()[-1] == "False 0"


def test_every_command_can_be_imported() -> None:
    commands = [name for name in app if not name.startswith("-")]
    assert {"train", "resume", "eval", "compare", "rules", "data", "doctor", "bench"} <= set(commands)
    assert all(isinstance(app[name], App) for name in commands)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("train", "resume", "eval", "compare", "rules", "data", "doctor", "bench"))


def test_help_of_train_lists_fields_choices_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--rule", "sltt-k", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("--rule.temporal.k", "--train.epochs", "--optim.lr", "--seed", "fashion-mnist", "opzo"):
        assert word in shown


def test_train_then_eval_then_json(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags, "--json"]) == 0
    captured = capsys.readouterr()
    trained = last_line(captured.out)
    assert len(captured.out.splitlines()) == 1
    assert {"run", "test_accuracy", "test_loss", "samples_per_second", "peak_bytes"} <= trained.keys()
    assert "epoch 2/2" in captured.err
    assert main(["eval", trained["run"], "--json"]) == 0
    own = last_line(capsys.readouterr().out)
    assert {"run", "test_accuracy", "test_loss", "samples_per_second", "peak_bytes"} <= own.keys()
    assert own["test_accuracy"] == trained["test_accuracy"]
    assert main(["eval", trained["run"], "--data", "halves.npz", "--json"]) == 0
    assert last_line(capsys.readouterr().out)["samples"] == 60
    assert main(["eval", trained["run"], "--data.split", "train", "--json"]) == 0
    assert last_line(capsys.readouterr().out)["samples"] == 48
    assert main(["eval", trained["run"], "--members"]) == 0
    table = capsys.readouterr().out
    assert all(words in table for words in ("mean of steps so far", "The mean of 3 steps gains"))
    assert main(["eval", trained["run"], "--members", "--json"]) == 0
    members = last_line(capsys.readouterr().out)["members"]
    assert len(members["alone"]) == 3
    assert members["together"][-1] == pytest.approx(own["test_accuracy"])


def test_lines_without_control_codes_where_there_is_no_terminal(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *flags]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out
    assert not shown.err
    epochs = [line for line in shown.out.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 2
    assert all(word in epochs[0] for word in ("loss", "accuracy", "test", "samples/s", "rates neuron1:"))
    assert "Test accuracy" in shown.out


def test_a_saved_configuration_is_a_recipe(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", *flags, "--json"])
    first = last_line(capsys.readouterr().out)
    main(["train", f"{first['run']}/config.toml", "--json"])
    second = last_line(capsys.readouterr().out)
    assert second["test_loss"] == first["test_loss"]


def test_compare_rules_and_seeds(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = ["compare", "--rules", "bp,dfa", "--seeds", "0", *flags, "--to", "here", "--json"]
    assert main(told) == 0
    captured = capsys.readouterr()
    result = last_line(captured.out)
    assert [row["label"] for row in result["rows"]] == ["bp", "dfa"]
    assert result["runs"]["bp"][0]["test_accuracy"] == result["rows"][0]["test_accuracy"]["mean"]
    assert Path(result["page"]).read_text().startswith("<!DOCTYPE html>")
    assert json.loads(Path("here/comparison.json").read_text()) == result
    assert "weight" in captured.err
    assert "2 of 2" in captured.err
    assert main(["compare", "here", "--json"]) == 0
    captured = capsys.readouterr()
    assert last_line(captured.out) == result
    assert " of 2: " not in captured.err, "nothing was missing"


def test_compared_rules_keep_the_options_given_for_them() -> None:
    configs = configurations("bp,opzo", ("--rule.rho", "0.9"))
    assert configs["opzo"].rule.model_dump()["spatial"]["rho"] == 0.9
    assert configs["bp"].rule.name == "ottt"
    with pytest.raises(ConfigError, match=r"--rule.rho is about rule 'opzo', which is not compared"):
        configurations("bp,dfa", ("--rule.rho", "0.9"))


@pytest.mark.parametrize(
    ("argv", "key", "name"),
    [
        (["rules"], "rules", "opzo"),
        (["rules"], "spatial", "dfa"),
        (["rules"], "transform", "hlop"),
        (["rules", "permuted-mnist"], "stream", "permuted-mnist"),
        (["data", "list"], "data", "mnist"),
    ],
)
def test_lists_as_json(argv: list[str], key: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--json"]) == 0
    assert name in {line["name"] for line in last_line(capsys.readouterr().out)[key]}


def test_rules_state_needs_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    main(["rules", "--json"])
    listed = last_line(capsys.readouterr().out)
    by_name = {line["name"]: line for line in listed["rules"]}
    assert by_name["bptt"]["memory"] == "O(T)"
    assert by_name["opzo"]["memory"] == "O(1)"
    assert not by_name["opzo"]["weight_transport"]
    assert {line["name"] for line in listed["spatial"] if line["weight_transport"]} == {"bp"}
    assert not any(line["weight_transport"] for line in (*listed["temporal"], *listed["local"]))
    assert all(line["memory"] for kind in ("rules", "temporal", "spatial", "local") for line in listed[kind])
    for line in [line for lines in listed.values() for line in lines]:
        assert all(line[key] for key in ("meaning", "paper", "published", "inferred")), line["name"]
        assert "not stated" not in line.values(), line["name"]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-check", "--json"]) == 0
    found = {line["what"]: line for line in last_line(capsys.readouterr().out)["findings"]}
    assert {"python", "torch", "threads", "kernel: fire", "data: mnist", "disk: runs", "disk: cache"} <= found.keys()
    assert not any(what.startswith("check: ") for what in found)
    assert "GB free at" in found["disk: runs"]["found"]


def test_little_space_is_told_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onward.cli.doctor.LITTLE_SPACE", 2**80)
    assert main(["doctor", "--no-check", "--json"]) == 0
    found = {line["what"]: line["good"] for line in last_line(capsys.readouterr().out)["findings"]}
    assert not found["disk: runs"]
    assert not found["disk: cache"]


def test_doctor_tries_what_training_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("onward.train.selfcheck.CHECKS", CHECKS[:4])
    assert main(["doctor", "--json"]) == 0
    captured = capsys.readouterr()
    checks = [line for line in last_line(captured.out)["findings"] if line["what"].startswith("check: ")]
    assert [line["what"] for line in checks] == [f"check: {check.name}" for check in CHECKS[:4]]
    assert all(line["good"] and line["seconds"] > 0 for line in checks)
    assert "ok  gradients of bptt: equal to autograd" in captured.err


def test_a_check_that_fails_is_told_and_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sabotaged() -> str:
        raise CheckFailed("[bold] 0.weight differs")

    monkeypatch.setattr("onward.train.selfcheck.CHECKS", (Check("gradients of bptt", sabotaged), CHECKS[1]))
    assert main(["doctor", "--json"]) == CHECK_FAILED
    captured = capsys.readouterr()
    checks = {line["what"]: line for line in last_line(captured.out)["findings"]}
    assert checks["check: gradients of bptt"]["found"] == "[bold] 0.weight differs"
    assert not checks["check: gradients of bptt"]["good"]
    assert checks["check: gradients of sltt"]["good"], "the others run all the same"
    assert "failed  gradients of bptt: [bold] 0.weight differs" in captured.err
    assert main(["doctor", "--no-check"]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["trian", "'train'"]),
        (["data", "lst"], ["lst", "'list'"]),
        (["train", "--rule", "opzoo"], ["opzoo", "'opzo'"]),
        (["train", "--epochs", "3"], ["--epochs", "--train.epochs"]),
        (["eval", "nowhere"], ["nowhere", "config.toml"]),
        (["--verison"], ["--verison", "'--version'"]),
        (["eval"], ["`onward eval` needs a value for RUN"]),
        (["doctor", "now"], ["'now'", "`onward doctor --help`"]),
        (["rules", "--json=maybe"], ["--json: maybe", "true or false"]),
        (["bench", "--threads", "two"], ["--threads: two", "a whole number"]),
        (["bench", "--figure"], ["`onward bench`", "--figure", "nothing was given"]),
        (["compare", "--rules", "dfa,dfa"], ["dfa,dfa"]),
        (["compare", "--seeds", "0,one"], ["--seeds: 0,one", "such as 0,1,2"]),
        (["compare", "--seeds", "1,1"], ["--seeds", "different"]),
        (["compare", "--threads", "0"], ["--threads: 0", "at least 1"]),
        (["compare", "--cores", "0"], ["0 cores", "at least 1"]),
        (["compare", "--launcher", "slrum"], ["slrum", "did you mean 'slurm'"]),
        (["compare", "--row", "BP"], ["--row", "a recipe that has rows"]),
        (["compare", "."], [". is not the folder of a comparison"]),
        (["compare", ".", "--rule", "bptt"], ["goes on as it was begun", "--rule"]),
        (["rules", "--jsn"], ["--jsn", "--json"]),
        (["train", "--data", "mine.csv"], ["mine.csv: no such file", ".npz"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == USER_ERROR
    captured = capsys.readouterr()
    assert not captured.out
    assert len(captured.err.strip().splitlines()) == 1
    assert all(word in captured.err for word in words)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 74 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 80 bytes"),
        RuntimeError("Storage size calculation overflowed with sizes=[1000000000000, 1000000000000]"),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("onward.cli.doctor.listing", fail)
    assert main(["doctor"]) == USER_ERROR
    captured = capsys.readouterr().err
    assert "not enough memory" in captured
    assert len(captured.splitlines()) == 1


def test_other_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("onward.cli.doctor.listing", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["doctor"])


def test_warnings_are_lines_without_source_code() -> None:
    code = "import warnings; from onward.cli import plain_warnings\nwith plain_warnings(): warnings.warn('take care')"
    shown = python(code)
    assert shown.stderr == "onward: warning: take care\n"


def test_an_unwritable_folder_is_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["train", *flags, "--train.out", "file/runs"]) == USER_ERROR
    said = capsys.readouterr().err
    assert "file/runs: no run folder can be made there" in said
    assert "--train.out" in said


def test_ctrl_c_saves_and_exits_130(flags: list[str]) -> None:
    command = "from onward.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    endless = [*flags, "--train.epochs", "100000", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, "train", *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    while process.poll() is None and not list(Path("runs").glob("*/metrics.jsonl")):
        sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED, err
    summary = last_line(out)
    assert summary["interrupted"]
    assert summary["run"] in err
    assert list(Path(summary["run"]).glob("checkpoints/step-*/COMMIT"))
    assert not (Path(summary["run"]) / "DONE").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workload", "evnt"], "did you mean 'event'"),
        (["--rule", "otttt"], "did you mean 'ottt'"),
        (["--precision", "f16"], "--precision f16 was given"),
        (["--rounds", "0"], "--rounds: 0 was given; expected a whole number at least 1"),
        (["--threads", "0"], "--threads: 0 was given"),
        (["--workload", ","], "',' was given; expected names"),
        (["--recordings", "nothing.npz"], "nothing.npz: no such file"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *argv]) == USER_ERROR
    assert words in capsys.readouterr().err


def test_bench_of_kernels_ends_with_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import kernels

    monkeypatch.setattr(kernels, "CASES", kernels.CASES[:1])
    assert main(["bench", "--kernel", "--json"]) == 0
    assert last_line(capsys.readouterr().out)["kernels"][0]["equal"]


def test_a_run_that_was_stopped_is_resumed(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    whole = ["train", *flags, "--train.epochs", "30", "--train.batch-size", "8"]
    assert main([*whole, "--json"]) == 0
    expected = last_line(capsys.readouterr().out)
    command = [sys.executable, "-m", "onward", *whole, "--train.out", "cut", "--train.threads", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(Path("cut").glob("*/checkpoints/step-*/COMMIT")) and process.poll() is None:
            sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    cut = last_line(out)
    assert cut["interrupted"]
    assert main(["resume", cut["run"]]) == 0
    shown = capsys.readouterr().out
    assert "going on after mini-batch" in shown or "test accuracy" in shown.lower()
    assert main(["resume", cut["run"], "--json"]) == 0
    assert last_line(capsys.readouterr().out)["fingerprint"] == expected["fingerprint"]


def test_a_run_that_cannot_be_resumed_is_refused_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["resume", str(tmp_path)]) == USER_ERROR
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(["resume"]) == USER_ERROR
    assert main(["resume", str(tmp_path), "--nonsense", "3"]) == USER_ERROR


def test_comparisons_are_for_one_process(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare", *flags]) == USER_ERROR
    assert "start it without torchrun" in capsys.readouterr().err


def test_the_same_command_again_goes_on_with_its_run(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["train", *flags, "--train.out", "here", "--continue", "--json"]
    assert main(told) == 0
    first = last_line(capsys.readouterr().out)
    monkeypatch.setattr("onward.train.launch.fit", None)  # a run that has ended is not trained again
    assert main(told) == 0
    assert last_line(capsys.readouterr().out) == first
