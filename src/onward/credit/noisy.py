"""Spatial credit that injects noise at hidden neurons: the common part of single-point ZO and OPZO."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Size, Tensor

from onward.core.draws import Draws
from onward.core.graph import Kind, Node
from onward.core.interpret import Record, noise_in_norm
from onward.core.network import Network
from onward.core.products import through
from onward.core.rule import Holds
from onward.core.signal import Noise, Perturbed, Signal
from onward.core.synapse import Params
from onward.credit.base import Port, Spatial
from onward.credit.perturbation import Perturbation
from onward.kernels.rows import SparseRows


class Noisy(Spatial, ABC):
    """Perturbs every hidden neuron in the same forward pass; the graph ends at every spike."""

    stochastic = True
    perturbs = True

    def __init__(self, perturbation: Perturbation):
        super().__init__()
        self.perturbation = perturbation
        self.sign = 1
        self._noisy: frozenset[int] = frozenset()

    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """Marks the hidden neurons; raises `TopologyMismatch` where noise cannot enter or must not go."""
        for node in net.hidden:
            self.perturbation.site.check(node)
        for norm in net.of(Kind.NORM) if self.perturbation.site.is_sent else ():
            if set(net.sources(norm)).intersection(net.hidden):
                raise noise_in_norm(norm)
        self._noisy = frozenset(node.index for node in net.hidden)

    def holds(self, net: Network, steps: range) -> Holds:
        """The noise of the chunk, and the noisy drive where it does not travel on with the spikes."""
        sent = self.perturbation.site.is_sent
        return Holds(self.perturbation.draws(steps), sent, drives=int(not sent), credits=1)

    def connect(self, node: Node, params: Params, x: Tensor, rows: Tensor | SparseRows) -> Tensor:
        """The synapse as it is."""
        return through(node.module, params, params, x, rows)

    def before(self, node: Node, drive: Tensor, record: Record) -> Tensor:
        """See `Spatial.before`."""
        if node.index not in self._noisy:
            return drive
        z = self.noise(node, record, drive)
        record.noise[node.index] = z if self.sign == 1 else z.negated()
        return self.perturbation.site.before(node, drive, self.perturbation, record)

    def after(self, node: Node, spikes: Tensor, record: Record) -> Signal:
        """See `Spatial.after`."""
        if node.index not in self._noisy:
            return Signal(spikes, spikes)
        if not self.perturbation.site.is_sent:
            return Signal(spikes, spikes)
        sent = Perturbed(spikes, record.noise[node.index], self.perturbation.alpha)
        return Signal(sent.sum, sent.sum) if self.perturbation.traced else Signal(sent, spikes)

    def noise(self, node: Node, record: Record, like: Tensor, lag: int = 0) -> Noise:
        """z of ``node`` at the record's steps, or ``lag`` steps before them."""
        steps = torch.arange(record.start - lag, record.start - lag + len(like))
        return self.perturbation.noise(node, steps, like, record.context)

    def cautions(self, net: Network, steps: int) -> list[str]:
        """What the schedule has to say about this network."""
        slowest = max((node.module.decay for node in net.hidden), default=0.0)  # type: ignore[union-attr]
        return self.perturbation.schedule.cautions(float(slowest), steps)
