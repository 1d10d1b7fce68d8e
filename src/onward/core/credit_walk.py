"""A chunk as the rules of the credit grid walk it: spikes cut the graph, or carry a slope, as the rule wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from onward.core.graph import Node
from onward.core.interpret import Interpreter, Record, nonzeros, stands_still
from onward.core.network import Network
from onward.core.norms import Norms
from onward.core.products import drive, expect_zeros, gather_pays
from onward.core.signal import Carry, Context, Perturbed, Signal, dense
from onward.core.synapse import Params
from onward.kernels.rows import SparseRows


class Links(Protocol):
    """How a rule wants synapses connected and neurons perturbed."""

    crosses_spikes: bool

    def connect(self, node: Node, params: Params, x: Tensor, rows: Tensor | SparseRows) -> Tensor:
        """The drive of ``x`` ``[K, B, ...]``, with whatever backward path the rule wants.

        ``rows`` are the same numbers as ``x``, perhaps sparse, outside any graph.
        """
        ...

    def before(self, node: Node, drive: Tensor, record: Record) -> Tensor:
        """The drive that the neuron integrates."""
        ...

    def after(self, node: Node, spikes: Tensor, record: Record) -> Signal:
        """What is sent, and what traces see, instead of ``spikes``."""
        ...


class CreditWalk(Interpreter):
    """A chunk of an online rule: no graph across time, and across spikes only where ``links`` say so.

    The credit slot of a synapse is its drive. Weights are outside the graph.
    """

    def __init__(
        self,
        net: Network,
        carry: Carry,
        context: Context,
        params: Callable[[Node], Params],
        links: Links,
        norms: Norms | None = None,
    ):
        super().__init__(net, carry, context, norms)
        self.params, self.links = params, links
        self.cut = set() if links.crosses_spikes else {node.index for node in net.hidden}

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """Keeps input and drive; the drive starts a graph if none reaches it."""
        params, rows = self.params(node), nonzeros(signal.clean)
        self.record.pres[node.index] = rows
        x = self._drive(node, params, signal, rows)
        if torch.is_grad_enabled() and not x.requires_grad:
            x.requires_grad_()
        if self.net.exact_zeros(node):
            expect_zeros(x)
        self.record.drives[node.index] = x
        return Signal(x, x)

    def _drive(self, node: Node, params: Params, signal: Signal, rows: Tensor | SparseRows) -> Tensor:
        sent = signal.sent
        if isinstance(sent, Perturbed):
            return _noisy_drive(node, params, sent, rows)
        if isinstance(sent, SparseRows):
            return drive(node.module, params, sent)
        if stands_still(sent):
            return self.still_drive(node, params, sent)
        return self.links.connect(node, params, sent, rows if signal.clean is sent else sent)

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """Fires; the graph goes on behind the spike only where it may."""
        module: Any = node.module
        current = dense(signal.sent)
        x = self.links.before(node, current.detach(), self.record)
        firing = module.scan(x, self.carry.states.get(node.index) or module.start(x[0]), self.draw(node))
        self.carry.states[node.index] = firing.state
        spikes = firing.out if node.index in self.cut else _Attach.apply(current, firing.out, firing.slope)
        clean = self.disturbed(node, spikes)
        self.record.inputs[node.index], self.record.firings[node.index] = current, firing
        self.record.spikes[node.index] = clean
        signal = self.links.after(node, clean, self.record)
        self.record.sent[node.index] = signal.sent
        return signal


def _noisy_drive(node: Node, params: Params, sent: Perturbed, rows: Tensor | SparseRows) -> Tensor:
    """W (s + a z); as W s + a W z where s is sparse and steps share z."""
    apart = len(sent.noise.blocks) / len(rows)  # what the product with z costs, of a dense one
    if isinstance(rows, Tensor) or not gather_pays(node.module, params, rows, leaving=apart):
        return drive(node.module, params, sent.sum)
    linear = {name: value for name, value in params.items() if name != "bias"}
    noise = sent.noise.through(lambda z: drive(node.module, linear, z))
    return noise.added_to(drive(node.module, params, rows), sent.strength)


class _Attach(torch.autograd.Function):
    """A chunk of firing as a function of its drive within each step: credit times slope."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, out: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


def pull_back(head: Tensor, credit: Tensor, targets: list[Tensor]) -> list[Tensor | None]:
    """Local vector-Jacobian product from ``head`` to ``targets``; identity glue skips autograd."""
    if len(targets) == 1 and targets[0] is head:
        return [credit]
    if not head.requires_grad or not targets:
        return [None] * len(targets)
    return list(torch.autograd.grad(head, targets, credit, retain_graph=True, allow_unused=True))
