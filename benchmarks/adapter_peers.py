"""Networks of snnTorch and SpikingJelly as Onward networks: ``python -m benchmarks.adapter_peers``.

Networks of every kind of neuron that the adapters know, with random weights, run over the same random inputs in both
libraries, in float64, for 50 steps; every spike is compared, and the membrane of every neuron at every step. The peers
come from the environment of `make peers` (``--peers`` names another one), whose packages are added behind our own.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import PEERS_FOLDER
from onward.adapters import from_snntorch, from_spikingjelly
from onward.core import Frames, Network
from onward.core.interpret import Record
from onward.core.run import outputs
from onward.surrogates import ATan

STEPS, SAMPLES, FLAT, MAPS = 50, 16, (40,), (2, 12, 12)
Trace = list[tuple[Tensor, Tensor]]
"""Spikes and membranes ``[T, B, ...]`` of every layer of neurons."""


@dataclass(frozen=True)
class Kind:
    """A network to try: ``make`` builds it of a library's modules, ``at_once`` says that membranes are seen reset."""

    name: str
    make: Callable[[], nn.Sequential]
    features: tuple[int, ...] = FLAT
    at_once: bool = True


@dataclass(frozen=True)
class Compared:
    """How often neurons fired, how many states differ, and by how much membranes differ at most."""

    spikes: int
    states: int
    differ: int
    gap: float


def add_peers(folder: Path) -> None:
    """Lets packages of another environment be imported, behind our own."""
    sys.path.extend(str(path) for path in sorted(folder.glob("lib/python3*/site-packages")))


def snntorch_kinds() -> list[Kind]:
    """Every neuron and reset of snnTorch's that is mapped."""
    snn: Any = import_module("snntorch")

    def neuron(kind: str, *numbers: float, **options: Any) -> Callable[[], nn.Module]:
        return lambda: getattr(snn, kind)(*numbers, spike_grad=_exact, init_hidden=True, **options)

    zero, at_once = {"reset_mechanism": "zero"}, {"reset_mechanism": "zero", "reset_delay": False}
    leaky = neuron("Leaky", 0.9)
    return [
        Kind("Leaky, subtract", _layers(leaky), at_once=False),
        Kind("Leaky, threshold 0.7, spikes 0.5", _layers(_graded(snn)), at_once=False),
        Kind("Leaky, zero", _layers(neuron("Leaky", 0.8, **zero)), at_once=False),
        Kind("Leaky, zero at once", _layers(neuron("Leaky", 0.8, **at_once))),
        Kind("Leaky, none", _layers(neuron("Leaky", 0.7, reset_mechanism="none")), at_once=False),
        Kind("Synaptic, subtract", _layers(neuron("Synaptic", 0.6, 0.8)), at_once=False),
        Kind("Synaptic, zero at once", _layers(neuron("Synaptic", 0.6, 0.8, **at_once))),
        Kind("Lapicque, subtract", _layers(neuron("Lapicque", R=5.1, C=1.2)), at_once=False),
        Kind("Leaky, subtract, convolutions", _maps(leaky), MAPS, at_once=False),
    ]


def spikingjelly_kinds() -> list[Kind]:
    """Every neuron and reset of SpikingJelly's that is mapped."""
    neurons: Any = import_module("spikingjelly.activation_based.neuron")
    layers: Any = import_module("spikingjelly.activation_based.layer")

    def neuron(kind: str, **options: Any) -> Callable[[], nn.Module]:
        return lambda: getattr(neurons, kind)(**options)

    return [
        Kind("LIFNode", _layers(neuron("LIFNode"))),
        Kind("LIFNode, tau 3, v_reset -0.2", _layers(neuron("LIFNode", tau=3.0, v_reset=-0.2))),
        Kind("LIFNode, soft", _layers(neuron("LIFNode", v_reset=None))),
        Kind("LIFNode, not decay_input", _layers(neuron("LIFNode", decay_input=False, v_threshold=1.3))),
        Kind("IFNode", _layers(neuron("IFNode"))),
        Kind("IFNode, soft", _layers(neuron("IFNode", v_reset=None))),
        Kind("ParametricLIFNode", _layers(neuron("ParametricLIFNode", init_tau=2.7))),
        Kind("LIFNode, convolutions", _maps(neuron("LIFNode")), MAPS),
        Kind("IFNode, soft, SpikingJelly's layers", _wrapped(layers, neuron("IFNode", v_reset=None)), MAPS),
    ]


def _exact(x: Tensor) -> Tensor:
    """Spikes in the precision of the membrane; snnTorch's own are float32 numbers."""
    return (x > 0).to(x.dtype)


