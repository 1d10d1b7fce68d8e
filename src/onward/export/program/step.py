"""One time step of a network in evaluation mode, in plain torch: an input and states to an output and new states.

A signal that comes back in a cycle is there from the second step on: before, sums are of what is there, and neurons
that read nothing else rest. The state ``awake`` says so, 0 at first and 1 from then on.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core.draws import KeyedDraws
from onward.core.errors import UnsupportedModule
from onward.core.graph import Kind, Node
from onward.core.group import Share
from onward.core.interpret import Forward, evaluating, run_walk
from onward.core.network import Network
from onward.core.neuron import Neuron
from onward.core.signal import Carry, Context, dense
from onward.core.synapse import effective
from onward.export.program.neurons import Law, law_of

AWAKE = "awake"


@dataclass(frozen=True)
class Slot:
    """A state: its name, its shape without the batch, and the value that it has before the first step."""

    name: str
    shape: tuple[int, ...]
    initial: float

    def start(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The state of ``batch`` samples before the first step."""
        return torch.full((batch, *self.shape), self.initial, dtype=dtype)


class InferenceStep(nn.Module):
    """``net`` as a function of a step: ``step(x, states) -> (output, states)`` with all ``[B, ...]``.

    ``features`` is the shape of a sample's input, ``slots`` describes the states. Weights that are worked out from
    others (binary, standardised) are the numbers that they come to. Raises `UnsupportedModule` for neurons that cannot
    be stepped so.

    >>> from onward.neurons import LIF
    >>> step = InferenceStep(Network(nn.Sequential(nn.Linear(3, 2), LIF())), (3,))
    >>> output, states = step(torch.zeros(5, 3), [slot.start(5) for slot in step.slots])
    >>> output.shape, [slot.name for slot in step.slots]
    (torch.Size([5, 2]), ['1.membrane'])
    """

    def __init__(self, net: Network, features: tuple[int, ...]):
        super().__init__()
        self.net = _plain(net).eval()
        self.laws = {node.index: law_of(cast(Neuron, node.module), node.name) for node in self.net.neurons}
        self.slots = _slots(self.net, self.laws, features)

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The output, and the states after the step; see `InferenceStep`."""
        return self.fired(x, states)[:2]

    def fired(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """The same, and what every layer of spiking neurons sent, by name."""
        before = {slot.name: state for slot, state in zip(self.slots, states, strict=True)}
        visit = _Visit(self.net, self.laws, before)
        out = self.net.walk(x, visit)
        return out, [visit.after[slot.name] for slot in self.slots], visit.fired


class _Visit:
    """What happens at every node; ``fired`` collects what spiking neurons sent."""

    def __init__(self, net: Network, laws: dict[int, Law], before: dict[str, Tensor]):
        self.net, self.laws, self.before, self.fired = net, laws, before, dict[str, Tensor]()
        self.after = {AWAKE: torch.ones_like(before[AWAKE])} if AWAKE in before else dict[str, Tensor]()

    def __call__(self, node: Node, *inputs: Tensor) -> Tensor | None:
        """The value of ``node``."""
        match node.kind:
            case Kind.NEURON:
                return self.neuron(node, inputs[0])
            case Kind.DELAY:
                return self.delay(node, *inputs)
            case Kind.ADD:
                return self.present(node, 0, inputs[0]) + self.present(node, 1, inputs[1])
            case Kind.DROPOUT:
                return inputs[0]
        return node.module(*inputs)

    def neuron(self, node: Node, x: Tensor) -> Tensor:
        """What neurons send; those that nothing reaches yet keep their states."""
        module: Any = node.module
        law = self.laws[node.index]
        names = [f"{node.name}.{part}" for part in law.states]
        before = tuple(self.before[name] for name in names)
        out, after = law.step(x, before)
        if self.net.wakes(node):
            after = tuple(torch.where(self.awake(new) > 0, new, old) for new, old in zip(after, before, strict=True))
        self.after.update(zip(names, after, strict=True))
        if module.spiking:
            self.fired[node.name] = out
        return out

    def delay(self, node: Node, *inputs: Tensor) -> Tensor | None:
        """The oldest of what waits, ``[B, steps, ...]``; in a cycle the new one comes at the end of the step."""
        waiting = self.before[node.name]
        if inputs:
            self.after[node.name] = torch.cat([waiting[:, 1:], inputs[0][:, None]], 1)
        return waiting[:, 0] if not (inputs and self.net.closes_cycle(node)) else None

    def present(self, node: Node, place: int, x: Tensor) -> Tensor:
        """A term of a sum, 0 where it is not there yet."""
        late = self.net.wakes(self.net.nodes[node.inputs[place]]) > self.net.wakes(node)
        return torch.where(self.awake(x) > 0, x, torch.zeros_like(x)) if late else x

    def awake(self, like: Tensor) -> Tensor:
        """The state of that name, so that it broadcasts to ``like``."""
        return self.before[AWAKE].view(-1, *[1] * (like.dim() - 1))


def _plain(net: Network) -> Network:
    """A copy with plain weights."""
    plain = deepcopy(net).cpu()
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            _settle(module)
    return plain.requires_grad_(False)


def _settle(module: Any) -> None:
    """Makes ``module`` one of its plain class, whose weights are the numbers that they come to."""
    weights = {name: weight.detach().clone() for name, weight in effective(module).items()}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    module._parameters.update({name: nn.Parameter(weight) for name, weight in weights.items()})


@torch.no_grad()
def _slots(net: Network, laws: dict[int, Law], features: tuple[int, ...]) -> list[Slot]:
    """The states of ``net``, in the order of its nodes, as two steps of silence leave them."""
    carry = _silence(net, features)
    found = [Slot(AWAKE, (), 0.0)] if net.cyclic else []
    for node in net.nodes:
        if node.kind is Kind.NEURON:
            module: Any = node.module
            starts = module.start(torch.zeros_like(carry.states[node.index][-1]))
            names = laws[node.index].states
            found += [
                Slot(f"{node.name}.{n}", tuple(s.shape[1:]), s.flatten()[0].item())
                for n, s in zip(names, starts, strict=True)
            ]
        if node.kind is Kind.DELAY:
            held = dense(carry.delays[node.index].sent)
            found.append(Slot(node.name, (len(held), *held.shape[2:]), 0.0))
        if node.kind is Kind.JOIN and len({net.wakes(net.nodes[i]) for i in node.inputs}) > 1:
            raise UnsupportedModule(
                f"{node.name} joins a signal with one that comes back a step later, of which no program is made"
            )
    return found


def _silence(net: Network, features: tuple[int, ...]) -> Carry:
    """What two steps of zeros leave behind."""
    dtype = next((p.dtype for p in net.parameters()), torch.float32)
    context = Context(KeyedDraws(0), torch.arange(1), 0, 2, Share(1))
    carry = Carry()
    with evaluating(net):
        for _ in range(2):
            run_walk(
                Forward(net, carry, context, lambda node: effective(node.module)),
                torch.zeros(1, 1, *features, dtype=dtype),
            )
    return carry
