"""Networks with feedback, and the same once more: loops over time and iterations in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onward.core import CrossEntropy, Feedback, Network, evaluate
from onward.core.interpret import Record
from onward.core.neuron import Draw, Firing, Neuron, State, undrawn
from onward.core.objective import Readout, Weighted
from onward.core.sequence import Sequence as Stream
from onward.neurons import IF, LIF, Affine, SoftReset

CLASSES = 4
ITERATIONS = 300


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def distance(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return float((a - b).norm() / b.norm())


def rates(spikes: Tensor, leak: float = 1.0) -> Tensor:
    """The (weighted) mean of ``spikes`` ``[T, ...]`` up to every step, ``[T, ...]``."""
    total, weight, found = torch.zeros_like(spikes[0]), 0.0, []
    for s in spikes:
        total, weight = leak * total + s, leak * weight + 1
        found.append(total / weight)
    return torch.stack(found)


def objective(leak: float = 1.0) -> Readout:
    return Readout(CrossEntropy(), Weighted(leak))


class Settled(Affine):
    """Sends at every step the rate that its drive would lead to: the network of rates, iterated until it stands still.

    A weighted mean over many steps that halves what lies a step back is the fixed point to rounding.
    """

    def __init__(self, charge: float):
        super().__init__(0.5, threshold=charge)

    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        out = (x / self.threshold).clamp(0, 1)
        return Firing(out, torch.zeros_like(out), state, lambda: x)

    def simulate(self, x: Tensor, state: State) -> Firing:
        return self.scan(x, state)


MakeNeuron = Callable[[float], Neuron]
"""From the charge that a spike costs to a neuron."""


def integrates(charge: float) -> Neuron:
    return IF(threshold=charge)


def leaks(charge: float, decay: float) -> Neuron:
    return LIF(decay=decay, threshold=charge)


def symmetric(charge: float) -> Neuron:
    """It rests as far below 0 as it fires above: a spike costs twice the threshold."""
    return IF(threshold=charge / 2, reset=SoftReset(2.0))


def dense_loop(widths: Sequence[int], make: MakeNeuron, norm: float, charge: float = 2.0) -> Network:
    """6 inputs, layers of ``widths`` whose weights have the norm ``norm``, feedback, a readout of 4."""
    entry, back = nn.Linear(6, widths[0]), nn.Linear(widths[-1], widths[0], bias=False)
    body: list[nn.Module] = [make(charge)]
    for before, units in pairwise(widths):
        body += [nn.Linear(before, units), make(charge)]
    net = Network(nn.Sequential(Feedback(entry, nn.Sequential(*body), back), nn.Linear(widths[-1], CLASSES)))
    return _tuned(net.double(), charge, norm)


def conv_loop(layers: int, make: MakeNeuron, norm: float, charge: float = 2.0) -> Network:
    """[2, 4, 4], convolutions of 3 channels (the second with stride 2), feedback (transposed), a readout of 4."""
    entry, body = nn.Conv2d(2, 3, 3, padding=1), [make(charge)]
    if layers == 1:
        back, size = nn.Conv2d(3, 3, 3, padding=1, bias=False), 48
    else:
        body += [nn.Conv2d(3, 4, 3, padding=1, stride=2), make(charge), nn.Conv2d(4, 4, 3, padding=1), make(charge)]
        back, size = nn.ConvTranspose2d(4, 3, 3, 2, 1, 1, bias=False), 16
    loop = Feedback(entry, nn.Sequential(*body), back)
    return _tuned(Network(nn.Sequential(loop, nn.Flatten(), nn.Linear(size, CLASSES))).double(), charge, norm)


@torch.no_grad()
def _tuned(net: Network, charge: float, norm: float) -> Network:
    """Orthogonal weights times ``norm`` inside the loop, and biases that keep most rates away from their bounds."""
    for node in net.synapses[:-1]:
        module, first = node.module, node.name == "0.entry"
        if not first:
            nn.init.orthogonal_(module.get_parameter("weight"), norm)
        if isinstance(module.bias, Tensor):
            module.bias.fill_((0.5 if first else 0.2) * charge)
    return net


def spikes_of(net: Network, x: Stream, y: Tensor) -> list[Tensor]:
    """The spikes ``[T, B, ...]`` of every layer."""
    seen: list[list[Tensor]] = [[] for _ in net.neurons]

    def watch(record: Record) -> None:
        for spikes, node in zip(seen, net.neurons, strict=True):
            spikes.append(record.firings[node.index].out[0])

    evaluate(net, objective(), x, y, chunk=1, watch=watch)
    return [torch.stack(spikes) for spikes in seen]


def still(net: Network, batch: int = 5, seed: int = 3) -> tuple[Tensor, Tensor]:
    """A still input ``[B, ...]`` and labels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (6,) if isinstance(net.synapses[0].module, nn.Linear) else (2, 4, 4)
    x = torch.rand(batch, *shape, generator=generator, dtype=torch.float64) * 2 - 1
    return x, torch.randint(CLASSES, (batch,), generator=generator)


@dataclass
class Simulated:
    """Spikes and potentials after the reset of every layer, ``[T, B, ...]``."""

    spikes: list[Tensor]
    potentials: list[Tensor]


