"""Checkpoints are whole or absent, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from onward.optim import optimizers, parameter_groups
from onward.train import checkpoint
from onward.train.checkpoint import CheckpointError, Trained


class Feedback(nn.Module):
    """A rule with a buffer and a learned tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("m", torch.randn(3, 2))
        self.learned = nn.Parameter(torch.randn(2))


def trained(name: str = "adam", updates: int = 3) -> Trained:
    net, rule = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), Feedback()
    optimizer = optimizers.build({"name": name, "lr": 0.1}, parameter_groups(net, rule, 0.0, False))
    for _ in range(updates):
        (net(torch.randn(5, 4)).square().sum() + rule.learned.square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Trained(net, rule, optimizer)


@pytest.mark.parametrize("name", optimizers.names())
def test_everything_comes_back(name: str, tmp_path: Path) -> None:
    here, there = trained(name), trained(name, updates=1)
    path = checkpoint.write(tmp_path / "step-3", here, {"epoch": 1})
    checkpoint.read_modules(path, there.net, there.rule)
    checkpoint.read_optimizer(path, there.optimizer)
    for part, tensors in here.tensors().items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, there.tensors()[part][key]), (part, key)
    assert checkpoint.read_counters(path) == {"epoch": 1}


def test_the_next_update_is_the_same(tmp_path: Path) -> None:
    here, there = trained(), trained(updates=1)
    path = checkpoint.write(tmp_path / "step-3", here, {})
    checkpoint.read_modules(path, there.net, there.rule)
    checkpoint.read_optimizer(path, there.optimizer)
    x = torch.randn(5, 4)
    for one in (here, there):
        one.net(x).square().sum().backward()
        one.optimizer.step()
    assert torch.equal(here.net.get_parameter("0.weight"), there.net.get_parameter("0.weight"))


def test_a_write_that_stops_midway_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_synced = checkpoint._write_synced

    def full_disk(path: Path, content: bytes) -> None:
        if path.name == checkpoint.HASHES:
            raise OSError(28, "No space left on device", str(path))
        write_synced(path, content)

    monkeypatch.setattr(checkpoint, "_write_synced", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / "step-1", trained(), {})
    assert not (tmp_path / "step-1").exists()
    assert checkpoint.latest(tmp_path) is None
    monkeypatch.undo()
    assert checkpoint.latest(checkpoint.write(tmp_path / "step-1", trained(), {}).parent) == tmp_path / "step-1"


def test_a_folder_without_its_marker_is_written_anew(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-1", trained(), {"epoch": 0})
    (path / checkpoint.COMMIT).unlink()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.read_counters(path)
    assert checkpoint.read_counters(checkpoint.write(path, trained(), {"epoch": 1})) == {"epoch": 1}


@pytest.mark.parametrize("name", ["network.safetensors", "rule.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("cut", [True, False])
def test_damage_is_noticed(name: str, cut: bool, tmp_path: Path) -> None:
    here = trained()
    path = checkpoint.write(tmp_path / "step-1", here, {})
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content[: len(content) // 2] if cut else content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        checkpoint.read_modules(path, here.net)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-1", trained(), {})
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        checkpoint.read_modules(path, nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)))


def test_the_latest_is_the_one_of_most_steps(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint.write(tmp_path / f"step-{step}", trained(), {})
    assert checkpoint.latest(tmp_path) == tmp_path / "step-10"


def test_finite_sees_every_part() -> None:
    here = trained()
    assert here.finite()
    here.rule.get_buffer("m")[0, 0] = torch.inf
    assert not here.finite()
