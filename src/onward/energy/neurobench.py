"""What NeuroBench reports of a classifier, under its names, from the counters of `onward.energy.count`.

Of a network on N samples of T steps (Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing
algorithms and systems", Nature Communications 2025):

    footprint               bytes of parameters and buffers
    parameter_count         numbers among the parameters
    connection_sparsity     share of weights that are zero
    activation_sparsity     share of neurons, steps and samples without a spike
    synaptic_operations     of a sample: Effective_MACs, Effective_ACs, and Dense, were nothing zero
    membrane_updates        of a sample: neurons whose membrane a step has changed; at the first step, all
    classification_accuracy share of samples that are right
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onward.core.glue import turn
from onward.core.interpret import Record, evaluating
from onward.core.network import Network
from onward.core.run import outputs
from onward.core.synapse import effective
from onward.data import Loader
from onward.energy.count import SYNAPSE, count

Metrics = Mapping[str, float | Mapping[str, float]]
DIGITS = 4
"""To which NeuroBench rounds the sparsity of connections."""


def neurobench(net: Network, loader: Loader, accuracy: float, device: str = "cpu", chunk: int | None = None) -> Metrics:
    """The metrics of ``net`` on every sample of ``loader``, of which ``accuracy`` (a share) is right.

    Products of signals, as in attention, are no connections and do not count, as in NeuroBench. Costs two evaluations;
    memory O(chunk). Raises `UnsupportedModule` for a synapse whose weights are not one tensor.
    """
    chunk = chunk or loader.steps
    counts = count(net, loader, device, chunk)
    layers = [layer for layer in counts.layers if layer.kind == SYNAPSE]
    return {
        "footprint": counts.footprint,
        "parameter_count": sum(parameter.numel() for parameter in net.parameters()),
        "connection_sparsity": round(connection_sparsity(net), DIGITS),
        "activation_sparsity": counts.sparsity,
        "synaptic_operations": {
            "Effective_MACs": sum(layer.macs for layer in layers),
            "Effective_ACs": sum(layer.acs for layer in layers),
            "Dense": sum(layer.dense for layer in layers),
        },
        "membrane_updates": membrane_updates(net, loader, device, chunk),
        "classification_accuracy": accuracy,
    }


def connection_sparsity(net: Network) -> float:
    """The share of weights that are zero, as the network computes with them.

    >>> from torch import nn
    >>> layer = nn.Linear(2, 2)
    >>> layer.weight.data = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> connection_sparsity(Network(nn.Sequential(layer)))
    0.25
    """
    weights = [effective(node.module)["weight"] for node in net.synapses]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


@torch.no_grad()
def membrane_updates(net: Network, loader: Loader, device: str, chunk: int) -> float:
    """How many membranes a sample's steps change, in the mean."""
    changed, samples = 0, 0
    with evaluating(net):
        for batch in loader.epoch(0):
            turn(net, batch.task)
            membranes = _Membranes()
            for _ in outputs(net, batch.x.to(device), chunk=chunk, watch=membranes):
                pass
            changed, samples = changed + membranes.changed, samples + batch.x.batch
    return changed / samples


class _Membranes:
    """Counts changes of membranes over the chunks of a mini-batch."""

    def __init__(self) -> None:
        self.changed, self._last = 0, dict[int, Tensor]()

    def __call__(self, record: Record) -> None:
        """Adds a chunk."""
        for node in record.net.neurons:
            module: Any = node.module
            if not module.decay:
                continue
            v = module.after_reset(record.firings[node.index])
            last = self._last.get(node.index)
            self.changed += v[0].numel() if last is None else int((v[0] != last).sum())
            self.changed += int((v[1:] != v[:-1]).sum())
            self._last[node.index] = v[-1].clone()