class ByHand:
    """The same network for the loops; its parameters are leaves under the network's names."""

    def __init__(self, net: Network, threshold: float, charge: float, leak: float = 1.0):
        self.modules = {node.name: node.module for node in net.synapses}
        self.body = [name for name in self.modules if name.startswith("0.body")]
        self.head = list(self.modules)[-1]
        self.p = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
        self.threshold, self.charge, self.leak = threshold, charge, leak

    def apply(self, name: str, a: Tensor) -> Tensor:
        """Weights and bias of one synapse."""
        module, weight, bias = self.modules[name], self.p[f"{name}.weight"], self.p.get(f"{name}.bias")
        match module:
            case nn.Linear():
                return F.linear(a.flatten(1), weight, bias)
            case nn.Conv2d():
                return F.conv2d(a, weight, bias, module.stride, module.padding)  # type: ignore[arg-type]
            case nn.ConvTranspose2d():
                return F.conv_transpose2d(a, weight, bias, module.stride, module.padding, module.output_padding)  # type: ignore[arg-type]
        raise AssertionError(name)

    @torch.no_grad()
    def simulate(self, x: Tensor) -> Simulated:
        """Section 2.1: spikes of the input ``[T, B, ...]``, one layer after the other, feedback a step late."""
        potentials: list[Tensor | float] = [0.0] * (1 + len(self.body))
        spikes: list[Tensor] = []
        seen = Simulated([], [])
        history: list[tuple[list[Tensor], list[Tensor]]] = []
        for frame in x:
            drive = self.apply("0.entry", frame)
            if spikes:
                drive = drive + self.apply("0.back", spikes[-1])
            spikes = []
            for layer, name in enumerate([None, *self.body]):
                u = self.leak * potentials[layer] + (drive if name is None else self.apply(name, spikes[-1]))
                spikes.append((u >= self.threshold).to(u))
                potentials[layer] = u - self.charge * spikes[-1]
            history.append((spikes, list(potentials)))  # type: ignore[arg-type]
        for layer in range(1 + len(self.body)):
            seen.spikes.append(torch.stack([s[layer] for s, _ in history]))
            seen.potentials.append(torch.stack([v[layer] for _, v in history]))
        return seen

    def layers(self, a: Tensor, x: Tensor) -> list[Tensor]:
        """Rates of all layers, once around from the rate ``a`` of the last one."""
        found = [self.saturate(self.apply("0.entry", x) + self.apply("0.back", a))]
        for name in self.body:
            found.append(self.saturate(self.apply(name, found[-1])))
        return found

    def saturate(self, drive: Tensor) -> Tensor:
        """clamp(drive / D, 0, 1), its derivative 1 between the bounds."""
        z = drive / self.charge
        between = ((z >= 0) & (z <= 1)).to(z).detach()
        return between * z + (z > 1).to(z)

    def f(self, a: Tensor, x: Tensor) -> Tensor:
        return self.layers(a, x)[-1]

    def start(self, x: Tensor) -> Tensor:
        """A rate of 0 everywhere."""
        first = torch.zeros_like(self.apply("0.entry", x))
        for name in self.body:
            first = self.apply(name, first)
        return torch.zeros_like(first).detach()

    @torch.no_grad()
    def equilibrium(self, x: Tensor) -> Tensor:
        """a*: f iterated until it stands still."""
        a = self.start(x)
        for _ in range(ITERATIONS):
            a = self.f(a, x)
        return a

    def loss(self, a: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of the readout."""
        o = self.apply(self.head, a)
        return (o.logsumexp(1) - o[range(len(y)), y]).mean()

    def unrolled(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Gradients by autograd through 300 iterations of f."""
        a = self.start(x)
        for _ in range(ITERATIONS):
            a = self.f(a, x)
        return self.grads(self.loss(a, y))

    def grads(self, head: Tensor, credit: Tensor | None = None) -> dict[str, Tensor]:
        """Gradients of all parameters that ``head`` depends on."""
        found = torch.autograd.grad(head, list(self.p.values()), credit, allow_unused=True)
        return {name: g for name, g in zip(self.p, found, strict=True) if g is not None}

    def jacobians(self, a: Tensor, x: Tensor) -> Tensor:
        """J = df/da of every sample, ``[B, n, n]``, one row after the other."""
        a = a.detach().requires_grad_()
        out = self.f(a, x).flatten(1)
        rows = [torch.autograd.grad(out[:, i].sum(), a, retain_graph=True)[0].flatten(1) for i in range(out.shape[1])]
        return torch.stack(rows, 1)

    def implicit(self, a: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Section 2.3 at the rate ``a`` of the last layer, with a dense solve."""
        leaf = a.detach().requires_grad_()
        g = torch.autograd.grad(self.loss(leaf, y), leaf)[0].flatten(1)
        j = self.jacobians(a, x)
        beta = torch.linalg.solve(torch.eye(j.shape[1], dtype=j.dtype) - j.mT, g)
        return {**self.grads(self.f(a.detach(), x), beta.view_as(a)), **self.grads(self.loss(a.detach(), y))}


NETWORKS: dict[str, Callable[[MakeNeuron], Network]] = {
    "one layer": partial(dense_loop, [20], norm=1.6),
    "three layers": partial(dense_loop, [12, 10, 8], norm=2.0),
    "convolution": partial(conv_loop, 1, norm=1.2),
    "convolutions": partial(conv_loop, 3, norm=2.5),
}
"""Loops whose ||J|| is 0.5 and more at their equilibrium."""
