"""Whole jobs: a run as a NIR file, a NIR file as a network to use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onward._tensors import CheckpointError
from onward._version import __version__
from onward.core import Network
from onward.core.errors import ConfigError, OnwardError, UnsupportedModule
from onward.core.registry import describe
from onward.export.nir.check import Agreement, agreement
from onward.export.nir.file import read_graph, write_graph
from onward.export.nir.read import Found, network_of
from onward.export.nir.write import draw
from onward.export.purpose import Purpose
from onward.train import RunFolder, Subject
from onward.train.networks import check_device, trained_network

KEY, STEP, NAME, SUFFIX = "onward", "dt", "network.nir", ".nir"
DT = 1e-4
"""Seconds a step; snnTorch takes no other."""
MOST_CHARACTERS = 2**20


@dataclass(frozen=True)
class Exchanged:
    """What writing a NIR file came to: its nodes by type, what it says to Onward alone, and how the check went."""

    source: str
    file: str
    dt: float
    nodes: Mapping[str, int]
    edges: int
    lost: list[str]
    agreement: Agreement


@dataclass(frozen=True)
class Imported:
    """The network of a file, the length of its steps, and what it is for, where the file says so."""

    found: Found
    dt: float
    purpose: Purpose | None


def export_run(folder: RunFolder, to: Path | None = None, *, dt: float = DT, lossy: bool = False) -> Exchanged:
    """Writes the trained network of a run as a NIR file, by default ``network.nir`` in the run's folder.

    See `write_network`.
    """
    purpose = Purpose.of(folder.config(), folder.interface())
    net = trained_network(folder)
    return write_network(to or folder.path / NAME, net, purpose, dt=dt, lossy=lossy, source=str(folder.path))


def write_network(
    path: Path, net: Network, purpose: Purpose, *, dt: float = DT, lossy: bool = False, source: str = "the network"
) -> Exchanged:
    """Writes ``net`` as a NIR file for steps of ``dt`` seconds, reads it back, and compares all spikes on probes.

    With ``lossy``, what NIR cannot say is said in metadata that other programs do not know. Raises `UnsupportedModule`
    naming a layer that cannot be written, and `CheckpointError` where the file does not fire as the network does, or
    cannot be written; none is left behind then.
    """
    if purpose.heads > 1:
        raise UnsupportedModule(f"{source} has {purpose.heads} heads, one for each task; a NIR graph has one output")
    if not 0 < dt < float("inf"):
        raise ConfigError(f"a time step of {dt:g} s was given; expected a positive number of seconds")
    told = {"format": 1, "version": __version__, "purpose": purpose.model_dump(mode="json")}
    drawn = draw(net, purpose.features, dt, {STEP: dt, KEY: json.dumps(told, allow_nan=False)})
    if drawn.lost and not lossy:
        raise UnsupportedModule(
            f"{drawn.lost[0]}; change the network (for the reset: --neuron.reset hard), or give --lossy-ok to write a "
            "note that Onward alone understands"
        )
    write_graph(path, drawn.graph)
    try:
        found = agreement(net, read_network(path).found.net, purpose.features)
    except OnwardError as error:
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be read back ({error}), and was deleted") from None
    if found.first is not None:
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: does not fire as the network does, and was deleted: {found.first} ({found.agreed:,} of "
            f"{found.states:,} states agree)"
        )
    kinds = [type(node).__name__ for node in drawn.graph.nodes.values()]
    nodes = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return Exchanged(source, str(path), dt, nodes, len(drawn.graph.edges), drawn.lost, found)


def from_nir(path: Path | str, dt: float | None = None) -> Network:
    """The network in a NIR file, in float32; ``dt`` is the length of a step in seconds where the file does not say.

    Raises `ConfigError` where nothing says it, and `CheckpointError` for a file that holds no network.
    """
    return read_network(Path(path), dt).found.net.float()


def read_network(path: Path, dt: float | None = None) -> Imported:
    """What is in a NIR file, in float64; see `from_nir`."""
    graph = read_graph(path)
    told = graph.metadata.get(STEP)
    step = dt if dt is not None else float(told) if isinstance(told, float) else None
    if step is None or not 0 < step < float("inf"):
        raise ConfigError(
            f"{path}: does not say how long a time step is, and NIR describes neurons in seconds; say so with "
            f"onward import nir {path} --dt SECONDS (snnTorch writes files for 1e-4, Norse reads them for 1e-3)"
        )
    try:
        return Imported(network_of(graph, step), step, _purpose(graph.metadata, path))
    except CheckpointError:
        raise
    except OnwardError as error:
        raise CheckpointError(f"{path}: {error}") from None


def import_file(path: Path, to: Path, *, dt: float | None = None, steps: int | None = None) -> Exchanged:
    """Writes a NIR file of any program's as one that Onward tests: it says how long a step is, and how many there are.

    Nodes that Onward knows by another name or not at all are gone from it; all spikes are compared as in
    `write_network`.
    """
    given = read_network(path, dt)
    purpose = given.purpose or Purpose(features=given.found.features, classes=given.found.outputs, heads=1, steps=None)
    purpose = purpose.model_copy(update={"steps": steps or purpose.steps})
    return write_network(to, given.found.net, purpose, dt=given.dt, lossy=True, source=str(path))


def nir_subject(path: Path, device: str = "cpu") -> Subject:
    """The network in ``path``, on ``device``, and what it is for; raises as `from_nir` does."""
    given = read_network(path)
    if given.purpose is None:
        raise ConfigError(
            f"{path}: was not written by Onward, and does not say how many steps a sequence has; make it a file that "
            f"does: onward import nir {path} --steps N --out NEW.nir"
        )
    net = given.found.net.float().to(check_device(device))
    return Subject(str(path), given.purpose.config, given.purpose.interface, net)


def _purpose(metadata: Mapping[str, Any], path: Path) -> Purpose | None:
    """What the file says to Onward; None where it says nothing."""
    text = metadata.get(KEY)
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        return None
    try:
        return Purpose.model_validate(json.loads(text)["purpose"])
    except ValidationError as error:
        raise CheckpointError(f"{path}: {describe(error, 'network')}; expected a file that Onward wrote") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: what it says to Onward cannot be read; write it again") from None
