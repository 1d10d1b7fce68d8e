"""A problem that trains in a moment: 96 samples of 12 numbers, three classes told apart by their largest third."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onward.train import RunConfig, parse_tokens

SMALL = ["--model.hidden", "16", "--train.batch-size", "16", "--train.steps", "4", "--train.epochs", "2"]


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.random((96, 12), dtype=np.float32)
    y = x.reshape(96, 3, 4).sum(-1).argmax(-1)
    path = tmp_path / "thirds.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def tokens(data_file: Path, tmp_path: Path) -> list[str]:
    return ["--data", str(data_file), "--train.out", str(tmp_path / "runs"), *SMALL]


@pytest.fixture
def config(tokens: list[str]) -> RunConfig:
    return parse_tokens(tokens)
