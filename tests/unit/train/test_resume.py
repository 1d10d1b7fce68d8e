"""Continuing a run: where it may, where it may not, and what a user is told."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from onward._tensors import CheckpointError
from onward.core.errors import ConfigError
from onward.core.group import ALONE
from onward.train import Event, RunFolder, Saved, Started, Warned, assemble, fit, memory, parse_tokens, resume
from onward.train.folder import DATA, ENV, METRICS
from onward.train.resume import restore
from onward.train.state import Fitted, Own, Sums
from reference.learned import weights
from reference.runs import after_calls, assert_same_run, counters, cut, straight


@pytest.fixture(autouse=True)
def _no_meter_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("after", [0, 1, 3, 4, 5, 7, 8])
def test_cut_anywhere_the_run_ends_as_a_whole_one(after: int, tokens: list[str]) -> None:
    whole, run = straight(tokens), cut(tokens, after)
    resume(run)
    assert_same_run(Path(whole.run), run)


def test_cut_again_and_again(tokens: list[str]) -> None:
    whole, run = straight(tokens), cut(tokens, 2)
    for _ in range(4):
        folder = RunFolder(run)
        parts, resolved = assemble(folder.config())
        parts, fitted = restore(folder, parts, resolved, lambda event: None)
        fit(parts, resolved.train, folder=folder, fitted=fitted, stop=after_calls(2))
    resume(run)
    assert_same_run(Path(whole.run), run)


def test_a_killed_process_costs_what_came_after_its_last_checkpoint(tokens: list[str]) -> None:
    """Lines of metrics that no checkpoint counts are written again, once."""
    flags = [*tokens, "--train.save-every", "2"]
    whole, run = straight(flags), cut(flags, 3)
    folder = RunFolder(run)
    folder.log({"epoch": 1, "loss": 0.0})
    with (run / METRICS).open("a") as file:
        file.write('{"half a l')
    resume(run)
    assert_same_run(Path(whole.run), run)


def test_checkpoints_inside_an_epoch(tokens: list[str]) -> None:
    events: list[Event] = []
    parts, resolved = assemble(parse_tokens([*tokens, "--train.save-every", "2", "--train.keep", "3"]))
    folder = RunFolder.create(Path(resolved.train.out), "x")
    fit(parts, resolved.train, folder=folder, on_event=events.append)
    batches = len(parts.loader)
    assert batches == 5
    assert [e.path.name for e in events if isinstance(e, Saved)] == [f"step-{n}" for n in (0, 2, 4, 5, 6, 8, 10)]
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["step-10", "step-6", "step-8"]


def test_a_run_without_a_checkpoint_starts_at_its_beginning(tokens: list[str]) -> None:
    whole, run, events = straight(tokens), cut(tokens, 0), list[Event]()
    for path in (run / "checkpoints").iterdir():
        (path / "COMMIT").unlink()
    resume(run, on_event=events.append)
    assert any(isinstance(e, Warned) and "starts at its beginning" in e.text for e in events)
    assert_same_run(Path(whole.run), run)


def test_a_damaged_checkpoint_is_passed_over_with_a_word(tokens: list[str]) -> None:
    flags = [*tokens, "--train.save-every", "2", "--train.keep", "3"]
    whole, run, events = straight(flags), cut(flags, 7), list[Event]()
    newest = RunFolder(run).newest(print)
    assert newest is not None
    assert newest.name == "step-6"
    (newest / "rule.safetensors").write_bytes(b"nonsense")
    resume(run, on_event=events.append)
    told = [e.text for e in events if isinstance(e, Warned)]
    assert "step-6: rule.safetensors is damaged; the checkpoint before it is used" in told[0]
    started = next(e for e in events if isinstance(e, Started))
    assert started.done == 5
    assert_same_run(Path(whole.run), run)


def test_a_finished_run_is_left_as_it_is(tokens: list[str]) -> None:
    whole = straight(tokens)
    before = {path: path.stat().st_mtime_ns for path in Path(whole.run).rglob("*") if path.is_file()}
    assert resume(Path(whole.run)) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name != ".lock")
    (Path(whole.run) / "DONE").write_text('{"run": 3}')
    with pytest.raises(CheckpointError, match="is no summary of a run"):
        resume(Path(whole.run))


def test_a_longer_run_needs_force(tokens: list[str]) -> None:
    whole = straight(tokens)
    longer = ["--train.epochs", "3"]
    with pytest.raises(ConfigError, match=r"train\.epochs was 2 and is 3.*--force"):
        resume(Path(whole.run), longer)
    summary = resume(Path(whole.run), longer, force=True)
    assert summary.epochs == 3
    assert RunFolder(Path(whole.run)).config().train.epochs == 3
    assert [line["epoch"] for line in RunFolder(Path(whole.run)).metrics()] == [1, 2, 3]


def test_another_network_does_not_fit_even_by_force(tokens: list[str]) -> None:
    run = cut(tokens, 2)
    with pytest.raises(CheckpointError, match=r"does not fit this configuration: .* is float32 \[16, 12\]"):
        resume(run, ["--model.hidden", "17"], force=True)


def test_changed_data_need_force(tokens: list[str], data_file: Path) -> None:
    run = cut(tokens, 2)
    arrays = dict(np.load(data_file))
    arrays["x"][0, 0] += 1e-3
    np.savez(data_file, **arrays)
    with pytest.raises(ConfigError, match=r"the train data have changed \(77 samples with hash \w{8}, now 77"):
        resume(run)
    events: list[Event] = []
    resume(run, force=True, on_event=events.append)
    assert any(isinstance(e, Warned) and "not as before: the train data" in e.text for e in events)


def test_another_learned_optimiser_needs_force(tokens: list[str], tmp_path: Path) -> None:
    file = Path(weights(tmp_path))
    learned = [*tokens, "--optim", "lstm", "--optim.weights", str(file)]
    whole, kept, run = straight(learned), file.read_bytes(), cut(learned, 2)
    record = json.loads((run / DATA).read_text())["optim.weights"]
    assert record == {"bytes": len(kept), "sha256": sha256(kept).hexdigest()}
    weights(tmp_path, scale=0.5)
    changed = (
        rf"the file of optim\.weights has changed \([\d,]+ bytes with hash {record['sha256'][:8]}, now [\d,]+ bytes"
    )
    with pytest.raises(ConfigError, match=changed + r".*--force"):
        resume(run)
    file.unlink()
    with pytest.raises(ConfigError, match=rf"--optim\.weights {file}: there is no such file.*put it back"):
        resume(run, force=True)
    file.write_bytes(kept)
    resume(run)
    assert_same_run(Path(whole.run), run)


def test_another_learned_optimiser_by_force(tokens: list[str], tmp_path: Path) -> None:
    run = cut([*tokens, "--optim", "lstm", "--optim.weights", weights(tmp_path)], 2)
    weights(tmp_path, scale=0.5)
    events: list[Event] = []
    resume(run, force=True, on_event=events.append)
    assert any(isinstance(e, Warned) and "not as before: the file of optim.weights" in e.text for e in events)
    assert resume(run).epochs == 2


def test_other_versions_need_force(tokens: list[str]) -> None:
    run = cut(tokens, 2)
    env = json.loads((run / ENV).read_text())
    env["packages"]["torch"], env["variables"] = "2.0.1", {"ONWARD_KERNELS": "never"}
    (run / ENV).write_text(json.dumps(env))
    with pytest.raises(ConfigError, match=r"packages\.torch was 2\.0\.1 and is .*ONWARD_KERNELS was never and is none"):
        resume(run)
    resume(run, force=True)
    assert json.loads((run / ENV).read_text())["packages"]["torch"] != "2.0.1"


def test_lost_metrics_need_force(tokens: list[str]) -> None:
    run = cut(tokens, 7)
    (run / METRICS).unlink()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl holds 0 of the 1 lines"):
        resume(run)
    resume(run, force=True)
    assert [line["epoch"] for line in RunFolder(run).metrics()] == [2]


def test_no_run_no_resume(tmp_path: Path) -> None:
    (tmp_path / "meta.toml").touch()
    with pytest.raises(ConfigError, match="go on with: onward meta-train --resume"):
        RunFolder.open(tmp_path)
    (tmp_path / "meta.toml").unlink()
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        resume(tmp_path)


def test_another_number_of_processes_is_told_and_loses_no_count(tokens: list[str]) -> None:
    run, events = cut(tokens, 2), list[Event]()
    env = json.loads((run / ENV).read_text())
    (run / ENV).write_text(json.dumps({**env, "processes": 2}))
    resume(run, on_event=events.append)
    told = [e.text for e in events if isinstance(e, Warned)]
    assert told == ["the run had 2 processes and has 1: sums are rounded in another order"]
    fitted = Fitted(ranks=[Own(Sums(1.5, 2, 3)), Own(Sums(0.5, 1, 4))])
    assert fitted.own(ALONE).epoch == Sums(2.0, 3, 7)
    assert len(fitted.ranks) == 1


def test_time_adds_up(tokens: list[str]) -> None:
    run = cut(tokens, 2)
    spent = counters(run).progress.seconds
    assert spent > 0
    assert resume(run).seconds > spent


def test_splits_are_recorded_with_their_hashes(tokens: list[str]) -> None:
    def record(*flags: str) -> dict:
        return json.loads((cut([*tokens, *flags], 0) / DATA).read_text())

    plain, held, other = (
        record(),
        record("--train.validation", "0.2"),
        record("--train.validation", "0.2", "--seed", "1"),
    )
    assert {split: found["samples"] for split, found in held.items()} == {"train": 62, "validation": 15, "test": 19}
    assert plain["test"] == held["test"]
    assert held["validation"] != other["validation"]
    assert plain == record()
