"""Networks as configurations describe them: new, or as a run left them."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import torch
from torch import nn

from onward.core import Network
from onward.core.errors import ConfigError
from onward.core.glue import Heads
from onward.core.graph import children
from onward.models import models
from onward.neurons import neurons
from onward.train import checkpoint
from onward.train.config import RunConfig, known_device
from onward.train.folder import Interface, RunFolder
from onward.weights import weight_kinds


def build_network(config: RunConfig, interface: Interface) -> Network:
    """The configured network for what it takes and gives, with initial weights fixed by the seed."""
    torch.manual_seed(config.seed)
    outputs = interface.classes * interface.heads
    net = models.build(config.model, interface.features, outputs, lambda: neurons.build(config.neuron))
    if interface.heads > 1:
        heads = Heads(interface.heads, interface.classes)
        net = Network(nn.Sequential(OrderedDict((*children(net), ("heads", heads)))))
    return weight_kinds.build(config.weights).apply(net)


def trained_network(folder: RunFolder) -> Network:
    """The trained network of a run; needs none of the data it was trained on, nor the run that it started from."""
    net = build_network(folder.config(), folder.interface())
    checkpoint.read_modules(folder.trained(), net)
    return net


def check_device(device: str) -> str:
    """``device``, if it is there; raises `ConfigError` with the fix."""
    if known_device(device) == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device {device} was asked for, but torch {torch.__version__} sees no CUDA device; "
            "use --device cpu, or install a CUDA build of torch and a driver"
        )
    index, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(
            f"device {device} was asked for, but there are {count} (numbered from 0); use --device cuda:0"
        )
    _open(device)
    return device


def _open(device: str) -> None:
    """A first product forward and backward: both threads have a context then, else torch warns that one has none."""
    one = torch.ones(1, 1, device=device, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.mm(one).sum().backward()


def load_network(folder: RunFolder, device: str) -> Network:
    """As `trained_network`, on ``device``."""
    return trained_network(folder).to(check_device(device))
