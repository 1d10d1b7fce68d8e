"""Nodes, and how containers turn into them.

A *synapse* has weights and a drive at its output; a *neuron* has a recurrence and none; everything between is
*glue* (normalisation, pooling, scaling, reshaping, addition, products of signals, dropout, delay).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize

from onward.core.errors import UnsupportedModule
from onward.core.glue import Delay, DropPath, Fitted
from onward.core.neuron import Neuron


class Kind(Enum):
    """What a node does."""

    INPUT = "input"
    SYNAPSE = "synapse"
    NEURON = "neuron"
    NORM = "norm"
    DROPOUT = "dropout"
    DELAY = "delay"
    ADD = "add"
    JOIN = "join"
    GLUE = "glue"


@dataclass(frozen=True, eq=False)
class Node:
    """One place in the network; ``inputs`` are indices of other nodes, ``name`` is its module path."""

    index: int
    name: str
    kind: Kind
    module: nn.Module
    inputs: tuple[int, ...]

    def __repr__(self) -> str:
        return f"{self.name or self.kind.value}"


@runtime_checkable
class Wired(Protocol):
    """A container that says how its parts are connected."""

    def wire(self, build: Builder, name: str, x: int) -> int:
        """Adds its nodes reading node ``x``; returns the index of its output."""
        ...


class Builder:
    """Collects the nodes of a network while its containers are wired."""

    def __init__(self) -> None:
        self.nodes = [Node(0, "input", Kind.INPUT, nn.Identity(), ())]

    def add(self, name: str, module: nn.Module, x: int) -> int:
        """Adds ``module`` (a container or a single node) reading node ``x``; returns its output's index."""
        if isinstance(module, Wired):
            return module.wire(self, name, x)
        if isinstance(module, nn.Sequential):
            for key, child in children(module):
                x = self.add(f"{name}.{key}" if name else key, child, x)
            return x
        if isinstance(module, nn.Identity):
            return x
        return self.node(name, kind_of(name, module), module, x)

    def node(self, name: str, kind: Kind, module: nn.Module, *inputs: int) -> int:
        """Adds one node."""
        self.nodes.append(Node(len(self.nodes), name, kind, module, inputs))
        return len(self.nodes) - 1

    def open(self, name: str) -> int:
        """Adds a delay of one step whose input comes later in the step: the start of a cycle."""
        return self.node(name, Kind.DELAY, Delay(1), -1)

    def close(self, delay: int, source: int) -> int:
        """Connects the delay opened before to its source; returns the source."""
        old = self.nodes[delay]
        self.nodes[delay] = Node(old.index, old.name, old.kind, old.module, (source,))
        return source


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children by name; unlike `named_children`, a module that stands in two places is listed twice."""
    return [(key, child) for key, child in module._modules.items() if child is not None]


def kind_of(name: str, module: nn.Module) -> Kind:
    """What a single module is; raises `UnsupportedModule` for one the engine cannot place."""
    if isinstance(module, Neuron):
        return Kind.NEURON
    if isinstance(module, _BatchNorm):
        return Kind.NORM
    if isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout):
        raise UnsupportedModule(
            f"{name or 'the network'} is {type(module).__name__}, whose mask is not a factor; use nn.Dropout"
        )
    if isinstance(module, _DropoutNd | DropPath):
        return Kind.DROPOUT
    if isinstance(module, Delay):
        return Kind.DELAY
    if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
        raise UnsupportedModule(
            f"{name or 'the network'} is {type(module).__name__}, which is more than one map of its input; use "
            "synapses such as nn.Linear with neurons between them, and Recurrent for a layer that hears itself"
        )
    if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | _InstanceNorm | nn.PReLU | Fitted):
        return Kind.GLUE
    own = list(module.parameters(recurse=False))
    if own or parametrize.is_parametrized(module):
        return Kind.SYNAPSE
    if any(True for _ in module.children()):
        raise UnsupportedModule(
            f"{name or type(module).__name__} is a container the network cannot look into ({type(module).__name__}); "
            "use nn.Sequential, Residual, Joined, Recurrent or Feedback, or give it a wire(build, name, x) method"
        )
    return Kind.GLUE
