"""NIR files in other libraries: ``python -m benchmarks.nir_peers``.

Networks of several kinds of neurons, with random weights, or one of your own (``--file``), are written as NIR files,
and read by snnTorch and Norse from the environment of `make peers` (``--snntorch`` and ``--norse`` name other
interpreters). All get the first 100 test digits of MNIST at 6 time steps; every state of every neuron is compared, in
the precision of both.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contenders import PEERS_FOLDER
from onward.core import Frames, Network
from onward.core.containers import Recurrent, Residual
from onward.core.interpret import Record
from onward.core.run import outputs
from onward.data import Loader, datasets, load
from onward.export.nir import read_network, write_network
from onward.export.purpose import Purpose
from onward.neurons import IF, LIF, CubaLIF, HardReset, Neuron

WORKER = Path(__file__).parent / "peers" / "nir_worker.py"
SAMPLES, STEPS, FEATURES = 100, 6, (1, 28, 28)
WITHOUT_DOUBLE = "snntorch"
"""Its spikes are float32 numbers in any precision."""


@dataclass(frozen=True)
class Kind:
    """Neurons to try; ``dt`` in seconds."""

    name: str
    neuron: Callable[[], Neuron]
    dt: float = 1e-4
    body: str = "layers"


def _lif(tau: float, **options: bool) -> LIF:
    return LIF(tau, reset=HardReset(), **options)


KINDS = (
    Kind("LIF, tau 2", lambda: _lif(2.0)),
    Kind("LIF, tau 2, decay_input", lambda: _lif(2.0, decay_input=True)),
    Kind("LIF, tau 3", lambda: _lif(3.0)),
    Kind("LIF, tau 3, decay_input", lambda: _lif(3.0, decay_input=True)),
    Kind("CubaLIF, decays 0.5", lambda: CubaLIF(LIF(2.0, reset=HardReset()), 0.5)),
    Kind("CubaLIF, decays 0.5, decay_input", lambda: CubaLIF(LIF(2.0, reset=HardReset(), decay_input=True), 0.5)),
    Kind("IF, dt 1 s", lambda: IF(reset=HardReset()), dt=1.0),
    Kind("LIF, tau 2, convolutions", lambda: _lif(2.0), body="convolutions"),
    Kind("LIF, tau 2, decay_input, convolutions", lambda: _lif(2.0, decay_input=True), body="convolutions"),
    Kind("LIF, tau 2, residual", lambda: _lif(2.0), body="residual"),
    Kind("LIF, tau 2, decay_input, residual", lambda: _lif(2.0, decay_input=True), body="residual"),
    Kind("LIF, tau 2, recurrent", lambda: _lif(2.0), body="recurrent"),
    Kind("LIF, tau 2, decay_input, recurrent", lambda: _lif(2.0, decay_input=True), body="recurrent"),
)


def network(kind: Kind) -> Network:
    """Two hidden layers and a readout, with weights that let neurons fire."""
    torch.manual_seed(0)
    first, second = kind.neuron(), kind.neuron()
    if kind.body == "convolutions":
        layers = [("conv1", nn.Conv2d(1, 8, 3, 2, 1)), ("neuron1", first), ("pool", nn.AvgPool2d(2))]
        layers += [("conv2", nn.Conv2d(8, 8, 3, padding=1)), ("neuron2", second), ("flatten", nn.Flatten())]
        layers += [("readout", nn.Linear(8 * 7 * 7, 10))]
    else:
        layers = [("flatten", nn.Flatten()), ("fc1", nn.Linear(784, 100)), ("neuron1", first)]
        hidden = nn.Linear(100, 100)
        block = {
            "layers": nn.Sequential(OrderedDict(fc=hidden, neuron=second)),
            "residual": nn.Sequential(OrderedDict(sum=Residual(hidden), neuron=second)),
            "recurrent": Recurrent(hidden, second, nn.Linear(100, 100, bias=False)),
        }[kind.body]
        layers += [("block", block), ("readout", nn.Linear(100, 10))]
    net = Network(nn.Sequential(OrderedDict(layers)))
    for node in net.synapses:
        node.module.weight.data.mul_(4)
    return net


def digits(steps: int) -> Tensor:
    """``[T, B, 1, 28, 28]``."""
    loader = Loader(load(datasets.parse("mnist")).test, SAMPLES, steps, shuffle=False)
    return next(iter(loader.epoch(0))).x.chunk(0, steps).float().contiguous()


@torch.no_grad()
def ours(net: Network, x: Tensor) -> dict[str, np.ndarray]:
    """Spikes ``[B, T, neurons]`` by the names of nodes."""
    seen: dict[str, list[Tensor]] = {}

    def watch(record: Record) -> None:
        for node in record.net.neurons:
            seen.setdefault(node.name.removeprefix("graph."), []).append(record.firings[node.index].out)

    list(outputs(net.eval(), Frames(x), chunk=len(x), watch=watch))
    return {name: torch.cat(parts).transpose(0, 1).flatten(2).numpy() for name, parts in seen.items()}


def theirs(library: str, python: Path, file: Path, x: Tensor, dt: float, double: bool) -> dict[str, np.ndarray] | str:
    """The same in another library; the last line of what went wrong where something did."""
    with TemporaryDirectory() as folder:
        inputs, spikes = Path(folder) / "inputs.npz", Path(folder) / "spikes.npz"
        np.savez(inputs, x=x.transpose(0, 1).contiguous().numpy(), dt=dt, double=double)
        command = [str(python), str(WORKER), library, str(file), str(inputs), str(spikes)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            return ended.stderr.strip().splitlines()[-1][:90]
        with np.load(spikes) as found:
            return dict(found)


def rows(file: Path, name: str, peers: dict[str, Path]) -> Iterator[str]:
    """How every peer does with ``file``, a line each."""
    given = read_network(file)
    x = digits((given.purpose.steps if given.purpose else None) or STEPS)
    for library, python in peers.items():
        for double in (False,) if library == WITHOUT_DOUBLE else (False, True):
            found = theirs(library, python, file, x, given.dt, double)
            precision = "float64" if double else "float32"
            if isinstance(found, str):
                yield f"{name:40} {library:9} {precision}  fails: {found}"
                continue
            net = given.found.net.double() if double else read_network(file).found.net.float()
            mine = ours(net, x.double() if double else x)
            spikes = int(sum(s.sum() for s in mine.values()))
            states = sum(s.size for s in mine.values())
            differ = int(sum((s != found[key]).sum() for key, s in mine.items()))
            yield f"{name:40} {library:9} {precision}  {spikes:9,} spikes  {differ:9,} of {states:,} states differ"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path)
    python = PEERS_FOLDER / "bin" / "python"
    for library in ("snntorch", "norse"):
        parser.add_argument(f"--{library}", type=Path, default=python, help=f"interpreter that has {library}")
    told = parser.parse_args()
    peers = {"snntorch": told.snntorch, "norse": told.norse}
    if told.file:
        print(*rows(told.file, told.file.name, peers), sep="\n")
        return
    with TemporaryDirectory() as folder:
        for number, kind in enumerate(KINDS):
            file = Path(folder) / f"{number}.nir"
            write_network(file, network(kind), Purpose(features=FEATURES, classes=10, steps=STEPS), dt=kind.dt)
            for row in rows(file, kind.name, peers):
                print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
