"""Pictures and recordings row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onward.core.errors import DataError, ShapeError
from onward.core.sequence import Frames
from onward.data import datasets, load
from onward.data.catalogue import open_file


def saved(path: Path, *shape: int) -> dict:
    """A file of 6 samples."""
    x = np.random.default_rng(0).random((6, *shape), dtype=np.float32)
    np.savez(path, x=x, y=np.arange(6) % 2)
    return {"name": "file", "file": str(path), "holdout": 0.5}


def test_every_row_of_a_picture_is_a_step(tmp_path: Path) -> None:
    choice = saved(tmp_path / "a.npz", 2, 5, 3)
    whole, rows = load(choice).train, load({**choice, "rows": 1}).train
    assert (rows.features, rows.steps, len(rows), rows.classes) == ((2, 3), 5, 3, 2)
    ids = torch.tensor([2, 0])
    given, expected = rows.batch(ids, 5), whole.batch(ids, 1)
    assert isinstance(given.x, Frames)
    for step in range(5):
        assert torch.equal(given.x.x[step], expected.x.chunk(0, 1)[0, :, :, step])
    assert torch.equal(given.y, expected.y)
    assert torch.equal(given.ids, ids)
    assert torch.equal(rows.labels(), whole.labels())


def test_frames_follow_one_another(tmp_path: Path) -> None:
    choice = {**saved(tmp_path / "a.npz", 4, 1, 3, 2), "layout": "frames"}
    whole, rows = load(choice).test, load({**choice, "rows": 4}).test
    assert rows.steps == 12
    given, frames = rows.batch(torch.arange(3), 12).x.chunk(0, 12), whole.batch(torch.arange(3), 4).x.chunk(0, 4)
    for step in range(12):
        assert torch.equal(given[step], frames[step // 3, :, :, step % 3])


def test_recordings_are_binned_into_frames_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))
    choice = {"name": "nmnist-sim", "limit": 4, "limit_test": 4}
    whole, rows = load(choice).test, load({**choice, "rows": 3}).test
    frames = whole.batch(torch.arange(4), 3).x.chunk(0, 3)
    given = rows.batch(torch.arange(4), 102).x.chunk(0, 102)
    assert rows.features == (2, 34)
    assert torch.equal(given.view(3, 34, 4, 2, 34).permute(0, 2, 3, 1, 4), frames)


def test_a_file_is_evaluated_as_the_network_was_trained(tmp_path: Path) -> None:
    choice = {**saved(tmp_path / "a.npz", 2, 5, 3), "rows": 1}
    found = open_file(tmp_path / "a.npz", datasets.parse(choice))
    assert (found.features, found.steps) == ((2, 3), 5)


def test_what_has_no_rows_and_other_numbers_of_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"samples of shape \[7\], and data.rows shows pictures"):
        load({**saved(tmp_path / "a.npz", 7), "rows": 1})
    rows = load({**saved(tmp_path / "b.npz", 1, 4, 4), "rows": 2}).train
    with pytest.raises(ShapeError, match=r"6 time steps were asked for, and the rows of 2 frames of .* are 8"):
        rows.batch(torch.arange(2), 6)
