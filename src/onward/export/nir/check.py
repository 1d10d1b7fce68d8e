"""Whether two networks fire alike: neuron by neuron, step by step, on inputs drawn for that."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from onward.core import Frames, Network
from onward.core.interpret import Record, evaluating
from onward.core.run import outputs
from onward.export.nir.read import GRAPH, key_of

STEPS, SAMPLES, CHUNK = 12, 8, 4
OUTPUT_TOLERANCE = 1e-9
"""Largest difference of outputs, relative to the largest of them, that rounding in float64 explains."""

Watched = tuple[dict[str, Tensor], Tensor]
"""Which neurons fired, ``[T, B, ...]`` by layer, and the outputs."""


@dataclass(frozen=True)
class Agreement:
    """How two networks compared; ``states`` says how often a neuron fired or did not, ``first`` where they differ.

    ``silent`` are layers that never fired: the same of both says little there.
    """

    states: int
    spikes: int
    agreed: int
    silent: tuple[str, ...]
    first: str | None


def probes(features: tuple[int, ...]) -> Tensor:
    """``[T, B, *features]`` in float64: grey values and single spikes, from weak to eight times as strong."""
    draw = torch.Generator().manual_seed(0)
    still = torch.rand(SAMPLES // 2, *features, generator=draw, dtype=torch.float64)
    events = torch.rand(STEPS, SAMPLES - SAMPLES // 2, *features, generator=draw, dtype=torch.float64) < 0.2
    both = torch.cat([still.expand(STEPS, *still.shape), events.double()], dim=1)
    strength = 2.0 ** (torch.arange(SAMPLES) % (SAMPLES // 2))
    return both * strength.view(-1, *[1] * len(features)).double()


def agreement(net: Network, other: Network, features: tuple[int, ...]) -> Agreement:
    """Runs both on `probes` in float64; layers are matched by the names that `key_of` gives."""
    x = probes(features)
    return compared(watched(net, x), watched(other, x))


def compared(one: Watched, other: Watched) -> Agreement:
    """Two networks that saw the same probes; the second is the one that was read from a file."""
    (mine, out), (theirs, other_out) = one, other
    if mine.keys() != theirs.keys() or any(mine[name].shape != theirs[name].shape for name in mine):
        return Agreement(0, 0, 0, (), "the layers of neurons are not the same")
    same = {name: fired == theirs[name] for name, fired in mine.items()}
    differing = [name for name, states in same.items() if not bool(states.all())]
    return Agreement(
        states=sum(fired.numel() for fired in mine.values()),
        spikes=sum(int(fired.sum()) for fired in mine.values()),
        agreed=sum(int(states.sum()) for states in same.values()),
        silent=tuple(name for name, fired in mine.items() if not bool(fired.any())),
        first=_place(differing[0], same[differing[0]], mine[differing[0]]) if differing else _apart(out, other_out),
    )


def _place(name: str, same: Tensor, here: Tensor) -> str:
    """The first state that differs, in words."""
    step, sample, neuron = (int(i) for i in (~same).flatten(2).nonzero()[0])
    fired = bool(here.flatten(2)[step, sample, neuron])
    says = "fires in the network and not in the file" if fired else "fires in the file and not in the network"
    return f"neuron {neuron} of {name} {says}, at step {step} of probe {sample}"


def _apart(out: Tensor, other: Tensor) -> str | None:
    """How far outputs are apart, where rounding does not explain it."""
    gap = float((out - other).abs().max())
    if gap <= OUTPUT_TOLERANCE * max(1.0, float(out.abs().max())):
        return None
    return f"outputs differ by up to {gap:.3g}, while all spikes agree"


@torch.no_grad()
def watched(net: Network, x: Tensor) -> Watched:
    """What ``net`` does of ``x`` in float64."""
    seen: dict[str, list[Tensor]] = {}

    def watch(record: Record) -> None:
        for node in record.net.neurons:
            if node.module.spiking:
                seen.setdefault(layer_name(node.name), []).append(record.firings[node.index].out != 0)

    double = deepcopy(net).double().cpu()
    with evaluating(double):
        out = torch.cat(list(outputs(double, Frames(x), chunk=CHUNK, watch=watch)))
    return {name: torch.cat(parts) for name, parts in seen.items()}, out


def layer_name(name: str) -> str:
    """What a layer of neurons is called, whatever it was read from."""
    return key_of(name.removeprefix(f"{GRAPH}.")).rstrip("_")
