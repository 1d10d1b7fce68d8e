"""Small networks, losses and handles that the tests of spatial credit share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from onward.core import (
    CrossEntropy,
    Draws,
    Firing,
    GradSink,
    KeyedDraws,
    Network,
    Neuron,
    Objective,
    Outcome,
    PerStep,
    Static,
    run_sequence,
)
from onward.core import Sequence as Input
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.neuron import Draw, State, undrawn
from onward.core.objective import Loss
from onward.core.signal import Carry, Context
from onward.core.sink import Sink
from onward.credit.base import Head
from onward.credit.dfa import slot
from onward.credit.noisy import Noisy
from onward.credit.opzo import OPZO, OPZOOptions
from onward.credit.perturbation import Perturbation
from onward.neurons import LIF
from onward.rules import rules
from onward.rules.online import Online

Options = Mapping[str, Any]

REFERENCE = {"name": "ottt", "fidelity": "reference"}
SETTLED: Options = {"name": "opzo", "alpha": 0.5, "inverse_alpha": True, "correct_start": True}
"""M after one sequence of frozen weights is the (nearly) plain mean of z o^T / alpha."""


def settled(**options: Any) -> dict[str, Any]:
    """`SETTLED` with other options."""
    return {**SETTLED, **options}


class Identity(Neuron):
    """No neuron at all: out = drive, slope 1. Networks of it are linear and have no memory."""

    @property
    def decay(self) -> float:
        return 0.0

    @property
    def spiking(self) -> bool:
        return False

    def start(self, like: Tensor) -> State:
        return (torch.zeros_like(like),)

    @torch.no_grad()
    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        return Firing(x, torch.ones_like(x), (x[-1],), lambda: x)

    def unroll(self, x: Tensor, state: State, draw: Draw = undrawn) -> tuple[Tensor, State, Tensor]:
        return x, (x[-1],), x.detach()

    def parameter_grads(self, credit: Tensor, firing: Firing) -> dict[str, Tensor]:
        return {}

    def after_reset(self, firing: Firing) -> Tensor:
        return firing.potential


@dataclass(frozen=True)
class Linear(Loss):
    """c_y . o for rows ``c``: its gradient does not depend on the outputs."""

    c: Tensor

    def __call__(self, o: Tensor, y: Tensor) -> Tensor:
        return (o * self.c[y]).sum(-1)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        return self.c[y].expand_as(o)


class ThroughNoise(Noisy):
    """Spatial back-propagation on the very forward pass that OPZO and ZO see: the measure of their direction."""

    crosses_spikes = True
    weight_transport = True

    def begin(self, context: Context, sink: Sink) -> None:
        """Nothing to prepare."""

    def credit(self, record: Record, head: Head) -> dict[int, Tensor]:
        return {}

    def learn(self, record: Record, heads: list[Head], trace: Callable[[Node], Tensor], sink: Sink) -> None:
        """Nothing is learned."""

    def observe(self, record: Record, heads: list[Head], carry: Carry, again: Callable[[], dict[str, Tensor]]) -> None:
        """Nothing is learned."""

    def finish(self, carry: Carry, context: Context) -> None:
        """Nothing is pending."""


def dense(
    sizes: Sequence[int],
    neuron: Callable[[], Neuron] = LIF,
    *,
    gain: float = 2.0,
    bias: bool = True,
    seed: int = 0,
) -> Network:
    """A fully connected float64 network with weights N(0, gain / fan_in)."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out, bias=bias), neuron()]
    net = Network(nn.Sequential(*layers[:-1])).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            scale = (gain / p.shape[1]) ** 0.5 if name.endswith("weight") else 0.1
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return net


def weights(net: Network) -> list[Tensor]:
    """The weight matrices, in order."""
    return [p.detach() for name, p in net.named_parameters() if name.endswith("weight")]


def jacobians(net: Network) -> list[Tensor]:
    """d o / d (output of each hidden layer) of a linear network: the product of the weights downstream."""
    found, product = [], torch.eye(len(weights(net)[-1]), dtype=torch.float64)
    for w in reversed(weights(net)[1:]):
        product = product @ w
        found.append(product)
    return found[::-1]


@dataclass
class Taught:
    """What one sequence taught: gradients by parameter name, and the record of every chunk."""

    outcome: Outcome
    grads: dict[str, Tensor]
    records: list[Record]

    def noise(self, node: Node) -> Tensor:
        """z ``[T, B, ...]``."""
        return torch.cat([record.noise[node.index].dense() for record in self.records])

    @property
    def out(self) -> Tensor:
        """The readout ``[T, B, m]``."""
        return torch.cat([record.out.detach() for record in self.records])