def _graded(snn: Any) -> Callable[[], nn.Module]:
    return lambda: snn.Leaky(0.9, threshold=0.7, graded_spikes_factor=0.5, spike_grad=_exact, init_hidden=True)


def _layers(neuron: Callable[[], nn.Module]) -> Callable[[], nn.Sequential]:
    """Three fully connected layers."""
    sizes = (*FLAT, 64, 48, 10)
    return lambda: nn.Sequential(*(m for n, k in pairwise(sizes) for m in (nn.Linear(n, k), neuron())))


def _maps(neuron: Callable[[], nn.Module]) -> Callable[[], nn.Sequential]:
    """Convolutions, batch normalisation, both poolings."""

    def make() -> nn.Sequential:
        body = (nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), neuron(), nn.AvgPool2d(2))
        return nn.Sequential(
            *body, nn.Conv2d(8, 8, 3), neuron(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10), neuron()
        )

    return make


def _wrapped(layer: Any, neuron: Callable[[], nn.Module]) -> Callable[[], nn.Sequential]:
    """The same of a library's own layers, with votes at the end."""

    def make() -> nn.Sequential:
        body = (layer.Conv2d(2, 8, 3, padding=1), layer.BatchNorm2d(8), neuron(), layer.AvgPool2d(2))
        head = (layer.Flatten(), layer.Linear(32, 20), neuron(), layer.VotingLayer(2))
        return nn.Sequential(*body, layer.Conv2d(8, 8, 3), neuron(), layer.MaxPool2d(2), *head)

    return make


def random_network(kind: Kind) -> nn.Sequential:
    """The network with weights that let neurons fire, and statistics that are not those of the start."""
    torch.manual_seed(0)
    net = kind.make().double().eval()
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data.mul_(3)
        if isinstance(module, nn.BatchNorm2d):
            for buffer in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert buffer is not None
                buffer.uniform_(0.5, 1.5)
    return net


def inputs(kind: Kind) -> Tensor:
    """``[T, B, ...]``."""
    return torch.rand(STEPS, SAMPLES, *kind.features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def theirs(net: nn.Sequential, x: Tensor, state: str) -> tuple[Trace, Tensor]:
    """What the library's own modules do, step by step; membranes are the attribute ``state``."""
    fired: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    outs = []
    for frame in x:
        for module in net:
            frame = module(frame)
            membrane = getattr(module, state, None)
            if isinstance(membrane, Tensor):
                fired.setdefault(module, []).append((frame.clone(), membrane.clone()))
        outs.append(frame)
    traces = [tuple(torch.stack(part) for part in zip(*steps, strict=True)) for steps in fired.values()]
    return [(spikes, membranes) for spikes, membranes in traces], torch.stack(outs)


@torch.no_grad()
def ours(net: Network, x: Tensor, at_once: bool) -> tuple[Trace, Tensor]:
    """What the Onward network does."""
    seen: Trace = []

    def watch(record: Record) -> None:
        for node in record.net.neurons:
            module, firing = node.module, record.firings[node.index]
            seen.append((firing.out, module.after_reset(firing) if at_once else firing.potential))

    return seen, torch.cat(list(outputs(net.eval(), Frames(x), chunk=len(x), watch=watch)))


def compared(kind: Kind, adapted: Callable[..., Network], state: str) -> Compared:
    """Both libraries on the same network and inputs."""
    net, x = random_network(kind), inputs(kind)
    (mine, out), (other, other_out) = ours(adapted(net, surrogate=ATan()), x, kind.at_once), theirs(net, x, state)
    pairs = list(zip(mine, other, strict=True))
    return Compared(
        spikes=sum(int((a[0] != 0).sum()) for a, _ in pairs),
        states=sum(a[0].numel() for a, _ in pairs),
        differ=sum(int((a[0] != b[0]).sum()) for a, b in pairs) + int(((out - other_out).abs() > 1e-12).sum()),
        gap=max(float((a[1] - b[1]).abs().max()) for a, b in pairs),
    )


def rows() -> Iterator[str]:
    """A line for every network of both libraries."""
    libraries = (
        ("snnTorch", snntorch_kinds(), from_snntorch, "mem"),
        ("SpikingJelly", spikingjelly_kinds(), from_spikingjelly, "v"),
    )
    for library, kinds, adapted, state in libraries:
        for kind in kinds:
            found = compared(kind, adapted, state)
            yield (
                f"{library:13} {kind.name:38} {found.spikes:9,} spikes  {found.differ:5,} of {found.states:,} states "
                f"differ  membranes within {found.gap:.1e}"
            )


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="environment that has the libraries")
    add_peers(parser.parse_args().peers)
    for row in rows():
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
