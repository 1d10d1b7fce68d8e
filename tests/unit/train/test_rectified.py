"""Thresholds that start from the activations of the ReLU network with the same weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from onward.core.errors import ConfigError
from onward.data.dataset import spread_rows
from onward.train import assemble, load_network, memory, parse_tokens
from onward.train.folder import RunFolder
from reference.runs import straight

RELU = ["--neuron", "relu", "--rule", "bptt", "--train.steps", "1", "--train.epochs", "1"]


@pytest.fixture(autouse=True)
def _no_meter_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize(("neuron", "share"), [("dsr-if", 1.0), ("dsr-lif", 0.05)])
def test_hybrid_training_starts_from_weights_and_activations(tokens: list[str], neuron: str, share: float) -> None:
    """The largest mean output of a neuron, V or V / dt, is the percentile."""
    first = RunFolder(Path(straight([*tokens, *RELU]).run))
    flags = ["--neuron", neuron, "--rule", "dsr", "--train.init-thresholds", "90", "--train.init-from", str(first.path)]
    parts, _ = assemble(parse_tokens([*tokens, *flags]))
    source = load_network(first, "cpu")
    assert torch.equal(parts.net.get_parameter("fc1.weight"), source.get_parameter("fc1.weight"))
    data, drawn = parts.loader.dataset, spread_rows(len(parts.loader.dataset), 5 * 16)
    with torch.no_grad():
        drive = source.get_submodule("fc1")(data.batch(drawn, 1).x.mean()).relu()
    expected = share * np.percentile(drive.double().numpy(), 90)
    assert parts.net.get_parameter("neuron1.threshold").item() == pytest.approx(expected, rel=1e-5)


def test_thresholds_that_the_source_learned_are_not_kept(tokens: list[str]) -> None:
    flags = [*tokens, "--neuron", "dsr-if", "--rule", "dsr", "--train.epochs", "1"]
    first = straight(flags)
    kept, _ = assemble(parse_tokens([*flags, "--train.init-from", first.run]))
    anew, _ = assemble(parse_tokens([*flags, "--train.init-from", first.run, "--train.init-thresholds", "99.9"]))
    assert not torch.equal(kept.net.get_parameter("neuron1.threshold"), anew.net.get_parameter("neuron1.threshold"))


def test_thresholds_need_somebody_who_learns_them(tokens: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"init_thresholds 99 was given, and no threshold of this network is learned"):
        assemble(parse_tokens([*tokens, "--train.init-thresholds", "99"]))
    first = straight([*tokens, *RELU])
    with pytest.raises(ConfigError, match=r"it lacks neuron1\.threshold"):
        assemble(parse_tokens([*tokens, "--neuron", "dsr-if", "--rule", "dsr", "--train.init-from", first.run]))
