"""The loop: what it tells, what it keeps, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from onward.core.errors import ConfigError, NonFiniteError, ShapeError
from onward.data import Subset
from onward.train import (
    BatchDone,
    Diverged,
    EpochDone,
    Event,
    RunConfig,
    RunFolder,
    Saved,
    Started,
    assemble,
    evaluate_run,
    fit,
    parse_tokens,
    train,
)
from onward.train.checkpoint import committed, read_state
from onward.train.folder import ENV
from onward.train.parts import check_device, hold_out
from onward.train.source import evaluation_data
from reference.runs import poisoned


def test_a_run_learns_and_leaves_its_folder(config: RunConfig) -> None:
    events: list[Event] = []
    summary = train(parse_tokens(["--train.epochs", "12", "--optim.lr", "0.02"], config), events.append)
    folder = RunFolder.open(Path(summary.run))
    done = json.loads((folder.path / "DONE").read_text())
    assert done["test_accuracy"] == summary.test_accuracy
    assert summary.test_accuracy is not None
    assert summary.test_accuracy > 60
    assert summary.reported == "epoch 12, the last"
    assert summary.peak_bytes > 0
    assert summary.samples_per_second > 0
    assert [line["epoch"] for line in folder.metrics()] == list(range(1, 13))
    assert isinstance(events[0], Started)
    epochs = [event for event in events if isinstance(event, EpochDone)]
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].score is not None
    assert epochs[-1].score.accuracy == summary.test_accuracy
    assert set(epochs[-1].rates) == {"neuron1"}


def test_the_resolved_configuration_decides_everything(config: RunConfig) -> None:
    resolved = RunFolder.open(Path(train(parse_tokens(["--train.steps", "none"], config)).run)).config()
    assert (resolved.train.steps, resolved.train.chunk) == (6, 6)


def test_the_same_seed_gives_the_same_numbers(config: RunConfig) -> None:
    first, second = train(config), train(config)
    assert first.run != second.run
    assert (first.test_loss, first.peak_bytes) == (second.test_loss, second.peak_bytes)
    assert train(parse_tokens(["--seed", "1"], config)).test_loss != first.test_loss


def test_the_same_seed_gives_the_same_bits_however_batches_are_prepared(config: RunConfig) -> None:
    first, second, helped = (train(parse_tokens(["--train.workers", n], config)) for n in ("0", "0", "2"))
    assert first.fingerprint == second.fingerprint == helped.fingerprint
    assert train(parse_tokens(["--seed", "1"], config)).fingerprint != first.fingerprint


def test_the_number_of_threads_is_recorded_and_used_again(config: RunConfig) -> None:
    run = RunFolder(Path(train(config).run))
    assert run.config().train.threads == torch.get_num_threads() == run.record(ENV)["threads"]


def test_chunks_change_no_result(config: RunConfig) -> None:
    whole, single = (train(parse_tokens(["--train.chunk", chunk], config)) for chunk in ("4", "1"))
    assert whole.test_loss == pytest.approx(single.test_loss, rel=1e-4)


@pytest.mark.parametrize("rule", ["bptt", "ottt", "dfa", "dkp"])
def test_rules_train_with_their_learned_tensors_saved(rule: str, config: RunConfig) -> None:
    summary = train(parse_tokens(["--rule", rule, "--train.epochs", "1"], config))
    assert (RunFolder(Path(summary.run)).trained() / "rule.safetensors").is_file()


def test_updates_at_every_step(config: RunConfig) -> None:
    online = train(parse_tokens(["--rule", "ottt", "--rule.schedule", "step"], config))
    assert online.test_loss != train(parse_tokens(["--rule", "ottt"], config)).test_loss


def test_held_out_data_choose_the_epoch(config: RunConfig) -> None:
    flags = ["--train.epochs", "30", "--train.validation", "0.25", "--train.patience", "2", "--optim.lr", "0.03"]
    summary = train(parse_tokens(flags, config))
    folder = RunFolder(Path(summary.run))
    scores = [line["score"]["accuracy"] for line in folder.metrics()]
    best = int(np.argmax(scores)) + 1
    assert all(line["judged_on"] == "validation" for line in folder.metrics())
    assert summary.epochs == best + 2 or summary.epochs == 30
    assert summary.reported == f"epoch {best}, the best on held-out data"
    assert read_state(folder.trained())["progress"]["epoch"] == best


def test_held_out_samples_are_not_trained_on(config: RunConfig) -> None:
    parts, _ = assemble(parse_tokens(["--train.validation", "0.25"], config))
    assert parts.validation is not None
    seen = torch.cat([batch.x.chunk(0, 1)[0] for batch in parts.loader.epoch(0)])
    held = torch.cat([batch.x.chunk(0, 1)[0] for batch in parts.validation.epoch(0)])
    assert len(seen) + len(held) == 77
    assert not (seen[:, None] == held[None]).all(-1).any()
    first, second = (hold_out(parts.loader.dataset, 0.5, 3)[1] for _ in range(2))
    assert isinstance(first, Subset)
    assert isinstance(second, Subset)
    assert torch.equal(first.rows, second.rows)


def test_evaluation_as_often_as_asked(config: RunConfig) -> None:
    summary = train(parse_tokens(["--train.epochs", "5", "--train.eval-every", "2"], config))
    scored = [line["epoch"] for line in RunFolder(Path(summary.run)).metrics() if line["score"]]
    assert scored == [2, 4, 5]


def test_no_epochs_is_a_test_of_the_start(config: RunConfig) -> None:
    summary = train(parse_tokens(["--train.epochs", "0"], config))
    assert summary.test_accuracy is not None
    assert summary.reported == "epoch 0, the last"


def test_stopping_keeps_what_was_learned(config: RunConfig, tmp_path: Path) -> None:
    parts, resolved = assemble(config)
    folder = RunFolder.create(tmp_path, "stopped")
    events: list[Event] = []
    fitted = fit(
        parts,
        resolved.train,
        folder=folder,
        on_event=events.append,
        stop=lambda: sum(isinstance(event, BatchDone) for event in events) == 3,
    )
    assert fitted.interrupted
    saved = [event.path for event in events if isinstance(event, Saved)]
    assert read_state(saved[-1])["progress"]["updates"] == 3
    assert committed(folder.trained())


@pytest.mark.parametrize("rule", ["opzo", "bptt"])
def test_nan_in_the_data_stops_with_its_place(rule: str, config: RunConfig, tmp_path: Path) -> None:
    parts, resolved = assemble(parse_tokens(["--rule", rule], config))
    folder = RunFolder.create(tmp_path, "poisoned")
    with pytest.raises(Diverged, match="epoch 2, mini-batch 3") as caught:
        fit(poisoned(parts, (1, 2)), resolved.train, folder=folder)
    assert isinstance(caught.value.cause, NonFiniteError)
    assert "neuron1" in caught.value.cause.where
    assert caught.value.cause.step == 2
    assert caught.value.saved is not None
    assert str(caught.value.saved) in str(caught.value)
    counters = read_state(caught.value.saved)["progress"]
    assert (counters["epoch"], counters["batch"]) == (1, 2)
    assert parts.trained.finite()


def test_overflowing_parameters_stop_with_the_state_before(config: RunConfig) -> None:
    with pytest.raises(Diverged, match="mini-batch 1") as caught:
        train(parse_tokens(["--optim.lr", "1e39"], config))
    assert isinstance(caught.value.cause, NonFiniteError)
    assert caught.value.saved is not None
    assert caught.value.saved.name == "step-0"


def test_memory_of_an_online_rule_does_not_grow_with_time(config: RunConfig) -> None:
    def peak(rule: str, steps: int) -> int:
        flags = ["--rule", rule, "--train.steps", str(steps), "--train.chunk", "4", "--train.epochs", "1"]
        return train(parse_tokens(flags, config)).peak_bytes

    for rule in ("ottt", "sltt", "opzo"):
        assert peak(rule, 128) <= 1.05 * peak(rule, 16)
    assert peak("bptt", 128) > 4 * peak("bptt", 16)


def test_a_run_is_evaluated_on_its_own_and_on_other_data(config: RunConfig, data_file: Path, tmp_path: Path) -> None:
    summary = train(config)
    folder = RunFolder.open(Path(summary.run))
    own = evaluate_run(folder, evaluation_data(folder.config(), None, None, []))
    assert own.test_accuracy == summary.test_accuracy
    assert own.test_loss == pytest.approx(summary.test_loss)
    assert own.interval[0] < own.test_accuracy < own.interval[1] or own.test_accuracy in (0, 100)
    everything = evaluate_run(folder, evaluation_data(folder.config(), str(data_file), None, []))
    assert everything.samples == 96
    np.savez(tmp_path / "wide.npz", x=np.zeros((3, 13), np.float32), y=[0, 1, 2])
    with pytest.raises(ShapeError, match=r"\[13\]; this network was trained on \[12\]"):
        evaluate_run(folder, evaluation_data(folder.config(), str(tmp_path / "wide.npz"), None, []))
    with pytest.raises(ConfigError, match="splits train and test"):
        evaluation_data(folder.config(), None, "validation", [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_absent_device_is_refused_with_the_fix(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="use --device cpu"):
        train(parse_tokens(["--device", "cuda"], config))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda(config: RunConfig) -> None:
    assert check_device("cuda") == "cuda"
    summary = train(parse_tokens(["--device", "cuda"], config))
    assert summary.peak_bytes > 0
    assert summary.test_loss == pytest.approx(train(config).test_loss, rel=1e-2)
