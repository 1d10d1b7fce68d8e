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

from onward.core.errors import ConfigError
from onward.optim import optimizers, parameter_groups
from onward.train import RunConfig, RunFolder
from onward.train.checkpoint import CheckpointError, Trained
from onward.train.folder import Interface, environment, json_line


def test_runs_of_the_same_second_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: RunFolder.create(tmp_path, "opzo").path, range(24)))
    assert len(set(paths)) == 24
    assert all(path.is_dir() and "-opzo" in path.name for path in paths)


def test_a_folder_describes_itself(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "opzo")
    folder.begin(RunConfig(), Interface((1, 28, 28), 10))
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


def test_the_last_and_the_best_checkpoint_are_kept(tmp_path: Path) -> None:
    folder, net = RunFolder.create(tmp_path, "x"), nn.Linear(2, 1)
    parts = Trained(net, nn.Identity(), optimizers.build("sgd", parameter_groups(net, nn.Identity(), 0.0, False)))
    for updates, best in ((0, False), (5, True), (10, False), (15, False)):
        folder.save(parts, {"updates": updates}, best=best)
    assert sorted(path.name for path in folder.checkpoints.glob("step-*")) == ["step-15", "step-5"]
    assert folder.trained().name == "step-5"


def test_json_has_no_nan() -> None:
    assert json_line({"a": [float("inf"), 1.0], "b": {"c": float("nan")}}) == '{"a": [null, 1.0], "b": {"c": null}}'
