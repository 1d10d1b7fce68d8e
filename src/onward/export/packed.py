"""Networks with binary weights on disk: a safetensors file, whose header says in JSON how to build the network.

A binary weight is two tensors, its bits and one scale for each output channel; all else is stored as it is. Nothing in
it can name or run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onward._durable import write_whole
from onward._tensors import CheckpointError, about, packed, read_tensors
from onward.core import Network
from onward.core.errors import ConfigError, OnwardError
from onward.core.registry import describe
from onward.core.synapse import effective
from onward.train.config import ModelField, NeuronField, RunConfig, WeightsField
from onward.train.folder import Interface, RunFolder
from onward.train.networks import build_network, trained_network
from onward.weights.cost import LayerCost, costs
from onward.weights.packed import with_packed_weights

KEY, FORMAT, NAME = "onward.packed", 1, "packed.safetensors"
MOST_CHARACTERS = 2**20
HOW_TO_MAKE_ONE = "expected a file that `onward pack` wrote"


class Recipe(BaseModel):
    """How to build a network: the sections of a run's configuration that say so, and what it takes and gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelField
    neuron: NeuronField
    weights: WeightsField
    features: tuple[int, ...]
    classes: int = Field(ge=1)
    heads: int = Field(1, ge=1)

    def build(self) -> Network:
        """The network, with initial weights."""
        config = RunConfig.model_validate({name: getattr(self, name) for name in ("model", "neuron", "weights")})
        return build_network(config, Interface(self.features, self.classes, self.heads))


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
    recipe = Recipe(
        model=config.model, neuron=config.neuron, weights=config.weights,
        features=interface.features, classes=interface.classes, heads=interface.heads,
    )  # fmt: skip
    write_packed(path, net, recipe)
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

    Memory: a header of at most 16 MiB, then what the network takes. Raises `ConfigError` or `CheckpointError`.
    """
    net = with_packed_weights(_recipe(path).build())
    net.load_state_dict(read_tensors(path, net.state_dict()))
    return net


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
