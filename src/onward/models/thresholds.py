"""The thresholds of neurons that a network gets from its configuration."""

from __future__ import annotations

from torch import nn

from onward.core.errors import ConfigError
from onward.core.neuron import Neuron
from onward.neurons import Affine


def threshold_of(neuron: Neuron) -> float:
    """The threshold; raises `ConfigError` for a neuron that has none."""
    threshold = _recurrence(neuron).threshold
    return threshold.item() if isinstance(threshold, nn.Parameter) else threshold


def firing_at(share: float, neuron: Neuron) -> Neuron:
    """``neuron``, with its threshold lowered (or raised) to a ``share`` of itself.

    >>> from onward.neurons import LIF
    >>> threshold_of(firing_at(0.5, LIF(threshold=2.0)))
    1.0
    """
    found = _recurrence(neuron)
    if isinstance(found.threshold, nn.Parameter):
        found.threshold.data.mul_(share)
    else:
        found.threshold *= share
    return neuron


def _recurrence(neuron: Neuron) -> Affine:
    """The affine recurrence that a neuron is, or has inside."""
    found = next((module for module in neuron.modules() if isinstance(module, Affine)), None)
    if found is None:
        raise ConfigError(
            f"{type(neuron).__name__} has no threshold, and this network sets those of some layers; expected spiking "
            "neurons such as lif or if"
        )
    return found
