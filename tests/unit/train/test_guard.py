"""NaN and infinity in the middle of training, and layers that fall silent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onward.core import GradSink, run_sequence
from onward.data import Batch
from onward.train import (
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
from onward.train.guard import MOST_IN_A_ROW
from onward.train.resume import restore
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
