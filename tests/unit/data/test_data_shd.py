"""The Spiking Heidelberg Digits: lists of spikes from HDF5 files, and files that are none."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fuzz import packing

from onward.core.errors import DataError
from onward.data import limits, load
from onward.data.shd import read_shd


def spikes(count: int = 6, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Times that float16 holds as they are, in no order, channels and labels."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 20, count)
    times = [rng.integers(0, 1024, size) / 1024 for size in sizes]
    return times, [rng.integers(0, 700, size) for size in sizes], np.arange(count) * 3 % 20


def test_spikes_are_those_that_were_written(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    times, units, labels = spikes()
    for name in ("shd_train.h5", "shd_test.h5"):
        (tmp_path / name).write_bytes(packing.shd(times, units, labels))
    found = read_shd(tmp_path / "shd_train.h5")
    assert (found.features, found.label.tolist()) == ((1, 1, 700), labels.tolist())
    for row, (seconds, channels) in enumerate(zip(times, units, strict=True)):
        part, order = slice(found.offsets[row], found.offsets[row + 1]), np.argsort(seconds, kind="stable")
        assert np.array_equal(found.t[part], (seconds[order] * 1e6).astype(int))
        assert np.array_equal(found.address[part], channels[order])
    split = load({"name": "shd", "root": str(tmp_path), "bin_us": 250_000, "counts": True})
    x = split.test.batch(torch.arange(6), 4).x.chunk(0, 4)
    assert (split.train.classes, split.train.features, split.test.steps) == (20, (1, 1, 700), 4)
    expected = [[((t // 0.25) == step).sum() for t in times] for step in range(4)]
    assert x.sum((2, 3, 4)).tolist() == expected


def changed(change: Callable[[Any, Any], None], content: bytes) -> bytes:
    h5py, file = sys.modules["h5py"], io.BytesIO(content)
    with h5py.File(file, "r+") as hdf:
        change(h5py, hdf)
    return file.getvalue()


def put(name: str, values: Any, **options: Any) -> Callable[[Any, Any], None]:
    def change(_h5py: Any, hdf: Any) -> None:
        if name in hdf:
            del hdf[name]
        hdf.create_dataset(name, data=values, **options)

    return change


def link(h5py: Any, hdf: Any) -> None:
    del hdf["labels"]
    hdf["labels"] = h5py.ExternalLink("elsewhere.h5", "labels")


def soft(h5py: Any, hdf: Any) -> None:
    del hdf["spikes/units"]
    hdf["spikes/units"] = h5py.SoftLink("/labels")


def outside(_h5py: Any, hdf: Any) -> None:
    del hdf["labels"]
    hdf.create_dataset("labels", (6,), np.uint16, external=[("/etc/hostname", 0, 12)])


def virtual(h5py: Any, hdf: Any) -> None:
    del hdf["labels"]
    layout = h5py.VirtualLayout((6,), np.uint16)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "labels", (6,))
    hdf.create_virtual_dataset("labels", layout)


def spike(name: str, row: int, values: np.ndarray) -> Callable[[Any, Any], None]:
    def change(_h5py: Any, hdf: Any) -> None:
        hdf[name][row] = values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link, "has no labels in itself"),
        (soft, "has no spikes/units in itself"),
        (outside, "labels is no list in the file itself"),
        (virtual, "labels is no list in the file itself"),
        (lambda _, hdf: hdf.pop("spikes"), "has no spikes/times in itself"),
        (put("labels", np.arange(7)), "6 lists of times, 6 of units and 7 labels"),
        (put("labels", np.arange(5, 11) * 2), "reach up to 20; expected 0 to 19"),
        (put("labels", np.zeros(6)), "labels of float64"),
        (put("labels", np.zeros((6, 2), int)), "labels is no list"),
        (put("spikes/times", np.zeros(6)), r"recording 0 has times \[\] of float64"),
        (
            put("labels", np.zeros(2**26, np.uint16), chunks=(2**20,), compression="gzip"),
            "labels announces 134,217,728",
        ),
        (spike("spikes/units", 2, np.array([700])), "recording 2 has times"),
        (spike("spikes/times", 1, np.full(3, np.nan, np.float16)), "recording 1 has"),
    ],
)
def test_damaged(tmp_path: Path, change: Callable[[Any, Any], None], message: str) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    path = tmp_path / "shd_train.h5"
    path.write_bytes(changed(change, packing.shd(*spikes())))
    with pytest.raises(DataError, match=message) as caught:
        read_shd(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("times", "units", "message"),
    [
        ([0.5], [700], r"x\[0\] is 700; expected 0 to 699"),
        ([-0.5], [3], r"t\[0\] is -500000; expected 0 to"),
        ([np.nan], [3], "recording 0 has a time that is no number of seconds"),
    ],
)
def test_out_of_range(tmp_path: Path, times: list[float], units: list[int], message: str) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    (tmp_path / "a.h5").write_bytes(packing.shd([np.array(times)], [np.array(units)], np.array([1])))
    with pytest.raises(DataError, match=message):
        read_shd(tmp_path / "a.h5")


def test_lists_may_not_hold_more_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    monkeypatch.setattr(limits, "ALWAYS", 1000)
    monkeypatch.setattr(limits, "RATIO", 0)
    (tmp_path / "a.h5").write_bytes(packing.shd([np.zeros(400)], [np.zeros(400)], np.array([1])))
    with pytest.raises(DataError, match=r"a.h5: announces 2,\d+ bytes.*made to fill memory"):
        read_shd(tmp_path / "a.h5")


def test_no_hdf5_at_all(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(DataError, match=r"a.h5: cannot be read as HDF5 \("):
        read_shd(tmp_path / "a.h5")


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shd_train.h5", "shd_test.h5"):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="h5py, which reads them, is not installed; install it with `pip install h5py`"):
        load({"name": "shd", "root": str(tmp_path)})
