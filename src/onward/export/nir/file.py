"""NIR files: HDF5, read within limits before anything is made of it.

A file holds ``version`` and the group ``node``: a graph, whose ``nodes`` are groups with a ``type`` and arrays, whose
``edges`` are pairs of names. Nothing in it can name or run code; links and data that lead to other files are refused.
"""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from onward._durable import write_whole
from onward._tensors import CheckpointError
from onward.core.errors import ConfigError
from onward.data.limits import allowance, refusal
from onward.export.nir.package import package

MOST_ENTRIES, MOST_DEPTH, MOST_EDGES = 100_000, 8, 100_000
GRAPH = "NIRGraph"
KNOWN = (
    "Affine", "AvgPool2d", "Conv1d", "Conv2d", "CubaLIF", "Flatten", "I", "IF", "Input", "LI", "LIF", "Linear",
    "NIRGraph", "Output", "Scale", "SumPool2d", "Threshold",
)  # fmt: skip
"""The types of nodes that are read."""


def write_graph(path: Path, graph: Any) -> None:
    """Writes ``graph`` whole or not at all; raises `CheckpointError`."""
    content = io.BytesIO()
    package().write(content, graph)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_graph(path: Path) -> Any:
    """The graph in ``path``, its types unchecked.

    Arrays may hold no more than a file of this size unpacks to, see `onward.data.limits`. Raises `ConfigError` where
    there is no such file or no package ``nir``, `CheckpointError` for a file that is damaged or means something else.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; expected a NIR file, which often ends in .nir")
    nir, h5py = package(), import_module("h5py")
    try:
        with h5py.File(path, "r") as file:
            told = _Reader(h5py, path).table(_root(file, path), "node", 0)
    except CheckpointError:
        raise
    except Exception as error:  # h5py hands on whatever HDF5 meets in a damaged file
        raise CheckpointError(f"{path}: cannot be read as a NIR file ({error})") from None
    _check_types(told, "node", path)
    try:
        return nir.dict2NIRNode({**told, "type_check": False})
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        words = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: a node lacks something or has too much ({words})") from None


def _root(file: Any, path: Path) -> Any:
    if "node" not in file:
        raise CheckpointError(f"{path}: is HDF5 without a graph in it; expected a NIR file")
    return file


def _check_types(told: Any, name: str, path: Path) -> None:
    """Raises `CheckpointError` unless ``told`` is a graph of nodes that are known."""
    kind = told.get("type") if isinstance(told, dict) else None
    if kind not in KNOWN or (name == "node" and kind != GRAPH):
        expected = GRAPH if name == "node" else ", ".join(KNOWN)
        raise CheckpointError(f"{path}: {name} is of type {kind!r}; expected {expected}")
    if not isinstance(told.get("metadata", {}), dict):
        raise CheckpointError(f"{path}: the metadata of {name} are no table")
    if kind != GRAPH:
        return
    nodes, edges = told.get("nodes"), told.get("edges")
    if not isinstance(nodes, dict) or not isinstance(edges, list):
        raise CheckpointError(f"{path}: {name} lacks nodes or edges; expected a graph with both")
    for key, node in nodes.items():
        _check_types(node, key, path)
        if node["type"] == GRAPH:
            node["type_check"] = False


class _Reader:
    """Reads groups and arrays, as long as there is room."""

    def __init__(self, h5py: Any, path: Path):
        self.h5py, self.path = h5py, path
        self.size = path.stat().st_size
        self.room, self.entries = allowance(self.size), MOST_ENTRIES

    def table(self, parent: Any, name: str, depth: int) -> Any:
        """The entry ``name`` of the group ``parent``: a table of entries, an array, a number or a text."""
        self.entries -= 1
        if self.entries < 0 or depth > MOST_DEPTH:
            raise CheckpointError(
                f"{self.path}: has more than {MOST_ENTRIES:,} entries, or graphs in graphs beyond {MOST_DEPTH} groups"
            )
        if not isinstance(parent.get(name, getlink=True), self.h5py.HardLink):
            raise CheckpointError(f"{self.path}: {name} leads elsewhere; expected all that belongs to it in the file")
        found = parent[name]
        if isinstance(found, self.h5py.Group):
            return {key: self.table(found, key, depth + 1) for key in found}
        return self._pairs(found, name) if name == "edges" else self._value(found, name)

    def _value(self, data: Any, name: str) -> Any:
        self._check(data, name)
        value = data[()]
        if isinstance(value, bytes | str):
            self._take(len(value))
            return value.decode() if isinstance(value, bytes) else value
        if np.asarray(value).dtype.kind not in "iufb":
            raise CheckpointError(f"{self.path}: {name} is of {data.dtype}; expected numbers")
        return value

    def _pairs(self, data: Any, name: str) -> list[tuple[str, str]]:
        """Edges, one at a time: a text may be as long as the file, and stand in it once for all."""
        if data.shape == (0,):
            return []
        self._check(data, name)
        if data.ndim != 2 or data.shape[1] != 2 or len(data) > MOST_EDGES:
            raise CheckpointError(
                f"{self.path}: edges have shape {list(data.shape)}; expected [edges, 2], at most {MOST_EDGES:,}"
            )
        found = []
        for row in range(len(data)):
            first, second = (end.decode() if isinstance(end, bytes) else str(end) for end in data[row])
            self._take(len(first) + len(second))
            found.append((first, second))
        return found

    def _check(self, data: Any, name: str) -> None:
        if not isinstance(data, self.h5py.Dataset) or data.external or data.is_virtual:
            raise CheckpointError(f"{self.path}: {name} is no array in the file itself")
        self._take(data.size * data.dtype.itemsize if data.size else 0)

    def _take(self, size: int) -> None:
        """Notes that ``size`` bytes are about to be read; raises `CheckpointError` where there is no room for them."""
        self.room -= size
        if self.room < 0:
            raise CheckpointError(f"{self.path}: {refusal(allowance(self.size) - self.room, self.size)}")
