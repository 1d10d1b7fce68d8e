"""Learned thresholds that start from the activations of the ReLU network with the same weights (hybrid DSR).

V = percentile of the ReLU'd drive of a layer, so that the largest mean output of its neurons is that activation
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from onward.core import Network
from onward.core.errors import ConfigError
from onward.data import Dataset
from onward.data.dataset import spread_rows
from onward.models import Twin, set_thresholds, thresholds_from_activations
from onward.neurons import Affine
from onward.train.config import TrainConfig

BATCHES = 5
"""Mini-batches whose activations are looked at (Meng et al. 2022)."""


def start_thresholds(config: TrainConfig, net: Network, data: Dataset, steps: int) -> None:
    """Sets the learned thresholds of ``net`` as ``config.init_thresholds`` asks, if it does.

    Samples of ``data`` lie evenly over it and are not augmented; of those that move, the network of rectifiers sees the
    mean over time. A threshold is divided by the height of a spike of threshold 1. Raises `ConfigError` where no
    threshold is learned, or a layer is silent.
    """
    if config.init_thresholds is None:
        return
    heights = {name: neuron.height_share or 1.0 for name, neuron in _learners(net)}
    if not heights:
        raise ConfigError(
            f"train.init_thresholds {config.init_thresholds:g} was given, and no threshold of this network is learned; "
            "use neurons such as --neuron dsr-if, add --neuron.learn-threshold, or leave it out"
        )
    inputs = _inputs(data, config.batch_size, steps, next(net.parameters()).device)
    tops = thresholds_from_activations(Twin(net), inputs, config.init_thresholds)
    set_thresholds(net, {name: tops[name] / height for name, height in heights.items()})


def learned_thresholds(net: Network) -> list[str]:
    """The names of the thresholds that are parameters."""
    return [f"{name}.threshold" for name, _ in _learners(net)]


def _learners(net: Network) -> Iterator[tuple[str, Affine]]:
    """The neurons whose thresholds are parameters, and their names."""
    for node in net.neurons:
        if isinstance(node.module, Affine) and isinstance(node.module.threshold, nn.Parameter):
            yield node.name, node.module


def _inputs(data: Dataset, size: int, steps: int, device: torch.device) -> Iterator[Tensor]:
    for ids in spread_rows(len(data), BATCHES * size).split(size):
        yield data.batch(ids, steps).x.to(device).mean()
