"""Checkpoints as inputs: forged ones agree with their own hashes, so that damage reaches the readers behind them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tests.fuzz.mutate import Parts
from tests.fuzz.packing import Files
from torch import nn

from onward._tensors import packed
from onward.core import Network, Recurrent
from onward.export import packed_subject, write_packed
from onward.export.nir import read_network, write_network
from onward.export.packed import Recipe
from onward.export.purpose import Purpose
from onward.neurons import LIF, HardReset
from onward.optim import (
    Architecture,
    QueryRNN,
    initial_cell,
    optimizers,
    parameter_groups,
    write_cell,
    write_query,
)
from onward.train import checkpoint
from onward.train.checkpoint import Trained
from onward.train.state import Fitted, Own, Progress, Sums

ORDER = sorted(checkpoint.FILES)
WORDS = (
    b'{"0.weight":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]}',
    b'"progress"',
    b'"ranks"',
    b'"F64"',
    b"1e999",
)


@cache
def trained() -> Trained:
    """A network, a rule with a buffer, an optimiser: what checkpoints are read into."""
    torch.manual_seed(0)
    net, rule = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.BatchNorm1d(2)
    optimizer = optimizers.build({"name": "adam"}, parameter_groups(net, rule, 0.0, False))
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    return Trained(net, rule, optimizer)


def valid() -> list[Parts]:
    """The files of a checkpoint, in the order of their names."""
    fitted = Fitted(Progress(epoch=1, updates=7), ranks=[Own(Sums(0.5, 3, 8, rates={"lif": 0.25}), {"linear": "blas"})])
    files = {f"{part}.safetensors": packed(tensors) for part, tensors in trained().tensors().items()}
    files[checkpoint.STATE] = json.dumps(fitted.to_json()).encode()
    return [tuple(files[name] for name in ORDER)]


def cells() -> list[Parts]:
    """Files of learned optimisers."""
    found: list[Parts] = []
    for options in ({"hidden": 3}, {"hidden": 2, "layers": 2, "biases": True, "input": "log", "momenta": [0.5]}):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "cell.safetensors"
            write_cell(path, initial_cell(Architecture.model_validate(options), seed=0), {"seed": 0})
            found.append((path.read_bytes(),))
    return found


def queries() -> list[Parts]:
    """Files of query networks."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "query.safetensors"
        write_query(path, QueryRNN(hidden=3), {"seed": 0})
        return [(path.read_bytes(),)]


def packed_networks() -> list[Parts]:
    """Files of networks with binary weights."""
    found: list[Parts] = []
    for model, features in (
        ({"name": "mlp", "hidden": [5, 4]}, (3,)),
        ({"name": "layers", "spec": "2C3-3C3-FC"}, (1, 4, 4)),
    ):
        told = {"model": model, "neuron": "lif", "weights": "binary", "features": features, "classes": 3}
        recipe = Recipe.model_validate(told)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "packed.safetensors"
            write_packed(path, recipe.build(), recipe)
            found.append((path.read_bytes(),))
    return found


def graphs() -> list[Parts]:
    """Networks as NIR graphs: a chain of layers, and one with a cycle."""
    hard = HardReset()
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), LIF(reset=hard), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3))
    cycle = nn.Sequential(Recurrent(nn.Linear(3, 3), LIF(reset=hard), nn.Linear(3, 3, bias=False)))
    found: list[Parts] = []
    for body, features in ((conv, (1, 4, 4)), (cycle, (3,))):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.nir"
            write_network(path, Network(body), Purpose(features=features, classes=3, heads=1, steps=4))
            found.append((path.read_bytes(),))
    return found


def read_graph_of_a_network(folder: Path) -> object:
    """The network, and what it says of one sample."""
    found = read_network(folder / "network.nir").found
    return found.net(torch.zeros(1, 1, *found.features, dtype=torch.float64))


def read_packed_network(folder: Path) -> object:
    """The network, and what it says of one sample."""
    subject = packed_subject(folder / "packed.safetensors")
    return subject.net(torch.zeros(1, 1, *subject.interface.features))


def packed_bombs() -> Iterable[Files]:
    """Networks of more layers, or wider ones, than the file holds; numbers that are not there."""
    told = {"format": 1, "neuron": "lif", "weights": "real", "features": [3, 8, 8], "classes": 3}
    models: list[dict] = [
        {"name": "mlp", "hidden": [2**40]},
        {"name": "mlp", "hidden": [1] * 200_000},
        {"name": "spikformer", "blocks": 10**9},
        {"name": "nf-resnet18", "blocks": [10**9]},
        {"name": "layers", "spec": "-".join(["1C3"] * 100_000) + "-FC"},
        {"name": "conv5", "width": 1e9},
    ]
    for model in models:
        yield {
            "packed.safetensors": packed({"x": torch.zeros(1)}, {"onward.packed": json.dumps({**told, "model": model})})
        }
    for features in ([10**15], [1, 10**9, 10**9], [], [0], [-1]):
        about = json.dumps({**told, "model": "mlp", "features": features})
        yield {"packed.safetensors": packed({"x": torch.zeros(1)}, {"onward.packed": about})}


def forged(parts: Parts) -> Files:
    """Any files as a checkpoint whose hashes are right."""
    files = dict(zip(ORDER, [*parts, *[b""] * len(ORDER)], strict=False))
    hashes = json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in files.items()}).encode()
    marker = hashlib.sha256(hashes).hexdigest().encode()
    return {**files, checkpoint.HASHES: hashes, checkpoint.COMMIT: marker}


def listed() -> list[Parts]:
    """Hashes and marker of a right checkpoint."""
    files = forged(valid()[0])
    return [(files[checkpoint.HASHES], files[checkpoint.COMMIT])]


def with_list(parts: Parts) -> Files:
    """A right checkpoint with any list of hashes and any marker."""
    hashes, marker, *_ = (*parts, b"", b"")
    return {**forged(valid()[0]), checkpoint.HASHES: hashes, checkpoint.COMMIT: marker}


def read(folder: Path) -> object:
    """Everything that resuming reads."""
    there = trained()
    state = Fitted.from_json(checkpoint.read_state(folder))
    checkpoint.read_modules(folder, there.net, there.rule)
    checkpoint.read_optimizer(folder, there.optimizer)
    return state


def crafted() -> Iterable[Files]:
    """Headers that announce terabytes, a hundred thousand tensors, offsets outside the file, deep nesting."""
    good = list(valid()[0])
    place = ORDER.index("network.safetensors")
    many = {f"t{i}": {"dtype": "F32", "shape": [], "data_offsets": [0, 0]} for i in range(100_001)}
    names = {
        name: {"dtype": "F32", "shape": list(t.shape), "data_offsets": [0, 1 << 60]} for name, t in _float().items()
    }
    for head in (json.dumps(many).encode(), json.dumps(names).encode(), b"[" * 1_000_000, b"{}", b"null"):
        good[place] = len(head).to_bytes(8, "little") + head
        yield forged(tuple(good))
    for content in ((1 << 63).to_bytes(8, "little"), b"\xff" * 8, b""):
        good[place] = content
        yield forged(tuple(good))
    good = list(valid()[0])
    for state in (b"[" * 1_000_000, b"9" * 1_000_000, b'{"progress": ' * 100_000, b"{" + b" " * (2 << 20) + b"}"):
        good[ORDER.index(checkpoint.STATE)] = state
        yield forged(tuple(good))


def _float() -> dict[str, torch.Tensor]:
    return {name: t for name, t in trained().net.state_dict().items() if t.is_floating_point()}
