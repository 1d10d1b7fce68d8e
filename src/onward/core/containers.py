"""Containers with wiring of their own: residual blocks, inner shortcuts, joined branches, recurrent layers, loops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from onward.core.glue import Add
from onward.core.graph import Builder, Kind, children
from onward.core.neuron import Neuron


class Residual(nn.Module):
    """body(x) + shortcut(x); the shortcut is the identity unless given."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        body = build.add(f"{name}.body", self.body, x)
        return build.node(f"{name}.add", Kind.ADD, Add(), body, build.add(f"{name}.shortcut", self.shortcut, x))


class Bridge(NamedTuple):
    """A shortcut inside a `Bridged` stack: ``way`` of what the layer ``start`` sends, or of what the stack reads where
    it is None, is added to what the layer ``end`` sends."""

    name: str
    way: nn.Module
    start: str | None
    end: str


class Bridged(nn.Module):
    """A stack with shortcuts inside; its layers keep the names that they have in ``layers``.

    >>> from collections import OrderedDict
    >>> from onward.core.glue import GroupMean, Tile
    >>> body = nn.Sequential(OrderedDict(wide=nn.Linear(2, 4), narrow=nn.Linear(4, 2)))
    >>> stack = Bridged(body, [Bridge("tile", Tile(2), None, "wide"), Bridge("mean", GroupMean(2), "wide", "narrow")])
    >>> [name for name, _ in stack.named_parameters()] == [name for name, _ in body.named_parameters()]
    True
    """

    def __init__(self, layers: nn.Sequential, bridges: Iterable[Bridge]):
        super().__init__()
        self.layers, self.bridges = [key for key, _ in children(layers)], tuple(bridges)
        for key, layer in [*children(layers), *((bridge.name, bridge.way) for bridge in self.bridges)]:
            self.add_module(key, layer)

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        sent: dict[str | None, int] = {None: x}
        for key in self.layers:
            x = build.add(f"{name}.{key}", self.get_submodule(key), x)
            for bridge in self.bridges:
                if bridge.end == key:
                    way = build.add(f"{name}.{bridge.name}", bridge.way, sent[bridge.start])
                    x = build.node(f"{name}.{bridge.name}.add", Kind.ADD, Add(), x, way)
            sent[key] = x
        return x


class Joined(nn.Module):
    """join(first(x), second(x), ...): branches that read the same signal, and what their outputs make together.

    ``join`` takes one tensor ``[rows, ...]`` for each branch, in order, and has no memory; `onward.core.attention` has
    some. `Residual` is the sum.

    >>> from onward.core.attention import Gate
    >>> Joined(Gate(), gate=nn.Linear(4, 4), values=nn.Identity()).branches
    ('gate', 'values')
    """

    def __init__(self, join: nn.Module, **branches: nn.Module):
        super().__init__()
        self.join, self.branches = join, tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        ends = [build.add(f"{name}.{branch}", self.get_submodule(branch), x) for branch in self.branches]
        return build.node(f"{name}.join", Kind.JOIN, self.join, *ends)


class Recurrent(nn.Module):
    """A layer that also reads its own spikes of the step before: neuron(synapse(x) + recurrent(s[t-1]))."""

    def __init__(self, synapse: nn.Module, neuron: Neuron, recurrent: nn.Module):
        super().__init__()
        self.synapse, self.neuron, self.recurrent = synapse, neuron, recurrent

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        drive = build.add(f"{name}.synapse", self.synapse, x)
        past = build.open(f"{name}.delay")
        back = build.add(f"{name}.recurrent", self.recurrent, past)
        total = build.node(f"{name}.add", Kind.ADD, Add(), drive, back)
        out = build.add(f"{name}.neuron", self.neuron, total)
        return build.close(past, out)


class Feedback(nn.Module):
    """A stack whose first neuron also reads the stack's output of the step before, through ``back``.

    entry(x) + back(out[t-1]) -> body -> out. OTTT's VGG-F is one: entry the first convolution, back an upsampling
    and a convolution.
    """

    def __init__(self, entry: nn.Module, body: nn.Module, back: nn.Module):
        super().__init__()
        self.entry, self.body, self.back = entry, body, back

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        drive = build.add(f"{name}.entry", self.entry, x)
        past = build.open(f"{name}.delay")
        back = build.add(f"{name}.back", self.back, past)
        total = build.node(f"{name}.add", Kind.ADD, Add(), drive, back)
        return build.close(past, build.add(f"{name}.body", self.body, total))
