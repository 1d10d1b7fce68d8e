"""Networks with binary weights on disk: a safetensors file, whose header says in JSON how to build the network.

A binary weight is two tensors, its bits and one scale for each output channel; all else is stored as it is. Nothing in
it can name or run code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from onward._durable import write_whole
from onward._tensors import CheckpointError, about, difference, header, packed, read_tensors
from onward.core import Network
from onward.core.errors import ConfigError, OnwardError
from onward.core.registry import describe
from onward.core.synapse import effective
from onward.export.purpose import Purpose
from onward.train import Subject
from onward.train.config import ModelField, NeuronField, WeightsField
from onward.train.folder import RunFolder
from onward.train.networks import build_network, check_device, trained_network
from onward.weights.cost import LayerCost, costs
from onward.weights.packed import with_packed_weights

KEY, FORMAT, NAME = "onward.packed", 1, "packed.safetensors"
MOST_CHARACTERS = 2**20
MOST_MADE = 8
"""Parameters made while a network is built, for each tensor that it has in the end."""
HOW_TO_MAKE_ONE = "expected a file that `onward pack` wrote"


class Recipe(Purpose):
    """How to build a network, and to test it."""

    model: ModelField
    neuron: NeuronField
    weights: WeightsField

    def build(self) -> Network:
        """The network, with initial weights."""
        return build_network(self.config, self.interface)


@dataclass(frozen=True)
class PackedRun:
    """What packing a run came to; ``before`` and ``after`` are the bytes of all that the network stores."""

    run: str
    file: str
    before: int
    after: int
    layers: list[LayerCost]


def pack_run(folder: RunFolder, to: Path | None = None) -> PackedRun:
    """Writes the trained network of a run with its binary weights at one bit each, by default into the run's folder.

    The file is read back, and every weight is held against the original's. Raises `ConfigError` for a run without
    binary weights, and `CheckpointError` where the file cannot be written.
    """
    config, interface = folder.config(), folder.interface()
    net = trained_network(folder)
    layers = costs(net, interface.features)
    if not any(layer.binary for layer in layers):
        raise ConfigError(
            f"{folder.path} has no layer with binary weights, and nothing to pack; train one with --weights binary"
        )
    path = to or folder.path / NAME
    write_packed(path, net, Recipe.of(config, interface))
    again = read_packed(path)
    _check_same(net, again, path)
    return PackedRun(str(folder.path), str(path), _stored(net), _stored(again), layers)


def write_packed(path: Path, net: Network, recipe: Recipe) -> None:
    """Writes ``net``, which ``recipe`` builds, whole or not at all; raises `CheckpointError`."""
    told = {"format": FORMAT, **recipe.model_dump(mode="json")}
    content = packed(with_packed_weights(net).state_dict(), {KEY: json.dumps(told, allow_nan=False)})
    try:
        write_whole(path, content)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_packed(path: Path) -> Network:
    """The network in ``path``, ready to run, its binary weights at one bit each.

    Memory: a header of at most 16 MiB, then what the network takes: it is first built without numbers, and held against
    what the file has. Raises `ConfigError` or `CheckpointError`.
    """
    return _read(path, _recipe(path))


def packed_subject(path: Path, device: str = "cpu") -> Subject:
    """The network in ``path``, on ``device``, and what it was trained for; raises as `read_packed` does."""
    recipe = _recipe(path)
    return Subject(str(path), recipe.config, recipe.interface, _read(path, recipe).to(check_device(device)))


def _read(path: Path, recipe: Recipe) -> Network:
    _check_held(path, recipe)
    net = with_packed_weights(recipe.build())
    net.load_state_dict(read_tensors(path, net.state_dict()))
    return net


def _check_held(path: Path, recipe: Recipe) -> None:
    """Raises `CheckpointError` unless ``path`` holds the tensors of the network that it describes."""
    held = header(path)
    if sum(dtype.itemsize * prod(shape) for dtype, shape in held.values()) > path.stat().st_size:
        raise CheckpointError(f"{path}: announces more numbers than it holds; {HOW_TO_MAKE_ONE}")
    most = MOST_MADE * (len(held) + 1)
    try:
        with _at_most(most), torch.device("meta"):
            wanted = with_packed_weights(recipe.build()).state_dict()
    except OnwardError as error:
        raise CheckpointError(f"{path}: {error}; {HOW_TO_MAKE_ONE}") from None
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: describes no network ({str(error).strip().splitlines()[0][:200]}); {HOW_TO_MAKE_ONE}"
        ) from None
    words = difference(held, {name: (t.dtype, tuple(t.shape)) for name, t in wanted.items()})
    if words:
        raise CheckpointError(f"{path}: does not hold the network that it describes: {words}")


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Raises `CheckpointError` as soon as more ``parameters`` than that are made: a few words can ask for millions."""
    made = count(1)

    def look(module: nn.Module, name: str, parameter: nn.Parameter) -> None:  # noqa: ARG001
        if next(made) > parameters:
            raise CheckpointError(f"describes a network of more than {parameters:,} tensors, which it does not hold")

    handle = register_module_parameter_registration_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _recipe(path: Path) -> Recipe:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; {HOW_TO_MAKE_ONE}")
    told = _told(path)
    if told.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: is of another format than {FORMAT}; use the version of Onward that wrote it")
    try:
        return Recipe.model_validate(told)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {describe(error, 'network')}; {HOW_TO_MAKE_ONE}") from None
    except OnwardError as error:
        raise CheckpointError(f"{path}: {error}; {HOW_TO_MAKE_ONE}") from None


def _told(path: Path) -> dict[str, Any]:
    """What the header says of the network."""
    text = about(path).get(KEY, "")
    try:
        told = json.loads(text) if len(text) <= MOST_CHARACTERS else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, Mapping):
        raise CheckpointError(f"{path}: does not say which network it holds; {HOW_TO_MAKE_ONE}")
    return dict(told)


def _check_same(net: Network, again: Network, path: Path) -> None:
    """Raises `CheckpointError` unless both compute with the same weights, bit for bit."""
    for mine, read in zip(net.synapses, again.synapses, strict=True):
        there = effective(read.module)
        if not all(torch.equal(weight, there[name]) for name, weight in effective(mine.module).items()):
            raise CheckpointError(f"{path}: {mine.name} was not read back as it was written; try another disk")


def _stored(net: Network) -> int:
    return sum(tensor.nbytes for tensor in net.state_dict().values())
