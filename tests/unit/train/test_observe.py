"""What is noted after an epoch: right by slow references, and without a trace in the training."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from onward.core.run import outputs
from onward.rules import rules
from onward.train import Parts, RunConfig, RunFolder, assemble, fit, memory, parse_tokens
from onward.train.alignment import FIRST, _gradients, compared
from onward.train.observe import BINS, layers
from onward.train.samples import picture, shown
from onward.train.state import Fitted


@pytest.fixture(autouse=True)
def _no_meter_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    y = np.arange(48) % 3
    x = (rng.random((48, 9)) * 0.6 + (np.arange(9)[None] // 3 == y[:, None])).astype(np.float32)
    np.savez(tmp_path / "three.npz", x=x, y=y, x_test=x[:24], y_test=y[:24])
    return [
        *("--data", str(tmp_path / "three.npz"), "--model.hidden", "7", "--train.steps", "4"),
        *("--train.batch-size", "8", "--train.epochs", "2", "--train.out", str(tmp_path / "runs")),
        *("--probe.samples", "10"),
    ]


def parts_of(*tokens: str) -> tuple[Parts, RunConfig]:
    return assemble(parse_tokens(tokens))


def credit(parts: Parts, config: RunConfig, count: int = 2) -> dict:
    batch = parts.looked_at()
    assert batch is not None
    return compared(parts.net, parts.rule, config.rule, parts.objective, batch, parts.draws, parts.chunk, count)


def test_membranes_and_rates_are_those_of_a_plain_forward_pass(flags: list[str]) -> None:
    parts, _ = parts_of(*flags)
    batch, potentials, spikes = parts.looked_at(), [], []
    assert batch is not None
    node = parts.net.neurons[0]

    def watch(record) -> None:
        potentials.append(record.firings[node.index].potential)
        spikes.append(record.firings[node.index].out > 0)

    parts.net.eval()
    for _ in outputs(parts.net, batch.x, chunk=4, watch=watch):
        pass
    found = layers(parts.net, batch, 4)[node.name]
    u, fired = torch.cat(potentials), torch.cat(spikes).float()
    rates = fired.mean((0, 1))
    assert found["rate"] == pytest.approx(float(fired.mean()))
    assert found["dead"] == pytest.approx(float((rates == 0).float().mean()))
    assert found["saturated"] == pytest.approx(float((rates >= 0.95).float().mean()))
    edges = torch.linspace(found["low"], found["high"], BINS + 1)
    inside = torch.histogram(u.clamp(found["low"], found["high"]).flatten(), edges).hist
    assert sum(found["counts"]) == u.numel()
    assert np.abs(np.array(found["counts"]) - inside.numpy()).sum() <= 2  # on an edge, rounding decides
    middle = found["counts"].index(max(found["counts"]))
    width = (found["high"] - found["low"]) / BINS
    centre = torch.tensor(found["low"] + (middle + 0.5) * width)
    assert found["slopes"][middle] == pytest.approx(float(node.module.surrogate(centre - 1.0)), rel=0.2)


def test_back_propagation_agrees_with_itself(flags: list[str]) -> None:
    parts, config = parts_of(*flags, "--rule", "online")
    for measures in credit(parts, config)["gradients"]["bp"].values():
        assert measures["cosine"] == pytest.approx(1)
        assert measures["settled"] == pytest.approx(1)
        assert measures["ratio"] == pytest.approx(1)
        assert measures["bias"] == pytest.approx(0, abs=1e-6)
        assert measures["deviation"] == pytest.approx(0, abs=1e-6)
    parts, config = parts_of(*flags, "--rule", "bptt")
    assert all(m["cosine"] == pytest.approx(1) for m in credit(parts, config)["gradients"]["bptt"].values())


def test_fixed_feedback_has_no_spread_and_noise_has(flags: list[str]) -> None:
    found = credit(*parts_of(*flags, "--rule", "dfa"))["gradients"]["bp"]
    assert all(measures["deviation"] == 0 for measures in found.values())
    assert found["readout"]["cosine"] == pytest.approx(1)
    noisy = credit(*parts_of(*flags, "--rule", "zo"), 3)["gradients"]["bp"]
    assert any(measures["deviation"] > 0 for measures in noisy.values())


def test_feedback_that_is_the_readout_transposed_is_aligned(flags: list[str]) -> None:
    parts, config = parts_of(*flags, "--rule", "dfa")
    (feedback,) = parts.rule.direct_feedback().values()
    weight = parts.net.get_parameter("readout.weight")
    assert credit(parts, config)["feedback"]["neuron1"] < 0.95
    feedback.copy_(weight.detach().T)
    assert credit(parts, config)["feedback"]["neuron1"] == pytest.approx(1)


@pytest.mark.parametrize("rule", ["opzo", "dkp", "zo", "bptt", "dsr", "eprop", "mezo"])
def test_looking_leaves_no_trace(flags: list[str], rule: str) -> None:
    parts, config = parts_of(*flags, "--rule", rule, *(() if rule != "dsr" else ("--objective", "readout")))
    before = {k: v.clone() for k, v in {**parts.net.state_dict(), **parts.rule.state_dict()}.items()}
    torch.manual_seed(3)
    credit(parts, config)
    parts.observed(1)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    after = {**parts.net.state_dict(), **parts.rule.state_dict()}
    assert [name for name in before if not before[name].equal(after[name]) and not before[name].isnan().all()] == []
    assert all(p.grad is None for p in parts.net.parameters())
    assert parts.net.training


def test_what_is_compared_is_what_the_rule_deposits(flags: list[str]) -> None:
    parts, config = parts_of(*flags, "--rule", "ottt")
    batch = parts.looked_at()
    assert batch is not None
    found = credit(parts, config)["gradients"]["bptt"]["fc1"]["cosine"]
    exact = rules.build("bptt")
    exact.bind(parts.net, parts.objective, batch.x, parts.draws)
    flat = [
        _gradients(parts.net, rule, parts.objective, batch, parts.draws, FIRST, 4)["fc1"]
        for rule in (parts.rule, exact)
    ]
    assert found == pytest.approx(float(torch.cosine_similarity(*flat, dim=0)))


def test_training_is_the_same_to_the_bit_whoever_looks(flags: list[str]) -> None:
    def trained(*tokens: str) -> str:
        parts, config = parts_of(*flags, *tokens)
        folder = RunFolder.create(Path(config.train.out), "looked")
        folder.begin(config, parts.interface, parts.data_record())
        fit(parts, config.train, folder=folder, fitted=Fitted())
        return parts.trained.fingerprint()

    assert trained("--probe.samples", "0") == trained("--probe.credit-every", "1")


def test_epochs_and_test_say_what_they_saw(flags: list[str]) -> None:
    parts, config = parts_of(*flags, "--probe.credit-every", "2")
    folder = RunFolder.create(Path(config.train.out), "seen")
    folder.begin(config, parts.interface, parts.data_record())
    fit(parts, config.train, folder=folder)
    first, second = folder.metrics()
    assert set(first["observed"]) == {"samples", "layers"}
    assert first["observed"]["samples"] == 10
    assert second["observed"]["credit"]["draws"] == 4
    confusion = folder.record("confusion.json")
    right = sum(row[k] for k, row in enumerate(confusion["counts"]))
    assert sum(map(sum, confusion["counts"])) == second["score"]["samples"] == 24
    assert 100 * right / 24 == pytest.approx(second["score"]["accuracy"])


def test_shown_samples_have_inputs_spikes_and_potentials(flags: list[str]) -> None:
    parts, _ = parts_of(*flags)
    batch = parts.looked_at()
    assert batch is not None
    for sample in shown(parts.net, parts.objective, batch, 2):
        (layer,) = sample["layers"]
        assert layer["of"] == 7
        assert all(t in range(4) for times in layer["spikes"] for t in times)
        assert [len(trace) for trace in layer["potentials"]] == [4, 4]
        for neuron, trace in zip(layer["traced"], layer["potentials"], strict=True):
            above = [t for t, u in enumerate(trace) if u >= layer["level"]]
            assert above == layer["spikes"][neuron]
    assert picture(batch.x, 0)["kind"] == "map"
