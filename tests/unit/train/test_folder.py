"""Run folders have names of their own and describe themselves."""

from __future__ import annotations

import getpass
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from onward._tensors import CheckpointError
from onward.core.errors import ConfigError
from onward.optim import optimizers, parameter_groups
from onward.train import RunConfig, RunFolder, checkpoint
from onward.train.checkpoint import Trained
from onward.train.folder import LOCK, METRICS, Interface, environment, json_line
from onward.train.state import Fitted, Progress


def test_runs_of_the_same_second_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: RunFolder.create(tmp_path, "opzo").path, range(24)))
    assert len(set(paths)) == 24
    assert all(path.is_dir() and "-opzo" in path.name for path in paths)


def test_a_folder_describes_itself(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "opzo")
    folder.begin(RunConfig(), Interface((1, 28, 28), 10), {"train": {"samples": 3, "sha256": "ab"}})
    folder.log({"epoch": 1, "loss": float("nan")})
    folder.log({"epoch": 2, "loss": 0.5})
    again = RunFolder.open(folder.path)
    assert again.config() == RunConfig()
    assert again.interface() == Interface((1, 28, 28), 10)
    assert list(again.metrics()) == [{"epoch": 1, "loss": None}, {"epoch": 2, "loss": 0.5}]


def test_the_environment_names_no_host_user_or_path() -> None:
    text = json.dumps(environment())
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert str(Path.home()) not in text
    assert environment()["packages"]["torch"] == torch.__version__


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.toml"):
        RunFolder.open(tmp_path)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        RunFolder(tmp_path).trained()


def trained() -> Trained:
    net = nn.Linear(2, 1)
    return Trained(net, nn.Identity(), optimizers.build("sgd", parameter_groups(net, nn.Identity(), 0.0, False)))


def save(folder: RunFolder, updates: int, best: int | None = None, keep: int = 2) -> Path:
    return folder.save(trained(), Fitted(Progress(updates=updates, best_updates=best)), keep)


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def damage(path: Path) -> None:
    content = bytearray((path / "network.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "network.safetensors").write_bytes(content)


def test_the_last_ones_and_the_best_checkpoint_are_kept(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    for updates, best in ((0, None), (5, 5), (10, 5), (15, 5), (20, 5)):
        save(folder, updates, best)
    assert names(folder) == ["step-15", "step-20", "step-5"]
    assert folder.trained().name == "step-5"
    save(folder, 25, 5, keep=1)
    assert names(folder) == ["step-25", "step-5"]


def test_damage_is_told_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    folder, told = RunFolder.create(tmp_path, "x"), list[str]()
    for updates in (5, 10, 15):
        save(folder, updates, keep=3)
    damage(folder.checkpoints / "step-15")
    (folder.checkpoints / "step-10" / "COMMIT").unlink()
    assert folder.newest(told.append) == folder.checkpoints / "step-5"
    assert len(told) == 1
    assert "step-15: network.safetensors is damaged; the checkpoint before it is used" in told[0]
    save(folder, 12, keep=3)
    assert names(folder) == ["step-12", "step-5"]
    assert folder.trained().name == "step-12"


def test_a_damaged_best_checkpoint_is_told(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    save(folder, 5, best=5)
    save(folder, 10, best=5)
    damage(folder.checkpoints / "step-5")
    with pytest.warns(UserWarning, match="step-5, the best checkpoint, is missing or damaged; step-10 is used"):
        assert folder.trained().name == "step-10"


def test_what_a_killed_process_left_half_done_is_cleared(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    (folder.checkpoints / ".step-3.12345").mkdir(parents=True)
    save(folder, 5)
    assert names(folder) == ["step-5"]


def test_metrics_are_cut_back_to_whole_lines(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    assert folder.rewind(3) == 0
    for epoch in (1, 2, 3):
        folder.log({"epoch": epoch})
    with (folder.path / METRICS).open("a") as file:
        file.write('{"epoch": 4')
    assert folder.rewind(3) == 3
    assert [line["epoch"] for line in folder.metrics()] == [1, 2, 3]
    assert folder.rewind(1) == 1
    assert [line["epoch"] for line in folder.metrics()] == [1]
    assert folder.rewind(2) == 1


def test_one_process_writes(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    other = RunFolder(folder.path).held()
    with folder.held(), pytest.raises(ConfigError, match="is being trained by another process"):
        other.__enter__()
    with RunFolder(folder.path).held():
        assert (folder.path / LOCK).exists()


@pytest.mark.parametrize("name", ["interface.json", "env.json", "data.json", "DONE"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b'{"a": ', b"[" * 100_000])
def test_damaged_records_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "x")
    (folder.path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: is damaged"):
        folder.record(name)


def test_a_full_disk_is_told_and_what_was_saved_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path, "x")
    save(folder, 5)

    def full(path: Path, _: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(
        CheckpointError, match=r"a checkpoint cannot be written \(No space left on device\); make room .* onward resume"
    ):
        save(folder, 10)
    assert names(folder) == ["step-5"]


def test_json_has_no_nan() -> None:
    assert json_line({"a": [float("inf"), 1.0], "b": {"c": float("nan")}}) == '{"a": [null, 1.0], "b": {"c": null}}'


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may write anywhere, the system's refusal is played."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no run folder can be made there"):
        RunFolder.create(tmp_path / "file" / "runs", "x")
    folder = RunFolder.create(tmp_path, "x")
    (folder.path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="a checkpoint cannot be written"):
        save(folder, 5)

    def read_only(path: Path, *_: object) -> None:
        raise PermissionError(13, "Read-only file system", str(path))

    monkeypatch.setattr("onward.train.folder.write_whole", read_only)
    monkeypatch.setattr("onward.train.folder.append_synced", read_only)
    with pytest.raises(CheckpointError, match=r"what the run is cannot be written \(Read-only file system\)"):
        folder.begin(RunConfig(), Interface((1,), 2), {})
    with pytest.raises(CheckpointError, match="metrics cannot be written"):
        folder.log({"epoch": 1})
    with pytest.raises(CheckpointError, match="the summary cannot be written"):
        folder.done({})
