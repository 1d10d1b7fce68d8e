"""k mini-batches, a cut, the rest: the same bits as in one piece, for everything that is registered."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onward.credit import locals_, spatials, temporals
from onward.kernels.compiled import Use, using
from onward.neurons import neurons
from onward.optim import optimizers, schedules
from onward.rules import rules
from onward.solvers import solvers
from onward.train import memory, resume
from onward.weights import restrictions
from reference.learned import LEARNED, query_weights, weights
from reference.runs import assert_same_run, cut, straight

MLP = ["--model", "mlp", "--model.hidden", "16", "12"]
LOOP = ["--model", "feedback", "--model.layers", "16-12", "--model.back", "16"]
SMALLER = {"es": ["--rule.directions", "2"]}
CHOICES = [
    *(["--rule", name, *SMALLER.get(name, [])] for name in rules.names() if name != "query"),
    ["--rule", "query", "--rule.weights", "untrained", "--rule.directions", "2"],
    *(["--rule", "online", "--rule.temporal", name] for name in temporals.names()),
    *(["--rule", "online", "--rule.spatial", name] for name in spatials.names()),
    *(["--rule", "opzo", "--rule.local", name] for name in locals_.names()),
    *(["--neuron", name] for name in neurons.names()),
    *(["--optim", name] for name in optimizers.names() if name not in LEARNED),
    *(["--optim", name, "--optim.weights", "raw"] for name in LEARNED),
    ["--optim", "lstm", "--optim.weights", "normalised", "--optim.clamp", "0.1"],
    *(["--optim.schedule", name, "--optim.schedule.warmup", "0.3"] for name in schedules.names()),
    ["--rule", "ottt", "--rule.schedule", "step"],
    ["--rule", "opzo", "--rule.per", "step", "--rule.reads", "after"],
    ["--rule", "opzo", "--rule.baseline", "mean", "--rule.correct-start", "true", "--rule.warmup", "2"],
    ["--rule", "sltt", "--rule.error-delay", "1"],
    ["--rule", "opzo", "--rule.law", "gaussian"],
    *(["--rule", "ide", "--rule.solver", name] for name in solvers.names()),
    *(
        ["--rule", rule, *LOOP, "--model.restriction", name]
        for rule in ("ide", "spide")
        for name in restrictions.names()
    ),
    ["--rule", "dsr", "--model.norm", "batch"],
    ["--rule", "dsr", "--neuron", "dsr-lif"],
    ["--rule", "one-point", "--rule.directions", "2"],
    ["--rule", "guided", "--rule.alpha", "0.01", "--rule.directions", "2", "--optim", "adam"],
    ["--rule", "pseudo-zo", "--rule.window", "3", "--rule.decay", "0.9", "--optim.clip", "1"],
    ["--precision", "bf16"],
    ["--model.norm", "batch", "--rule", "sltt"],
    ["--model.norm", "ws"],
    ["--weights", "binary"],
    ["--weights", "binary", "--weights.scale", "learned", "--weights.bound", "0.02", "--model.norm", "ws"],
    ["--neuron.learn-threshold", "true", "--rule", "ottt"],
    ["--train.validation", "0.25"],
    ["--train.chunk", "1"],
    ["--optim.clip", "0.1"],
]


FILES: dict[str, Callable[[Path, str], str]] = {
    "--optim.weights": lambda folder, seen: weights(folder, input=seen, momenta=[0.5]),
    "--rule.weights": lambda folder, _: query_weights(folder),
}


@pytest.fixture(autouse=True)
def _no_meter_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring memory and waiting for the disk take most of the time of a run of fifteen mini-batches."""
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    x = rng.random((40, 12), dtype=np.float32)
    np.savez(tmp_path / "thirds.npz", x=x, y=x.reshape(40, 3, 4).sum(-1).argmax(-1))
    return [
        *("--data", str(tmp_path / "thirds.npz"), "--train.out", str(tmp_path / "runs")),
        *("--train.batch-size", "8", "--train.steps", "4", "--train.epochs", "2", "--optim.lr", "0.01"),
    ]


def with_weights(choice: list[str], folder: Path) -> list[str]:
    """The flags, with the file of a learned optimiser whose input they name, or of a query network."""
    for option, made in FILES.items():
        if option in choice:
            place = choice.index(option) + 1
            return [*choice[:place], made(folder, choice[place]), *choice[place + 1 :]]
    return choice


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: " ".join(c).replace("--", ""))
def test_a_cut_run_ends_as_a_whole_one(choice: list[str], flags: list[str], tmp_path: Path) -> None:
    flags = [*flags, *with_weights(choice, tmp_path), *([] if "--model" in choice else MLP)]
    whole, run = straight(flags), cut(flags, after=6)
    summary = resume(run)
    assert_same_run(Path(whole.run), run)
    assert summary.fingerprint == whole.fingerprint
    assert summary.test_accuracy == whole.test_accuracy


SHORT = ["--train.batch-size", "8", "--train.epochs", "2", "--data.limit", "32", "--data.limit-test", "16"]
PICTURES = ["--data", "mnist", "--data.crop", "2", "--data.flip", "true", "--model.hidden", "12"]
RECORDINGS = ["--data", "nmnist-sim", "--model.hidden", "12", "--train.steps", "4"]


@pytest.mark.parametrize("data", [PICTURES, RECORDINGS], ids=["augmented pictures", "recordings"])
def test_samples_come_in_the_same_order_and_shape(data: list[str], tmp_path: Path) -> None:
    flags = [*data, *SHORT, "--train.out", str(tmp_path)]
    whole, run = straight(flags), cut(flags, after=6)
    assert resume(run).fingerprint == whole.fingerprint
    assert_same_run(Path(whole.run), run)


def test_recordings_are_changed_in_the_same_way(tmp_path: Path) -> None:
    rng, count = np.random.default_rng(0), 40
    places = {name: rng.integers(0, high, 20 * count) for name, high in (("x", 6), ("y", 5), ("p", 2))}
    t, label = np.tile(np.arange(20) * 50, count), np.arange(count) % 3
    np.savez(tmp_path / "mine.npz", **places, t=t, offsets=np.arange(count + 1) * 20, label=label)
    flags = [
        *("--data", "events", "--data.file", str(tmp_path / "mine.npz"), "--data.height", "5", "--data.width", "6"),
        *("--data.event-drop", "any", "--data.event-shift", "2", "--model.hidden", "12", "--train.steps", "4"),
        *("--train.batch-size", "8", "--train.epochs", "2", "--train.out", str(tmp_path)),
    ]
    whole, run = straight(flags), cut(flags, after=5)
    assert resume(run).fingerprint == whole.fingerprint
    assert_same_run(Path(whole.run), run)


def test_kernels_sum_in_the_same_order(flags: list[str]) -> None:
    with using(Use.ALWAYS):
        whole, run = straight([*flags, *MLP]), cut([*flags, *MLP], after=6)
        assert resume(run).fingerprint == whole.fingerprint
