"""A few samples as the trained network sees them: input, spikes, membranes, outputs over time; for the run's page."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from onward.core import Network, Objective
from onward.core.graph import Node
from onward.core.neuron import Firing
from onward.core.sequence import Sequence
from onward.data import Batch
from onward.train.observe import watched

LAYERS, NEURONS, TRACES, STEPS, SIDE, ROWS = 6, 32, 2, 200, 48, 96
"""At most so many layers, neurons of each, membranes of these, time steps; pixels to a side, rows of other inputs."""


def shown(net: Network, objective: Objective, batch: Batch, chunk: int) -> list[dict[str, Any]]:
    """What a page shows of the most telling samples of ``batch``: the one that the network is surest of and right, the
    one that it is surest of and wrong, and the one that it doubts most. Cost: two forward passes, in evaluation mode.
    """
    evidence = None
    for out in watched(net, batch, chunk, lambda node, firing: None):
        evidence = objective.reduce(evidence, out)
    assert evidence is not None
    right = objective.predict(evidence) == batch.y
    told = objective.logits(evidence, batch.x.steps).float().softmax(-1)
    chosen = telling(told, right)
    seen = _Traces(list(chosen.values()))
    outs = torch.cat([out[:, seen.rows].cpu() for out in watched(net, batch, chunk, seen)])[:STEPS]
    return [
        {
            "why": why,
            "sample": int(batch.ids[row]),
            "label": int(batch.y[row]),
            "predicted": int(told[row].argmax()),
            "certainty": float(told[row].max()),
            "steps": batch.x.steps,
            "input": picture(batch.x, row),
            "layers": seen.noted(place),
            "outputs": _rounded(outs[:, place].T),
        }
        for place, (why, row) in enumerate(chosen.items())
    ]


def telling(told: Tensor, right: Tensor) -> dict[str, int]:
    """The rows worth a look, by why; ``told`` are probabilities ``[B, m]``.

    >>> told = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> telling(told, torch.tensor([True, True, False]))
    {'surest and right': 0, 'surest and wrong': 2, 'most in doubt': 1}
    """
    top = told.topk(min(2, told.shape[-1]), -1).values
    sure, lead = top[:, 0], top[:, 0] - top[:, -1]
    found = {}
    if right.any():
        found["surest and right"] = int(torch.where(right, sure, -1.0).argmax())
    if not right.all():
        found["surest and wrong"] = int(torch.where(right, -1.0, sure).argmax())
    found["most in doubt"] = int(lead.argmin())
    return {why: row for place, (why, row) in enumerate(found.items()) if row not in list(found.values())[:place]}


class _Traces:
    """Collects spikes and potentials of some samples ``rows``, of all neurons: what is shown is chosen afterwards."""

    def __init__(self, rows: list[int]):
        self.rows = rows
        self.levels: dict[str, float | None] = {}
        self.spikes: dict[str, list[Tensor]] = {}
        self.potentials: dict[str, list[Tensor]] = {}

    def __call__(self, node: Node, firing: Firing) -> None:
        """Adds a chunk."""
        level: Any = node.module.level
        self.levels[node.name] = None if level is None else float(level)
        spikes, potentials = self.spikes.setdefault(node.name, []), self.potentials.setdefault(node.name, [])
        if sum(map(len, spikes)) < STEPS:
            spikes.append((firing.out[:, self.rows] > 0).flatten(2).cpu())
            potentials.append(firing.potential[:, self.rows].flatten(2).float().cpu())

    def noted(self, place: int) -> list[dict[str, Any]]:
        """The layers of one sample: the neurons whose spikes vary most over time and samples, in the layer's order."""
        names = list(self.spikes)
        kept = [names[k * len(names) // min(LAYERS, len(names))] for k in range(min(LAYERS, len(names)))]
        return [self._layer(name, place) for name in kept]

    def _layer(self, name: str, place: int) -> dict[str, Any]:
        spikes, potentials = torch.cat(self.spikes[name])[:STEPS], torch.cat(self.potentials[name])[:STEPS]
        neurons = _most_varied(spikes.flatten(0, 1), NEURONS)
        fired, u = spikes[:, place, neurons], potentials[:, place, neurons]
        traced = _most_varied(fired, TRACES)
        return {
            "name": name,
            "of": spikes.shape[-1],
            "neurons": neurons.tolist(),
            "spikes": [fired[:, k].nonzero().flatten().tolist() for k in range(len(neurons))],
            "rate": float(spikes[:, place].float().mean()),
            "level": self.levels[name],
            "traced": traced.tolist(),
            "potentials": _rounded(u[:, traced].T),
        }


def _most_varied(spikes: Tensor, count: int) -> Tensor:
    """The ``count`` columns of ``spikes`` whose mean is nearest to one half, in their order."""
    rates = spikes.float().mean(0)
    return (rates * (1 - rates)).topk(min(count, len(rates))).indices.sort().values


def picture(x: Sequence, row: int) -> dict[str, Any]:
    """One sample as pixels: a map's mean over time by channel, or for vectors their values over time."""
    frames = torch.stack([x.chunk(t, t + 1)[0, row].float().cpu() for t in range(min(x.steps, STEPS))])
    if len(x.features) == 3:
        return {"kind": "map", "channels": _rounded(_small(frames.mean(0)))}
    rows = frames.flatten(1).T[None]
    side = round(rows.shape[1] ** 0.5)
    if bool((frames == frames[:1]).all()) and side * side == rows.shape[1]:
        return {"kind": "map", "channels": _rounded(_small(frames[0].view(1, side, side)))}
    return {"kind": "time", "channels": _rounded(adaptive_avg_pool2d(rows, (min(ROWS, rows.shape[1]), rows.shape[2])))}


def _small(maps: Tensor) -> Tensor:
    """Three channels at most (of more, their mean), at most `SIDE` pixels to a side."""
    channels = maps if len(maps) <= 3 else maps.mean(0, keepdim=True)
    return adaptive_avg_pool2d(channels, (min(SIDE, maps.shape[1]), min(SIDE, maps.shape[2])))


def _rounded(values: Tensor) -> Any:
    """As nested lists, with three digits behind the point."""
    return torch.round(values.double(), decimals=3).tolist()
