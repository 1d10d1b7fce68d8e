"""Layers that have stopped taking part: those that never fire, and those that always do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

SILENT, SATURATED = 1e-4, 0.95
"""Spikes per neuron and step at or below which a layer counts as dead, and at or above which as saturated."""


def alarms(rates: Mapping[str, float]) -> Iterator[str]:
    """What to say of firing ``rates`` (spikes per neuron and step, by layer), in plain words.

    >>> list(alarms({"lif1": 0.2}))
    []
    >>> next(alarms({"lif1": 0.0})).partition(":")[0]
    'layer lif1 is silent (0.0000 spikes per neuron and step)'
    """
    for name, rate in rates.items():
        found = f"({rate:.4f} spikes per neuron and step)"
        if rate <= SILENT:
            yield (
                f"layer {name} is silent {found}: nothing behind it can learn; lower --neuron.threshold or "
                "--optim.lr, or choose a slower leak (--neuron.tau)"
            )
        elif rate >= SATURATED:
            yield (
                f"layer {name} is saturated {found}: its spikes carry next to nothing; raise --neuron.threshold, "
                "or lower --optim.lr"
            )
