"""NaN and infinity in the middle of training, and layers that fall silent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onward.cli import USER_ERROR, main
from onward.core import GradSink, run_sequence
from onward.data import Batch
from onward.optim import LearnedDivergence
from onward.train import (
    BatchDone,
    Diverged,
    EpochDone,
    Event,
    Parts,
    RunConfig,
    RunFolder,
    Warned,
    assemble,
    fit,
    parse_tokens,
    train,
)
from onward.train.alarms import alarms
from onward.train.checkpoint import read_modules, read_state
from onward.train.guard import MOST_IN_A_ROW
from onward.train.resume import restore
from reference.learned import weights
from reference.runs import poisoned


@pytest.mark.parametrize("rule", ["opzo", "bptt", "ottt"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_poisoned_batch_is_left_out_and_leaves_no_trace(rule: str, norm: str, config: RunConfig) -> None:
    flags = ["--rule", rule, "--model.norm", norm, "--train.on-nonfinite", "skip", "--train.epochs", "1"]
    parts, resolved = assemble(parse_tokens(flags, config))
    events: list[Event] = []
    fit(poisoned(parts, (0, 1)), resolved.train, on_event=events.append)
    done = next(e for e in events if isinstance(e, EpochDone))
    assert done.skipped == 1
    assert done.loss > 0
    assert parts.trained.finite()
    assert any("a mini-batch was left out: NaN or infinity in" in e.text for e in events if isinstance(e, Warned))
    other, _ = assemble(parse_tokens(flags, config))
    for number, batch in enumerate(poisoned(other).batches(0)):
        if number != 1:
            learn(other, number, batch)
    assert parts.trained.fingerprint() == other.trained.fingerprint()


def learn(parts: Parts, number: int, batch: Batch) -> None:
    """A mini-batch by hand, without a guard."""
    parts.updater.begin(number)
    run_sequence(
        parts.net, parts.rule, parts.objective, batch.x, batch.y, parts.sink,
        draws=parts.draws, ids=batch.ids, sequence=number, chunk=parts.chunk,
    )  # fmt: skip
    parts.updater()


def test_too_many_in_a_row_stop(config: RunConfig) -> None:
    flags = ["--train.on-nonfinite", "skip", "--train.batch-size", "4", "--train.epochs", "1"]
    parts, resolved = assemble(parse_tokens(flags, config))
    with pytest.raises(Diverged, match=f"mini-batch {3 + MOST_IN_A_ROW}"):
        fit(poisoned(parts, *((0, number) for number in range(2, 20))), resolved.train)


def test_weights_that_overflow_stop_whatever_was_asked_for(config: RunConfig) -> None:
    flags = ["--train.on-nonfinite", "skip", "--optim.lr", "1e39"]
    parts, resolved = assemble(parse_tokens(flags, config))
    with pytest.raises(Diverged, match="mini-batch 1"):
        fit(parts, resolved.train)


def test_products_fall_back_to_full_precision_and_stay_there(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = GradSink._read
    broken = lambda sink, name, weight: read(sink, name, weight) * (1 if sink.products is None else torch.nan)  # noqa: E731
    monkeypatch.setattr(GradSink, "_read", broken)
    flags = ["--precision", "bf16", "--train.on-nonfinite", "f32", "--train.epochs", "1"]
    parts, resolved = assemble(parse_tokens(flags, config))
    folder, events = RunFolder.create(tmp_path, "x"), list[Event]()
    folder.begin(resolved, parts.interface, parts.data_record())
    fit(parts, resolved.train, folder=folder, on_event=events.append)
    told = [e.text for e in events if isinstance(e, Warned)]
    assert [text for text in told if text.startswith("products are computed in float32 from here on: NaN")] == told[:1]
    plain, resolved = assemble(parse_tokens(["--train.epochs", "1"], config))
    fit(plain, resolved.train)
    assert parts.trained.fingerprint() == plain.trained.fingerprint()
    again, resolved = assemble(parse_tokens(["--train.epochs", "2"], folder.config()))
    again, fitted = restore(folder, again, resolved, print)
    fit(again, resolved.train, fitted=fitted)
    assert again.grads.products is None


def test_full_precision_that_is_not_finite_stops(config: RunConfig) -> None:
    parts, resolved = assemble(parse_tokens(["--train.on-nonfinite", "f32"], config))
    with pytest.raises(Diverged, match="mini-batch 2"):
        fit(poisoned(parts, (0, 1)), resolved.train)


def diverging(folder: Path, scale: float) -> list[str]:
    """Flags with an optimiser that nobody trained and whose updates are too long by ``scale``."""
    return ["--rule", "bptt", "--optim", "lstm", "--optim.weights", weights(folder, scale=scale)]


def test_a_learned_optimiser_that_diverges_stops_with_the_state_before(config: RunConfig, tmp_path: Path) -> None:
    parts, resolved = assemble(parse_tokens([*diverging(tmp_path, 3e3), "--optim.most-growth", "2"], config))
    folder, after = RunFolder.create(tmp_path, "x"), [(0, parts.trained.fingerprint())]

    def note(event: Event) -> None:
        if isinstance(event, BatchDone):
            after.append((event.batch, parts.trained.fingerprint()))

    with pytest.raises(Diverged, match=r"the learned optimiser diverges: .*; lower --optim\.lr") as caught:
        fit(parts, resolved.train, folder=folder, on_event=note)
    batch, fingerprint = after[-1]
    assert 0 < batch < len(parts.loader)
    assert isinstance(caught.value.cause, LearnedDivergence)
    assert str(caught.value).startswith(f"epoch 1, mini-batch {batch + 1}: ")
    assert str(caught.value).endswith(f"the last good state is in {caught.value.saved}")
    assert caught.value.saved is not None
    assert read_state(caught.value.saved)["progress"]["batch"] == batch
    again, _ = assemble(parse_tokens(diverging(tmp_path, 3e3), config))
    read_modules(caught.value.saved, again.net, again.rule)
    assert parts.trained.fingerprint() == again.trained.fingerprint() == fingerprint


def test_updates_that_diverge_are_left_out_where_that_was_asked_for(config: RunConfig, tmp_path: Path) -> None:
    flags = [*diverging(tmp_path, 1e6), "--train.on-nonfinite", "skip", "--train.epochs", "1"]
    parts, resolved = assemble(parse_tokens(flags, config))
    before, events = parts.trained.fingerprint(), list[Event]()
    fit(parts, resolved.train, on_event=events.append)
    assert next(e for e in events if isinstance(e, EpochDone)).skipped == len(parts.loader)
    assert parts.trained.fingerprint() == before


def test_the_command_tells_of_a_learned_optimiser_that_diverges(
    tokens: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *tokens, *diverging(tmp_path, 1e6)]) == USER_ERROR
    assert "onward: epoch 1, mini-batch 1: the learned optimiser diverges: an update has" in capsys.readouterr().err


def test_a_dead_layer_raises_an_alarm_in_the_log(tokens: list[str]) -> None:
    events: list[Event] = []
    summary = train(parse_tokens([*tokens, "--neuron.threshold", "1e6"]), events.append)
    told = [e.text for e in events if isinstance(e, Warned)]
    assert sum("layer neuron1 is silent" in text for text in told) == 1
    assert all("layer neuron1 is silent" in line["alarms"][0] for line in RunFolder(Path(summary.run)).metrics())


def test_alarms_name_what_is_silent_and_what_is_saturated() -> None:
    assert list(alarms({"a": 0.5, "b": 0.001, "c": 0.94})) == []
    silent, saturated = alarms({"a": 0.0, "b": 0.5, "c": 0.99})
    assert "layer a is silent (0.0000 spikes" in silent
    assert "layer c is saturated (0.9900 spikes" in saturated
