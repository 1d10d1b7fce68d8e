"""The cache on disk: written whole, found again, made anew when damaged, and harmless where nothing can be written."""

from __future__ import annotations

import errno
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from onward.data import cache
from onward.data.cache import cache_folder, cache_key, cached

MADE = {"a": np.arange(5), "b": np.ones((2, 3), np.float32)}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The cache folder and the folder for temporary files."""
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return tmp_path / "cache", tmp_path / "temporary"


class Maker:
    """Makes the arrays and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return MADE


def check(arrays: dict[str, np.ndarray]) -> None:
    assert arrays.keys() == MADE.keys()
    for name, array in MADE.items():
        assert np.array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def block(folder: Path) -> None:
    """A file where the folder should be: nothing can be written below it, whoever asks."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")


def test_made_once(folders: tuple[Path, Path]) -> None:
    make = Maker()
    check(cached("entry", make))
    check(cached("entry", make))
    assert make.calls == 1
    assert [path.name for path in folders[0].iterdir()] == ["entry.npz"], "no draft is left behind"


def test_damaged_file_is_made_anew(folders: tuple[Path, Path]) -> None:
    make = Maker()
    cached("entry", make)
    path = folders[0] / "entry.npz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=r"damaged and is made anew: .*entry\.npz"):
        check(cached("entry", make))
    check(cached("entry", make))
    assert make.calls == 2


def test_unwritable_folder_falls_back_to_a_temporary_one(folders: tuple[Path, Path]) -> None:
    block(folders[0])
    make = Maker()
    with pytest.warns(UserWarning, match=r"cannot write the cache to .*cache .*temporary.*ONWARD_CACHE") as caught:
        check(cached("entry", make))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(cached("entry", make))
    assert make.calls == 1


def test_read_only_folder(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is made up: root may write anywhere."""
    draft, make = tempfile.mkstemp, Maker()

    def refuse(*, dir: Path, prefix: str, suffix: str) -> tuple[int, str]:
        if dir == folders[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(dir))
        return draft(suffix, prefix, dir)

    monkeypatch.setattr(cache.tempfile, "mkstemp", refuse)
    with pytest.warns(UserWarning, match=r"cache to .*cache \(Permission denied\); keeping it in .*temporary"):
        check(cached("entry", make))
    check(cached("entry", make))
    assert make.calls == 1
    assert not list(folders[0].iterdir())


def test_nowhere_to_write_keeps_it_in_memory(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        block(folder)
    make = Maker()
    with pytest.warns(UserWarning, match="in memory only"):
        check(cached("entry", make))
    assert make.calls == 1


def test_failed_write_leaves_nothing(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full_disk)
    with pytest.warns(UserWarning, match="No space left on device"):
        check(cached("entry", Maker()))
    assert not any(path.is_file() for path in folders[0].rglob("*"))


def test_folder_of_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ONWARD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "onward"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "onward")


def test_key_depends_on_parameters_and_sources(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("a = 1")
    first = cache_key({"x": 1, "y": [2, 3]}, [source])
    assert first == cache_key({"y": [2, 3], "x": 1}, [source])
    assert first != cache_key({"x": 2, "y": [2, 3]}, [source])
    source.write_text("a = 2")
    assert first != cache_key({"x": 1, "y": [2, 3]}, [source])
