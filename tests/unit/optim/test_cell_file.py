"""Files of learned optimisers: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from onward._tensors import CheckpointError, about, packed
from onward.core.errors import ConfigError, OnwardError
from onward.optim import Architecture, initial_cell, optimizers, read_cell, read_record, write_cell
from onward.optim.cell_file import CELL, FORMAT


def written(path: Path, **options: Any) -> Path:
    cell = initial_cell(Architecture.model_validate(options), seed=2)
    write_cell(path, cell, {"meta_trained_on": "test split", "seed": 2})
    return path


def forged(path: Path, text: str) -> Path:
    path.write_bytes(packed(initial_cell(Architecture(), 0).state_dict(), {CELL.key: text}))
    return path


@pytest.mark.parametrize(
    "options", [{}, {"input": "log", "layers": 2, "biases": True, "momenta": [0.5], "scale": 0.01}]
)
def test_what_is_written_is_read_again(tmp_path: Path, options: dict[str, Any]) -> None:
    path = written(tmp_path / "cell.safetensors", **options)
    cell = read_cell(path)
    assert cell.architecture == Architecture.model_validate(options)
    expected = initial_cell(cell.architecture, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(cell.parameters(), expected.parameters(), strict=True))
    assert read_record(path)["meta_trained_on"] == "test split"


def test_the_initial_cell_is_the_published_one_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    cell = initial_cell(Architecture(), seed=0)
    assert torch.equal(torch.rand(1), before)
    assert sum(p.numel() for p in cell.parameters()) == 450
    assert cell.core.readout.weight.abs().max() <= 0.1 / 10**0.5
    assert torch.equal(cell.core.readout.weight, initial_cell(Architecture(), seed=0).core.readout.weight)


def test_what_is_no_learned_optimiser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; expected a file that `onward meta-train` wrote"):
        read_cell(tmp_path / "absent.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="but no learned optimiser"):
        read_cell(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is text")
    with pytest.raises(CheckpointError, match="announces a header"):
        read_cell(tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("[1]", "is no JSON object"),
        ("{", "is no JSON object"),
        (json.dumps({"format": FORMAT + 1}), "of format 2; expected 1"),
        (json.dumps({"format": FORMAT}), "architecture"),
        (json.dumps({"format": FORMAT, "architecture": {"hidden": 10**9}}), "hidden"),
        (json.dumps({"format": FORMAT, "architecture": {"input": "os:system"}}), "unknown input"),
        (json.dumps({"format": FORMAT, "architecture": {"depth": 2}}), "depth"),
        (json.dumps({"format": FORMAT, "architecture": {"hidden": 9}}), "does not fit"),
    ],
)
def test_headers_in_bad_faith_are_refused(tmp_path: Path, told: str, said: str) -> None:
    with pytest.raises(OnwardError, match=said):
        read_cell(forged(tmp_path / "forged.safetensors", told))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    cell = initial_cell(Architecture(), 0)
    torch.nn.init.constant_(cell.core.readout.weight, torch.nan)
    write_cell(tmp_path / "nan.safetensors", cell, {})
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        read_cell(tmp_path / "nan.safetensors")


def test_files_without_words_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(packed({"w": torch.zeros(1)}))
    assert about(tmp_path / "plain") == {}


@pytest.mark.parametrize("name", ["lstm", "impulse"])
def test_an_optimiser_without_weights_says_how_to_make_them(name: str) -> None:
    with pytest.raises(ConfigError, match="make some with `onward meta-train`"):
        optimizers.build(name, [{"params": [torch.nn.Parameter(torch.zeros(1))]}])
