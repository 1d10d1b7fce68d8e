"""Eligibilities of single weights: numbers that a synapse keeps of its own, forward in time.

    e_ji[t] = psi_j[t] (a_i[t] - beta q_ji[t]),    q_ji[t+1] = psi_j[t] a_i[t] + (rho - beta psi_j[t]) q_ji[t]
    ebar_ji[t] = kappa ebar_ji[t-1] + e_ji[t]

a is the trace of the input, psi the slope, beta and rho are strength and leak of the adaptation, kappa is the leak of
the readout. Memory and work O(B n^2) a step for a synapse of n by n weights, independent of T.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from onward.core.errors import TopologyMismatch
from onward.core.graph import Kind, Node
from onward.core.network import Network
from onward.core.neuron import Adaptation
from onward.core.signal import Carry
from onward.core.synapse import ops_of
from onward.credit.base import Credit
from onward.kernels.feedback import Feedback

_WHERE = "where neurons adapt, the readout leaks or firing rates are regularised"
_WAY_OUT = "use rule 'ottt', or neurons that do not adapt, a readout without memory and rule.c-reg 0"


class Eligibilities:
    """Those of all weights of a synapse and all samples, ``[B, P, out, n]`` for P places.

    They are kept in the carry and change in place: nothing else of their size is made. ``mask`` ``[B, P, out]``
    multiplies the synapse's drives, if there is one. ``summed`` keeps their sum over places, samples and steps, too.
    """

    def __init__(
        self,
        carry: Carry,
        owner: str,
        kappa: float,
        adaptation: Adaptation | None,
        mask: Tensor | None,
        summed: bool = False,
    ):
        self.kept, self.kappa, self.adaptation, self.mask = carry.traces, kappa, adaptation, mask
        self.slow, self.filtered = f"{owner}, adaptation", f"{owner}, eligibility"
        self.carry, self.whole, self.summed = carry, f"{owner}, eligibilities", summed

    @property
    def sums(self) -> Tensor:
        """sum e over places, samples and steps, ``[out, n]``."""
        return self.carry.sums[self.whole]

    def step(self, a: Tensor, slope: Tensor, signal: Tensor, direct: Tensor | None) -> Tensor:
        """One step of inputs ``a`` ``[B, P, n]``, slopes and signals ``[B, P, out]``: the change ``[out, n]``.

        ``signal`` comes by way of the readout, with its memory; ``direct`` credit at the spikes, if any, does not.
        """
        change = self._filtered(a, slope, signal) if self.kappa else self._at_once(a, slope, signal)
        if direct is not None:
            change += self._at_once(a, slope, direct)
        if self.summed:
            now = self._at_once(a, slope, torch.ones_like(slope))
            self.carry.sums[self.whole] = self.sums.add_(now) if self.whole in self.carry.sums else now
        if self.adaptation is not None:
            self._adapt(self.adaptation, a, slope)
        return change

    def _filtered(self, a: Tensor, slope: Tensor, signal: Tensor) -> Tensor:
        """sum L ebar, where the readout remembers."""
        ebar = self._number(self.filtered, a, slope).mul_(self.kappa).addcmul_(self._open(slope), a[:, :, None])
        if self.adaptation is not None:
            ebar.addcmul_(slope[..., None], self._number(self.slow, a, slope), value=-self.adaptation.strength)
        return torch.einsum("bpo,bpon->on", signal, ebar)

    def _at_once(self, a: Tensor, slope: Tensor, signal: Tensor) -> Tensor:
        """sum L e, where it does not: an outer product, less what the adaptation takes."""
        change = torch.einsum("bpo,bpn->on", signal * self._open(slope)[..., 0], a)
        if self.adaptation is None:
            return change
        slow = torch.einsum("bpo,bpon->on", signal * slope, self._number(self.slow, a, slope))
        return change.sub_(slow, alpha=self.adaptation.strength)

    def _adapt(self, adaptation: Adaptation, a: Tensor, slope: Tensor) -> None:
        """q of the next step."""
        psi = slope / adaptation.scale
        keep = adaptation.decay - adaptation.strength * psi
        self._number(self.slow, a, slope).mul_(keep[..., None]).addcmul_(self._open(psi), a[:, :, None])

    def _open(self, slope: Tensor) -> Tensor:
        """What the drive moves by way of ``slope``, ``[B, P, out, 1]``."""
        return (slope if self.mask is None else slope * self.mask)[..., None]

    def _number(self, name: str, a: Tensor, slope: Tensor) -> Tensor:
        """A number of every weight and sample; 0 before the first step."""
        if name not in self.kept:
            self.kept[name] = a.new_zeros(*slope.shape, a.shape[-1])
        return self.kept[name]


@dataclass(frozen=True)
class Told:
    """What the neurons of a layer are told in a chunk: see `Eligibilities.step`; ``pull`` ``[out]`` at its end."""

    signal: Credit
    direct: Tensor | None
    pull: Tensor | None

    def steps(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Signals and direct credit of every step, ``[B, P, out]``; ``like`` has the shape of the layer's spikes."""
        signal = self.signal.dense(like) if isinstance(self.signal, Feedback) else self.signal
        direct = repeat(None) if self.direct is None else map(by_place, self.direct)
        return zip(map(by_place, signal), direct, strict=False)


