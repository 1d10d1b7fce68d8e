"""Local credit: linear readouts of hidden layers with losses of their own.

*LL* (local learning): r^l[t] = R^l s^l[t] + c^l, the run's loss on r^l, credit eta (R^l)^T e_loc^l at layer l and
nowhere else; R^l learns from e_loc^l (s^l)^T. Spike maps are average-pooled first, to at most 4 x 4 by default.
*IGL* (intermediate global learning) in addition lets the readout of a middle layer k teach the layers below it,
through the same spatial credit that serves the network's output.

Both are described by the OPZO paper (Xiao et al. 2024); weights, pooling and position are ours. Work and memory
O(n m) a layer.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Size, Tensor, nn

from onward.core.draws import Draws, Key, Uniform
from onward.core.errors import TopologyMismatch
from onward.core.graph import Node
from onward.core.interpret import Record, rowwise
from onward.core.network import Network
from onward.core.objective import Objective
from onward.core.registry import Choice
from onward.core.signal import dense
from onward.core.sink import Sink
from onward.credit.base import Head, Local, Port, locals_


class NoLocal(Local):
    """Nothing is added."""

    credits = 0

    def allocate(self, net: Network, sizes: dict[int, Size], classes: int, draws: Draws) -> list[Port]:
        """See `Local.allocate`."""
        return []

    def look(self, record: Record, y: Tensor, objective: Objective, sink: Sink) -> dict[int, Tensor]:
        """See `Local.look`."""
        return {}

    def heads(self, record: Record, y: Tensor, objective: Objective) -> list[Head]:
        """See `Local.heads`."""
        return []


def pooled(spikes: Tensor, side: int) -> Tensor:
    """Spikes ``[R, ...]`` as rows ``[R, n]``; maps average-pooled to at most ``side`` x ``side``."""
    if spikes.dim() == 4 and max(spikes.shape[2:]) > side:
        spikes = F.adaptive_avg_pool2d(spikes, (min(side, spikes.shape[2]), min(side, spikes.shape[3])))
    return spikes.flatten(1)


class Probe(nn.Module):
    """A local readout: average pooling of maps to at most ``side`` x ``side``, then a linear map."""

    def __init__(self, side: int, classes: int, weight: Tensor):
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(classes))

    def pooled(self, spikes: Tensor) -> Tensor:
        """Rows ``[R, n]`` that the readout reads."""
        return pooled(spikes, self.side)

    def read(self, spikes: Tensor) -> Tensor:
        """r = R s + c on ``[K, B, ...]``."""
        return rowwise(lambda s: F.linear(self.pooled(s), self.weight.detach().to(s), self.bias.detach().to(s)), spikes)

    def adjoint(self, error: Tensor, spikes: Tensor) -> Tensor:
        """R^T e in the shape of the spikes."""
        with torch.enable_grad():
            leaf = torch.zeros_like(spikes).requires_grad_()
            return torch.autograd.grad(self.read(leaf), leaf, error)[0]


class LocalLearning(Local):
    """LL: every hidden layer has a readout; see the module's docstring."""

    stochastic = True

    def __init__(self, weight: float = 1.0, pool: int = 4):
        super().__init__()
        self.weight, self.pool = weight, pool
        self.probes = nn.ModuleDict()

    def allocate(self, net: Network, sizes: dict[int, Size], classes: int, draws: Draws) -> list[Port]:
        """Draws R uniform in +-1/sqrt(n), as a fresh linear layer."""
        one = torch.zeros(1, dtype=torch.int64)
        self.probes.clear()
        for node in net.hidden:
            n = pooled(torch.empty(1, *sizes[node.index]), self.pool).shape[1]
            key = Key("probe", node.name, 0)
            u = draws.draw(Uniform(), key, one, torch.arange(classes), (n,), torch.zeros(()))[0]
            self.probes[str(node.index)] = Probe(self.pool, classes, (2 * u - 1) / sqrt(n))
        return []

    def look(self, record: Record, y: Tensor, objective: Objective, sink: Sink) -> dict[int, Tensor]:
        """See `Local.look`."""
        found = {}
        for node in record.net.hidden:
            probe, spikes = self.probe(node), record.firings[node.index].out
            error = self.error(record, probe.read(spikes), y, objective)
            rows = error.flatten(0, 1)
            sink.add(probe.weight, rows.T @ probe.pooled(spikes.flatten(0, 1)))
            sink.add(probe.bias, rows.sum(0))
            if self.weight:
                found[node.index] = self.weight * probe.adjoint(error, spikes)
        return found

    def heads(self, record: Record, y: Tensor, objective: Objective) -> list[Head]:
        """See `Local.heads`."""
        return []

    def probe(self, node: Node) -> Probe:
        """The readout of a hidden neuron."""
        probe = self.probes[str(node.index)]
        assert isinstance(probe, Probe)
        return probe

    @staticmethod
    def error(record: Record, r: Tensor, y: Tensor, objective: Objective) -> Tensor:
        """e_loc = dL/dr."""
        return objective.errors(r, y, record.context.steps, record.context.samples)


