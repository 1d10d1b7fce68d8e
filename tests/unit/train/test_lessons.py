"""Lessons one after the other: heads, fresh optimisers, kept samples, tests of all tasks; going on when cut short."""

from __future__ import annotations

import os
from itertools import islice
from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
import torch

from onward.core import run_sequence
from onward.core.errors import ConfigError
from onward.core.glue import Heads, turn
from onward.data import Batch
from onward.train import Parts, RunFolder, Started, assemble, evaluate_run, memory, parse_tokens, resume, train
from onward.train.events import Event, TasksTested
from onward.train.leakage import BATCHES, leakage
from onward.train.lessons import learn, retention
from onward.train.parts import turned
from onward.train.rehearse import first_of_each, rehearse
from onward.train.source import evaluation_data
from onward.train.state import Fitted
from onward.train.update import Updater
from reference.runs import after_calls, assert_same_run, counters


@pytest.fixture(autouse=True)
def _no_meter_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """A tiny stream: 6 classes of 12 samples in 3 tasks."""
    rng = np.random.default_rng(0)
    y = np.arange(72) % 6
    x = (rng.random((72, 12)) * 0.3 + (np.arange(12)[None] // 2 == y[:, None])).astype(np.float32)
    np.savez(tmp_path / "six.npz", x=x, y=y, x_test=x[:24], y_test=y[:24])
    return [
        *("--data", str(tmp_path / "six.npz"), "--stream", "split", "--stream.tasks", "3", "--rule", "bptt"),
        *("--model.hidden", "8", "--train.steps", "3", "--train.batch-size", "5", "--train.epochs", "2"),
        *("--optim", "momentum", "--train.out", str(tmp_path / "runs")),
    ]


def cut(flags: list[str], after: int) -> Path:
    """The folder of a stream that was interrupted after so many looks at the stop."""
    parts, resolved = assemble(parse_tokens(flags))
    folder, fitted = RunFolder.create(Path(resolved.train.out), "cut"), Fitted()
    folder.begin(resolved, parts.interface, parts.data_record())
    start = Started("", 0, 0, 0, None)
    learn(parts, resolved, start, folder=folder, fitted=fitted, on_event=lambda event: None, stop=after_calls(after))
    assert fitted.interrupted
    return folder.path


@pytest.mark.parametrize("after", [0, 3, 10, 11, 12, 17, 21, 22, 31])
@pytest.mark.parametrize("more", [[], ["--stream.replay", "2", "--stream.replay-epochs", "2"]], ids=["plain", "replay"])
def test_cut_anywhere_a_stream_ends_as_a_whole_one(after: int, more: list[str], flags: list[str]) -> None:
    whole, run = train(parse_tokens([*flags, *more])), cut([*flags, *more], after)
    ended = resume(run)
    assert_same_run(Path(whole.run), run)
    assert whole.stream is not None
    assert ended.stream == whole.stream
    assert ended.fingerprint == whole.fingerprint
    assert counters(run).matrix == whole.stream.matrix


def test_tasks_are_tested_before_the_first_lesson_and_after_each(flags: list[str]) -> None:
    events: list[Event] = []
    summary = train(parse_tokens(flags), events.append)
    tested = [event for event in events if isinstance(event, TasksTested)]
    assert [event.lesson for event in tested] == [0, 1, 2, 3]
    assert summary.stream is not None
    assert [list(event.accuracies.values()) for event in tested] == summary.stream.matrix
    assert summary.test_accuracy == summary.stream.accuracy
    titles = [event.title for event in events if isinstance(event, Started)]
    assert titles[1].endswith("lesson 2 of 3: classes 2 to 3")
    assert (Path(summary.run) / "figures" / "tasks.svg").read_text().count("<rect") == 1 + 12


def test_leakage_is_what_a_lesson_changed_of_old_drives(flags: list[str]) -> None:
    parts, _ = assemble(parse_tokens(flags))
    first, readout = parts.net.synapses
    weight = parts.net.get_parameter(f"{first.name}.weight")
    x = torch.cat([batch.x.chunk(0, 1)[0] for batch in islice(parts.tests[0].epoch(0), BATCHES)]).flatten(1)
    with torch.no_grad():
        moved = torch.rand_like(weight)
        weight.add_(moved)
    found = leakage(parts.net, parts.starts, parts.tests[:1], parts.device, parts.chunk)
    assert found[readout.name] == 0
    expected = (x @ moved.T).norm() / (x @ (weight.detach() - moved).T).norm()
    assert found[first.name] == pytest.approx(float(expected), rel=1e-4)
    parts.starts.mark()
    assert leakage(parts.net, parts.starts, parts.tests[:1], parts.device, parts.chunk)[first.name] == 0
    assert leakage(parts.net, parts.starts, [], parts.device, parts.chunk) == {}


def test_protection_leaks_less_than_none(flags: list[str]) -> None:
    shared = [*flags, "--stream.head", "shared", "--train.epochs", "6", "--model.bias", "false"]
    gpm = ["--transform", "gpm", "--transform.fill", "0.9"]
    free, kept = (train(parse_tokens([*shared, *more])).stream for more in ([], gpm))
    assert free is not None
    assert kept is not None
    assert [len(s.leakage) for s in (free, kept)] == [3, 3]
    assert free.leakage[0] == {}
    for lesson in (1, 2):
        assert kept.leakage[lesson]["fc1"] < 0.7 * free.leakage[lesson]["fc1"]


@pytest.mark.parametrize("head", ["own", "shared"])
def test_each_task_is_tested_again_from_the_run(head: str, flags: list[str]) -> None:
    summary = train(parse_tokens([*flags, "--stream.head", head]))
    folder = RunFolder(Path(summary.run))
    assert summary.stream is not None
    again = [
        evaluate_run(folder, evaluation_data(folder.config(), None, None, [], task)).test_accuracy for task in (1, 2, 3)
    ]
    assert again == summary.stream.matrix[-1]
    for task, said in ((None, "no task was given"), (4, "--task 4 was given")):
        with pytest.raises(ConfigError, match=rf"{said}.*learned 3 of them.*--task 1 to 3"):
            evaluation_data(folder.config(), None, None, [], task)


def test_a_run_of_one_task_has_no_number(tokens: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--task 1 was given, and this run learned a single task"):
        evaluation_data(parse_tokens(tokens), None, None, [], 1)


def test_metrics_say_which_lesson_they_are_of(flags: list[str]) -> None:
    summary = train(parse_tokens(flags))
    assert [(m["lesson"], m["epoch"]) for m in RunFolder(Path(summary.run)).metrics()] == [
        (k, e) for k in range(3) for e in (1, 2)
    ]


def test_a_head_learns_in_its_own_lesson_only(flags: list[str]) -> None:
    parts, resolved = assemble(parse_tokens(flags))
    weight = parts.net.get_parameter("readout.weight")
    for lesson in range(3):
        before = weight.detach().clone()
        here = turned(parts, resolved, lesson)
        for batch in here.batches(0):
            turn(here.net, batch.task)
            _learn_once(here, batch)
        moved = (weight != before).any(1).view(3, 2).any(1).tolist()
        assert moved == [k == lesson for k in range(3)]


def _learn_once(parts: Parts, batch: Batch) -> None:
    run_sequence(parts.net, parts.rule, parts.objective, batch.x, batch.y, parts.sink, draws=parts.draws, ids=batch.ids)
    parts.update()


def test_only_weights_move_after_the_first_lesson(flags: list[str]) -> None:
    more = [*flags, "--model.norm", "batch", "--neuron.learn-threshold", "true"]
    parts, resolved = assemble(parse_tokens(more))
    turned(parts, resolved, 1)
    moving = {name for name, p in parts.net.named_parameters() if p.requires_grad}
    assert moving == {name for name, p in parts.net.named_parameters() if p.dim() > 1}
    assert not any(m.training for m in parts.net.modules() if isinstance(m, torch.nn.BatchNorm1d))
    free, resolved = assemble(parse_tokens([*more, "--stream.freeze", "false"]))
    turned(free, resolved, 1)
    assert all(p.requires_grad for p in free.net.parameters())


def test_every_lesson_starts_with_a_fresh_optimiser(flags: list[str]) -> None:
    parts, resolved = assemble(parse_tokens(flags))
    after = turned(parts, resolved, 1)
    assert after.updater.optimizer is not parts.updater.optimizer
    assert all(not m["momentum_buffer"].any() for m in after.updater.optimizer.state.values())


def test_joint_learning_is_tested_before_and_after(flags: list[str]) -> None:
    found = train(parse_tokens([*flags, "--stream.joint", "true"])).stream
    assert found is not None
    assert len(found.matrix) == 2
    assert found.backward is found.forward is None


def test_a_rule_that_updates_every_step_keeps_no_samples(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"stream.replay adds up the gradients.*leave out --rule.schedule step"):
        assemble(parse_tokens([*flags, "--rule", "ottt", "--rule.schedule", "step", "--stream.replay", "2"]))


def test_no_epoch_is_chosen_in_a_stream(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train.validation.*stream.*leave it out"):
        assemble(parse_tokens([*flags, "--train.validation", "0.1"]))


def test_h11_accuracy_and_forgetting_of_a_matrix_made_by_hand() -> None:
    found = retention(["a", "b", "c"], [[10, 20, 30], [90, 25, 30], [85, 95, 36], [70, 80, 99]])
    assert found.accuracy == 83
    assert found.backward == ((70 - 90) + (80 - 95)) / 2
    assert found.forward == ((25 - 20) + (36 - 30)) / 2
    constant = retention(["a", "b"], [[50, 50]] * 3)
    assert (constant.accuracy, constant.backward, constant.forward) == (50, 0, 0)
    alone = retention(["a"], [[10], [90]])
    assert (alone.accuracy, alone.backward, alone.forward) == (90, None, None)


def test_heads_show_the_outputs_of_one_task() -> None:
    heads, x = Heads(3, 2), torch.arange(6.0)[None]
    net = torch.nn.Sequential(torch.nn.Identity(), heads)
    for task in range(3):
        turn(net, task)
        assert net(x).tolist() == [[2.0 * task, 2.0 * task + 1]]


def test_kept_samples_are_learned_under_a_schedule_of_their_own(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, step = list[float](), Updater.__call__
    more = ["--stream.replay", "4", "--stream.replay-epochs", "3", "--stream.replay-batch", "4"]
    parts, resolved = assemble(parse_tokens([*flags, *more, "--stream.replay-lr", "0.5"]))
    monkeypatch.setattr(Updater, "__call__", lambda updater: rates.append(updater.lr) or step(updater))
    rehearse(turned(parts, resolved, 2), resolved)
    assert rates == [pytest.approx(0.5 * (1 + cos(pi * k / 6)) / 2) for k in range(6)]


def test_the_first_samples_of_every_class_are_kept() -> None:
    assert first_of_each(torch.tensor([2, 2, 0, 2, 0, 1]), 2).tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("transform", ["hlop", "gpm", "ewc"])
@pytest.mark.parametrize("rule", ["bptt", "ottt", "opzo", "dfa"])
def test_a_protected_stream_is_cut_and_continued_to_the_bit(transform: str, rule: str, flags: list[str]) -> None:
    more = [*flags, "--rule", rule, "--transform", transform, "--objective.kappa", "0", "--train.save-every", "2"]
    whole = train(parse_tokens(more))
    for after in (4, 12, 17):
        run = cut(more, after)
        assert resume(run).fingerprint == whole.fingerprint
        assert_same_run(Path(whole.run), run)


def test_protection_without_a_stream_is_refused(flags: list[str]) -> None:
    alone = [*flags[:2], *flags[6:]]
    for more in (alone, [*flags, "--stream.joint", "true"]):
        with pytest.raises(ConfigError, match=r"protects what earlier tasks taught.*one lesson only.*leave out"):
            assemble(parse_tokens([*more, "--transform", "hlop"]))


def test_heads_of_their_own_are_not_protected_and_shared_ones_are(flags: list[str]) -> None:
    own, _ = assemble(parse_tokens([*flags, "--transform", "hlop"]))
    shared, _ = assemble(parse_tokens([*flags, "--transform", "hlop", "--stream.head", "shared"]))
    for parts in (own, shared):
        parts.sink.begin_task(0)
    assert not any("readout" in name for name in own.sink.metrics())
    assert any("readout" in name for name in shared.sink.metrics())