@dataclass(frozen=True)
class Fed:
    """A synapse that drives a neuron, and the dropout layers that its drive passes on the way."""

    node: Node
    dropouts: tuple[Node, ...]

    def mask(self, carry: Carry, like: Tensor) -> Tensor | None:
        """What the drive is multiplied by in this sequence, ``[B, P, out]``; ``like`` is a step of it."""
        masks = [carry.masks[node.index][0] for node in self.dropouts if node.index in carry.masks]
        return by_place(reduce(Tensor.mul, masks).expand_as(like)) if masks else None


def adaptation_of(neuron: Node) -> Adaptation | None:
    """How the threshold of ``neuron`` adapts, if it does."""
    module: Any = neuron.module
    return module.adapts


def fed_by(net: Network, neuron: Node) -> list[Fed]:
    """The synapses whose drives add up to the input of ``neuron``; raises `TopologyMismatch` for anything else."""
    frontier: list[tuple[int, tuple[Node, ...]]] = [(neuron.inputs[0], ())]
    found = list[Fed]()
    while frontier:
        index, dropouts = frontier.pop()
        here = net.nodes[index]
        if here.kind in (Kind.ADD, Kind.DROPOUT):
            passed = (*dropouts, here) if here.kind is Kind.DROPOUT else dropouts
            frontier += [(source, passed) for source in here.inputs]
        elif here.kind in (Kind.NORM, Kind.GLUE):
            raise TopologyMismatch(
                f"{here} stands between weights and {neuron}, and eprop keeps an eligibility of every weight {_WHERE}; "
                f"leave it out (--model.norm none), or {_WAY_OUT}"
            )
        elif here.kind is Kind.SYNAPSE and net.reader(here) is neuron:
            _check_matrix(here)
            found.append(Fed(here, dropouts))
    return found


def _check_matrix(node: Node) -> None:
    if ops_of(node.module).reads(node.module) is None:
        raise TopologyMismatch(
            f"{node} ({type(node.module).__name__}) is no matrix, and eprop keeps an eligibility of every weight "
            f"{_WHERE}; use nn.Linear there, or {_WAY_OUT}"
        )


def rows_of(node: Node, a: Tensor, ones: list[float], params: Mapping[str, Tensor]) -> list[Tensor]:
    """Step by step what the rows of the weights meet, ``[B, P, n]``; a bias is one more column."""
    rows = [ops_of(node.module).patches(node.module, a_t) for a_t in a]
    if "bias" not in params:
        return rows
    return [torch.cat([row, row.new_full((*row.shape[:2], 1), one)], -1) for row, one in zip(rows, ones, strict=True)]


def by_place(x: Tensor) -> Tensor:
    """``[B, out, *positions]`` as ``[B, P, out]``."""
    return x.flatten(2).movedim(2, 1) if x.dim() > 2 else x[:, None]


def as_gradients(total: Tensor, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of ``[out, n]`` as the gradients of weights and bias."""
    weight = params["weight"]
    width = weight[0].numel()
    found = {"weight": total[:, :width].reshape(weight.shape)}
    return {**found, "bias": total[:, width]} if "bias" in params else found
