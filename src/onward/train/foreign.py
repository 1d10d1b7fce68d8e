"""Networks that other libraries trained: files of tensors, and the names that they go by.

A residual network of two convolutions a block has, in torchvision's words and in ours:

    conv1, bn1                      conv1, norm1
    layerS.B.convI, .bnI            blockN.body.convI, .normI        N counts blocks through all stages
    layerS.B.downsample.0, .1       blockN.shortcut.conv1, .norm1
    fc                              readout

Its blocks add before their last neurons. Others go by the same names and compute something else, so that where neurons
stand is compared, too.
Nothing in a file can run: pickles are read by torch's reader of weights alone.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from onward._tensors import MOST_TENSORS, CheckpointError, header
from onward.core.errors import ConfigError

PICKLES = (".pt", ".pth")
COUNTER = "num_batches_tracked"
"""What a normalisation layer counts, and older files do not have."""

_WRAPPERS = ("state_dict", "model")
_BLOCK = re.compile(
    r"layer(\d{1,4})\.(\d{1,4})\.(?:(?P<kind>conv|bn)(?P<number>\d)|downsample\.(?P<way>[01]))\.(?P<tensor>\w+)"
)
_OUTER = {"conv1": "conv1", "bn1": "norm1", "fc": "readout"}


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors in a ``.safetensors``, ``.pt``, ``.pth`` or ``.nir`` file, by name; else raises `ConfigError`."""
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in PICKLES:
        return _tensors(_unpickled(path))
    if path.suffix == ".nir":
        return _nir(path)
    raise ConfigError(
        f"a file that ends in {path.suffix or 'nothing'} was given; expected .safetensors, .pt, .pth or .nir, or the "
        "folder of a run"
    )


def renamed(tensors: Mapping[str, Tensor], neurons: Collection[str]) -> dict[str, Tensor]:
    """Tensors by our names: those of a residual network by torchvision's, others as they are.

    ``neurons`` are the names of ours. Raises `ConfigError` where they stand in other places than the rectifiers.

    >>> given = {"layer1.0.bn1.weight": torch.ones(1), "layer1.0.downsample.0.weight": torch.zeros(1)}
    >>> list(renamed(given, ["neuron1", "block1.body.neuron1", "neuron2"]))
    ['block1.body.norm1.weight', 'block1.shortcut.conv1.weight']
    """
    places = sorted({_place(found) for name in tensors if (found := _BLOCK.fullmatch(name))})
    if not places:
        return dict(tensors)
    numbers = {place: number for number, place in enumerate(places, 1)}
    _check_neurons(len(places), neurons)
    return {_ours(name, numbers): tensor for name, tensor in tensors.items()}


def _check_neurons(blocks: int, found: Collection[str]) -> None:
    bodies = {f"block{number}.body.neuron1" for number in range(1, blocks + 1)}
    other = sorted(bodies.union(f"neuron{number}" for number in range(1, blocks + 2)).symmetric_difference(found))
    if other:
        raise ConfigError(
            f"the file holds a ResNet of {blocks} blocks by torchvision's names, in which rectifiers stand elsewhere "
            f"than the neurons of this network (see {', '.join(other[:3])}); expected --model "
            "postact-resnet18-imagenet, or postact-resnet34-imagenet for 16 blocks"
        )


def _place(found: re.Match[str]) -> tuple[int, int]:
    """Stage and number of a block within it."""
    return int(found[1]), int(found[2])


def _ours(name: str, numbers: Mapping[tuple[int, int], int]) -> str:
    found = _BLOCK.fullmatch(name)
    if found is None:
        head, dot, rest = name.partition(".")
        return f"{_OUTER.get(head, head)}{dot}{rest}"
    if found["way"]:
        part = ("shortcut.conv1", "shortcut.norm1")[int(found["way"])]
    else:
        part = f"body.{'conv' if found['kind'] == 'conv' else 'norm'}{found['number']}"
    return f"block{numbers[_place(found)]}.{part}.{found['tensor']}"


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        header(path)  # within limits
        return load_file(path)
    except (CheckpointError, SafetensorError, OSError) as error:
        raise ConfigError(f"the file cannot be read ({error})") from None


def _nir(path: Path) -> dict[str, Tensor]:
    """Weights and biases of the synapses of a graph, by the names of its nodes."""
    from onward.export.nir.file import read_graph

    try:
        nodes = read_graph(path).nodes
    except CheckpointError as error:
        raise ConfigError(f"the file cannot be read ({error})") from None
    found = {f"{name}.{key}": getattr(node, key, None) for name, node in nodes.items() for key in ("weight", "bias")}
    return {name: torch.from_numpy(array) for name, array in found.items() if array is not None}


def _unpickled(path: Path) -> Any:
    """What a pickle of tensors holds; memory: not more than the file, whose parts must not be compressed."""
    try:
        _check_unpacked(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:  # whatever torch's reader meets in a damaged file: it has no error of its own
        first = str(error).partition("\n")[0]
        raise ConfigError(
            f"the file cannot be read ({first}); expected tensors by name and nothing else, as "
            "torch.save(net.state_dict(), path) writes them"
        ) from None


def _check_unpacked(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            unpacked = sum(part.file_size for part in file.infolist())
        if unpacked > path.stat().st_size:
            raise ConfigError(f"the file unpacks to {unpacked:,} bytes, more than its own; expected torch.save's")


def _tensors(held: Any) -> dict[str, Tensor]:
    """The table of tensors, which may lie in one more table; names without what data-parallel training adds."""
    if isinstance(held, dict):
        held = next((held[key] for key in _WRAPPERS if isinstance(held.get(key), dict)), held)
    if not isinstance(held, dict) or not held or len(held) > MOST_TENSORS:
        raise ConfigError(f"a {type(held).__name__} is in the file; expected tensors by name: a network's state_dict()")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items()):
        raise ConfigError("there is more than tensors by name in the file; expected a network's state_dict() alone")
    return {name.removeprefix("module."): tensor for name, tensor in held.items()}