class IntermediateGlobal(Local):
    """LL + IGL: the readout of layer ``position`` (default: the middle one) teaches the layers below it."""

    stochastic = True

    def __init__(self, weight: float = 1.0, position: int | None = None, pool: int = 4):
        super().__init__()
        self.ll = LocalLearning(weight, pool)
        self.position = position
        self._ports: list[tuple[Node, Port]] = []

    def allocate(self, net: Network, sizes: dict[int, Size], classes: int, draws: Draws) -> list[Port]:
        """See `Local.allocate`."""
        self.ll.allocate(net, sizes, classes, draws)
        hidden = net.hidden
        k = len(hidden) // 2 if self.position is None else self.position
        if k >= len(hidden):
            raise TopologyMismatch(
                f"intermediate global learning was asked for at hidden layer {k}, counted from 0, and the network "
                f"has {len(hidden)} hidden layers; lower rule.local.position"
            )
        self._ports = [(hidden[k], Port(f"probe_{hidden[k].index}", classes, tuple(hidden[:k])))]
        return [port for _, port in self._ports]

    def look(self, record: Record, y: Tensor, objective: Objective, sink: Sink) -> dict[int, Tensor]:
        """See `Local.look`."""
        return self.ll.look(record, y, objective, sink)

    def heads(self, record: Record, y: Tensor, objective: Objective) -> list[Head]:
        """See `Local.heads`; the head's outputs carry the layer's own noise, as the network's output does."""
        found = []
        for node, port in self._ports:
            probe, spikes = self.ll.probe(node), record.spikes[node.index]
            noisy = probe.read(dense(record.sent[node.index]).detach())
            error = self.ll.error(record, noisy, y, objective)
            scale = self.ll.weight / record.context.samples
            losses = objective.step_losses(noisy, y, record.context.steps) * scale
            seed = self.ll.weight * probe.adjoint(error, spikes)
            found.append(Head(port, noisy, self.ll.weight * error, losses, spikes, seed, y))
        return found


class LocalOptions(Choice):
    """Options of local learning."""

    weight: float = Field(1.0, ge=0, description="weight eta of local credit beside global credit")
    pool: int = Field(4, ge=1, description="local readouts of maps read averages over at most this many by this many")


class IntermediateOptions(LocalOptions):
    """Options of intermediate global learning."""

    position: int | None = Field(
        None, ge=0, description="hidden layer whose readout teaches those below (from 0; default: middle)"
    )


_FACTS = {
    "paper": "Xiao et al. 2024 (ICLR 2026)",
    "published": "idea and results",
    "inferred": "weight, pooling, position",
}
_EQUATION = "g_local^l[t] = eta (R^l)^T e_loc^l[t],    dR^l = sum_t e_loc^l[t] s^l[t]^T"
locals_.register(
    "none",
    Choice,
    lambda choice: NoLocal(),
    "no local credit",
    facts={
        "paper": "none needed",
        "published": "every rule's results but those with LL",
        "inferred": "none",
        "equation": "",
    },
)
locals_.register(
    "ll",
    LocalOptions,
    lambda c: LocalLearning(c.weight, c.pool),
    "a linear readout at every hidden layer, whose own transpose carries the local error",
    facts={**_FACTS, "equation": _EQUATION},
)
locals_.register(
    "ll-igl",
    IntermediateOptions,
    lambda c: IntermediateGlobal(c.weight, c.position, c.pool),
    "local readouts, one of which also teaches the layers below it",
    facts={**_FACTS, "equation": f"{_EQUATION}; e_loc^k[t] also goes to layers l < k as e[t] does"},
)
