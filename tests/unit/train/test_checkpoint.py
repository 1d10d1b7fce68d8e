"""Checkpoints are whole or absent, and damage is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onward._tensors import CheckpointError
from onward.optim import optimizers, parameter_groups
from onward.train import checkpoint
from onward.train.checkpoint import Trained
from onward.train.state import Fitted, Own, Progress, Sums
from reference.learned import choice


class Feedback(nn.Module):
    """A rule with a buffer and a learned tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("m", torch.randn(3, 2))
        self.learned = nn.Parameter(torch.randn(2))


ADAM: dict[str, Any] = {"name": "adam"}


def trained(options: dict[str, Any] = ADAM, updates: int = 3) -> Trained:
    net, rule = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), Feedback()
    optimizer = optimizers.build({**options, "lr": 0.1}, parameter_groups(net, rule, 0.0, False))
    for _ in range(updates):
        (net(torch.randn(5, 4)).square().sum() + rule.learned.square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Trained(net, rule, optimizer)


@pytest.mark.parametrize("name", optimizers.names())
def test_everything_comes_back(name: str, tmp_path: Path) -> None:
    options = choice(name, tmp_path)
    here, there = trained(options), trained(options, updates=1)
    path = checkpoint.write(tmp_path / "step-3", here, {"epoch": 1})
    checkpoint.read_modules(path, there.net, there.rule)
    checkpoint.read_optimizer(path, there.optimizer)
    for part, tensors in here.tensors().items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, there.tensors()[part][key]), (part, key)
    assert checkpoint.read_state(path) == {"epoch": 1}


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


@pytest.mark.parametrize("name", sorted({*checkpoint.FILES, checkpoint.HASHES, checkpoint.COMMIT}))
def test_a_write_that_stops_midway_leaves_no_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_synced = checkpoint.write_synced

    def full_disk(path: Path, content: bytes) -> None:
        if path.name == name:
            raise OSError(28, "No space left on device", str(path))
        write_synced(path, content)

    monkeypatch.setattr(checkpoint, "write_synced", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / "step-1", trained(), {})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert checkpoint.newest_first(checkpoint.write(tmp_path / "step-1", trained(), {}).parent) == [tmp_path / "step-1"]


def test_a_folder_without_its_marker_is_written_anew(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-1", trained(), {"epoch": 0})
    (path / checkpoint.COMMIT).unlink()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.read_state(path)
    assert checkpoint.read_state(checkpoint.write(path, trained(), {"epoch": 1})) == {"epoch": 1}


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


def test_the_newest_is_the_one_of_most_steps(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint.write(tmp_path / f"step-{step}", trained(), {})
    (tmp_path / "step-x").mkdir()
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == ["step-10", "step-9", "step-2"]


def test_the_same_state_is_written_once_and_another_in_its_place(tmp_path: Path) -> None:
    here = trained()
    path = checkpoint.write(tmp_path / "step-1", here, {"epoch": 0})
    marker = (path / checkpoint.COMMIT).stat().st_mtime_ns
    checkpoint.write(path, here, {"epoch": 0})
    assert (path / checkpoint.COMMIT).stat().st_mtime_ns == marker
    checkpoint.write(path, here, {"epoch": 1})
    assert checkpoint.read_state(path) == {"epoch": 1}
    assert [other.name for other in tmp_path.iterdir()] == ["step-1"]


def rehash(path: Path) -> None:
    """Makes a forged checkpoint agree with its own hashes."""
    hashes = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in checkpoint.FILES}
    (path / checkpoint.HASHES).write_text(json.dumps(hashes))
    (path / checkpoint.COMMIT).write_text(hashlib.sha256((path / checkpoint.HASHES).read_bytes()).hexdigest())


def header(value: Any) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text


HUGE = {f"t{i}": {"dtype": "F32", "shape": [], "data_offsets": [0, 0]} for i in range(100_001)}
FORGED = {
    "a header of terabytes": ((1 << 62).to_bytes(8, "little") + b"{}", "announces a header of"),
    "half a header": (b"\x02", "announces a header of|no readable header"),
    "no JSON": (header(b"\xff\xfe{"), "no readable header"),
    "deep JSON": (header(b"[" * 200_000), "no readable header"),
    "a list": (header([1, 2]), "no table"),
    "too many tensors": (header(HUGE), "no table of at most 100,000 tensors"),
    "an unknown dtype": (header({"0.weight": {"dtype": "X9", "shape": [3, 4]}}), "no dtype and shape"),
    "a shape of text": (header({"0.weight": {"dtype": "F32", "shape": ["a"]}}), "no dtype and shape"),
    "an entry of text": (header({"0.weight": "F32"}), "no dtype and shape"),
    "terabytes of numbers": (
        header({"0.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}), "it lacks"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_forged_tensors_are_refused_before_anything_is_allocated(case: str, tmp_path: Path) -> None:
    here = trained()
    path = checkpoint.write(tmp_path / "step-1", here, {})
    (path / "network.safetensors").write_bytes(FORGED[case][0])
    rehash(path)
    with pytest.raises(CheckpointError, match=FORGED[case][1]):
        checkpoint.read_modules(path, here.net)


def test_a_header_that_lies_about_its_numbers_is_refused(tmp_path: Path) -> None:
    here = trained()
    path = checkpoint.write(tmp_path / "step-1", here, {})
    content = (path / "network.safetensors").read_bytes()
    (path / "network.safetensors").write_bytes(content[:-4])
    rehash(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read_modules(path, here.net)


@pytest.mark.parametrize(
    ("listed", "said"),
    [({"../../secret": "0"}, "lists other files"), ([1], "no JSON object"), ({"a": "b" * (2 << 20)}, "is larger than")],
)
def test_a_list_of_hashes_names_the_files_of_a_checkpoint_alone(listed: Any, said: str, tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-1", trained(), {})
    (path / checkpoint.HASHES).write_text(json.dumps(listed))
    (path / checkpoint.COMMIT).write_text(hashlib.sha256((path / checkpoint.HASHES).read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match=said):
        checkpoint.verify(path)


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-1", trained({"name": "sgd"}), {})
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: does not fit .* it lacks 0\.exp_avg"):
        checkpoint.read_optimizer(path, trained().optimizer)


@pytest.mark.parametrize(
    "value",
    [
        {"progress": {"epoch": "x"}},
        {"nonsense": 1},
        {"ranks": [{"epoch": {"loss": float("inf")}}]},
        {"score": [1]},
        {"ranks": [{"ways": {"a": 1}}]},
    ],
)
def test_forged_counters_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="counters of a checkpoint are unusable"):
        Fitted.from_json(value)


owns = st.builds(Own, st.builds(Sums, loss=st.floats(0, 1e9), rates=st.dictionaries(st.text(), st.floats(0, 1))))


@given(st.builds(Fitted, progress=st.builds(Progress), ranks=st.lists(owns, min_size=1, max_size=3)))
def test_counters_survive_the_trip(fitted: Fitted) -> None:
    assert Fitted.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_finite_sees_every_part() -> None:
    here = trained()
    assert here.finite()
    here.rule.get_buffer("m")[0, 0] = torch.inf
    assert not here.finite()