@dataclass
class Bench:
    """A network bound to an online rule, run one sequence at a time; weights stay unless a test changes them."""

    net: Network
    x: Input
    spatial: str | Options | Noisy
    temporal: str | Options = "sltt"
    local: str | Options = "none"
    options: Options = field(default_factory=dict)
    objective: Objective = field(default_factory=lambda: PerStep(CrossEntropy()))
    draws: Draws = field(default_factory=lambda: KeyedDraws(0))
    chunk: int | None = None
    sequences: int = 0

    def __post_init__(self) -> None:
        spatial = "bp" if isinstance(self.spatial, Noisy) else self.spatial
        choice = {"name": "online", "temporal": self.temporal, "spatial": spatial, "local": self.local, **self.options}
        rule = rules.build(choice)
        assert isinstance(rule, Online)
        if isinstance(self.spatial, Noisy):
            rule.spatial = self.spatial
        self.rule = rule
        self.rule.bind(self.net, self.objective, self.x, self.draws)
        self.sink = GradSink(self.net)

    def learn(
        self,
        x: Input | None = None,
        y: Tensor | None = None,
        *,
        draws: Draws | None = None,
        sequence: int | None = None,
        ids: Tensor | None = None,
    ) -> Taught:
        """Trains on one mini-batch (labels 0 unless given) and clears the gradients it returns."""
        x = x or self.x
        records: list[Record] = []
        labels = torch.zeros(x.batch, dtype=torch.int64) if y is None else y
        outcome = run_sequence(
            self.net,
            self.rule,
            self.objective,
            x,
            labels,
            self.sink,
            draws=draws or self.draws,
            ids=ids,
            sequence=self.sequences if sequence is None else sequence,
            chunk=self.chunk,
            watch=records.append,
        )
        self.sink.flush()
        self.sequences += 1
        return Taught(outcome, self.take(), records)

    def take(self) -> dict[str, Tensor]:
        """The gradients of network and rule by name; they are cleared."""
        found = {}
        for name, p in (*self.net.named_parameters(), *self.rule.named_parameters()):
            if p.grad is not None:
                found[name], p.grad = p.grad, None
        return found

    @property
    def opzo(self) -> OPZO:
        """The rule's spatial credit, which must be OPZO."""
        assert isinstance(self.rule.spatial, OPZO)
        return self.rule.spatial

    def m(self, layer: int, port: str = "output") -> Tensor:
        """M of the hidden layer number ``layer`` towards a port, as the next sequence will read it."""
        node = self.net.hidden[layer]
        self.opzo._read = {}
        found = [p for n, p, _ in self.opzo._maps if n is node and p.key == port]
        return self.opzo.matrix(node, found[0])

    def force(self, layer: int, m: Tensor, port: str = "output") -> None:
        """Sets a feedback matrix: M of OPZO, or B of direct feedback."""
        node = self.net.hidden[layer]
        found = next(p for p in self._ports() if p.key == port)
        held = getattr(self.rule.spatial, slot(node, found))
        with torch.no_grad():
            held.copy_(m.expand_as(held))

    def _ports(self) -> list[Any]:
        return [self.rule._port, *(port for _, port in getattr(self.rule.local, "_ports", []))]


def opzo(perturbation: Perturbation, options: Options) -> OPZO:
    """OPZO with a perturbation that no registry knows."""
    return OPZO(perturbation, OPZOOptions.model_validate({"name": "opzo", **options}))


def conv_bench(spatial: str | Options, chunk: int | None = 1) -> Bench:
    """A small convolutional LIF network on a static input, with a bench of its own."""
    torch.manual_seed(5)
    net = Network(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), LIF(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)))
    x = Static(2 * torch.randn(6, 2, 4, 5, dtype=torch.float64), 6)
    return Bench(net.double(), x, spatial, chunk=chunk)


def still(batch: int, features: int, steps: int, *, scale: float = 1.0, seed: int = 1) -> Static:
    """A static random input N(0, scale^2), float64."""
    generator = torch.Generator().manual_seed(seed)
    return Static(scale * torch.randn(batch, features, generator=generator, dtype=torch.float64), steps)


def flat(grads: Mapping[str, Tensor]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([grads[name].flatten() for name in sorted(grads)])


def cosine(a: Tensor, b: Tensor) -> float:
    """The cosine of the angle between two tensors."""
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, Frobenius."""
    return float((a - b).norm() / b.norm())
