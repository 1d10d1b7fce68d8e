"""Headers that are well formed and say anything: what is read is what the bytes hold, all else is refused."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import packing
from tests.fuzz.mutate import HARMFUL, NUMBERS, TEXTS

from onward.core.errors import OnwardError
from onward.data import read_recordings
from onward.data.idx import read_idx
from onward.data.mat import read_mat
from onward.data.npz import read_npz
from onward.train import load, parse_tokens

T = TypeVar("T")
SIDES = st.integers(0, 5) | st.sampled_from([*NUMBERS, *(-n for n in NUMBERS)])
DESCRS = (
    "<f8",
    ">i4",
    "|u1",
    "|b1",
    "<c16",
    "<c32",
    "<U3",
    "|S2",
    "|O",
    "|V4",
    "<U0",
    "<M8[s]",
    "f4,f4",
    "(2,2)i4",
    "x",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """What was read, or in which words it was refused."""
    try:
        return read(), ""
    except OnwardError as error:
        return None, str(error)


@given(st.sampled_from(DESCRS), st.lists(SIDES, max_size=4), st.booleans(), st.sampled_from([1, 2, 3]), st.data())
def test_arrays(folder: Path, descr: str, shape: list[int], fortran: bool, version: int, data: st.DataObject) -> None:
    right = abs(prod(shape)) * 8
    size = right if right < 5000 and data.draw(st.booleans()) else data.draw(st.integers(0, 200))
    head = packing.header(repr(descr), repr(tuple(shape)), order=str(fortran), version=version)
    path = folder / "a.npz"
    path.write_bytes(packing.zipped("a")((b"stored", b"a.npy", head + bytes(size)))["a"])
    found, refusal = attempt(lambda: read_npz(path, ["a"])["a"])
    if found is None:
        assert refusal.startswith(f"{path}: array a")
        return
    assert (found.shape, found.nbytes) == (tuple(shape), size)
    assert not found.dtype.hasobject


@given(
    st.lists(st.integers(0, 5) | st.sampled_from([n for n in NUMBERS if n < 2**32]), min_size=1, max_size=4), st.data()
)
@pytest.mark.parametrize(("suffix", "pack"), [("", packing.plain), (".gz", packing.gzipped), (".xz", packing.xzipped)])
def test_idx(folder: Path, suffix: str, pack: Any, sides: list[int], data: st.DataObject) -> None:
    right = prod(sides)
    size = right if right < 5000 and data.draw(st.booleans()) else data.draw(st.integers(0, 200))
    rank, said = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([len(sides), len(sides), 0, 255]))
    axes = b"".join(side.to_bytes(4, "big") for side in sides)
    path = folder / f"images{suffix}"
    path.write_bytes(pack("a")((bytes([0, 0, 8, said]) + axes + bytes(size),))["a"])
    found, refusal = attempt(lambda: read_idx(path, rank))
    if found is None:
        assert refusal.startswith(f"{path}: ")
        return
    assert (found.shape, found.size, len(sides)) == (tuple(sides), size, rank)


@given(
    st.lists(st.integers(0, 5) | st.sampled_from([n for n in NUMBERS if n < 2**32]), max_size=4),
    st.sampled_from([*range(1, 8), 9, 12, 13, 14, 18]),
    st.integers(0, 20),
    st.booleans(),
    st.data(),
)
def test_mat(folder: Path, sides: list[int], kind: int, flags: int, compressed: bool, data: st.DataObject) -> None:
    right = prod(sides) * data.draw(st.sampled_from([1, 2, 4, 8]))
    size = right if right < 5000 and data.draw(st.booleans()) else data.draw(st.integers(0, 200))
    axes = b"".join(side.to_bytes(4, "little") for side in sides)
    parts = ((6, bytes([flags]) + bytes(7)), (5, axes), (1, b"a"), (kind, bytes(size)))
    array = packing.mat_element(14, b"".join(packing.mat_element(*part) for part in parts))
    path = folder / "a.mat"
    path.write_bytes(packing.mat_header() + (packing.mat_packed(array) if compressed else array))
    found, refusal = attempt(lambda: read_mat(path, ["a"])["a"])
    if found is None:
        assert refusal.startswith(f"{path}: ")
        return
    assert (found.shape, found.nbytes) == (tuple(sides), size)


@given(
    sizes=st.lists(st.integers(-1, 6) | st.sampled_from([2**31, 2**63 - 1]), min_size=1, max_size=5),
    dtype=st.sampled_from(["<i8", ">i8", "<u8", "|u1", "|b1", "<f4"]),
    damaged=st.sampled_from(["x", "y", "p", "t", "offsets", "label", "mnist_index"]),
)
def test_recordings_that_are_read_are_whole(folder: Path, sizes: list[int], dtype: str, damaged: str) -> None:
    path = folder / "events.npz"
    with np.errstate(all="ignore"):
        values = np.array(sizes, object).astype("<f4" if dtype == "<f4" else "<i8").astype(dtype)
    path.write_bytes(packing.zipped("a")(packing.recordings({damaged: values}))["a"])
    found, refusal = attempt(lambda: read_recordings(path, 4, 5))
    if found is None:
        assert str(path) in refusal
        return
    assert int(found.offsets[-1]) == len(found.t) == len(found.address)
    assert found.address.max(initial=0) < 2 * 4 * 5


LEAVES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.sampled_from([*map(repr, HARMFUL), "opzo", "none", "file"]),
)
KEYS = st.sampled_from(["rule", "name", "data", "file", "model", "hidden", "train", "spatial", "rho", "__class__"])
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


def toml_of(value: Any) -> str:
    """Any nesting as an inline value."""
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {toml_of(item)}" for key, item in value.items()) + "}"
        case list():
            return f"[{', '.join(map(toml_of, value))}]"
        case float():
            return repr(value)
    return json.dumps(value).replace("\x7f", "\\u007f")


def says_something(value: Any) -> bool:
    """Whether there is a value in it: tables alone set nothing."""
    return any(map(says_something, value.values())) if isinstance(value, dict) else True


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_recipes_of_any_shape(folder: Path, tree: dict[str, Any]) -> None:
    path = folder / "recipe.toml"
    path.write_text("".join(f"{key} = {toml_of(value)}\n" for key, value in tree.items()))
    config, refusal = attempt(lambda: load(path))
    if config is None:
        assert refusal.isprintable()
        return
    assert {key for key, value in tree.items() if says_something(value)} <= set(type(config).model_fields)


FLAGS = st.sampled_from(
    ["--rule", "--data", "--model.hidden", "--seed", "--optim.lr", "--train.out", "--rule.spatial.rho"]
)
WORDS = st.text(string.printable, max_size=12) | st.sampled_from([word.decode() for word in (*TEXTS, *HARMFUL)])


@given(st.lists(st.tuples(FLAGS, st.lists(WORDS, max_size=3)), max_size=4))
def test_command_lines_of_any_values(lines: list[tuple[str, list[str]]]) -> None:
    tokens = [token for flag, words in lines for token in (flag, *words)]
    config, refusal = attempt(lambda: parse_tokens(["--train.epochs", "7", *tokens]))
    if config is None:
        assert refusal.isprintable()
        return
    assert config.train.epochs == 7
