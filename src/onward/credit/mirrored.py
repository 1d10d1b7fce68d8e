"""Back-propagation within each step through other weights than the forward ones.

*Feedback alignment* (Lillicrap et al. 2016): a fixed random B of W's shape, uniform in +-1/sqrt(fan_in).
*Sign-symmetric* (Liao et al. 2016): B = scale sign(W), scale 1/sqrt(fan_in) for linear layers and
sqrt(2 / (k^2 C_out)) for convolutions. Both as in the HLOP code of Xiao et al. 2024. Cost and memory as bp.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod, sqrt

import torch
from torch import Size, Tensor

from onward.core.draws import Draws, Key, Uniform
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.network import Network
from onward.core.products import through
from onward.core.registry import Choice
from onward.core.rule import Holds
from onward.core.signal import Context
from onward.core.sink import Sink
from onward.core.synapse import Params, effective
from onward.credit.base import Credit, Head, Port, Quiet, spatials
from onward.kernels.rows import SparseRows


class Mirrored(Quiet, ABC):
    """Errors cross spikes backwards through ``mirror`` weights."""

    crosses_spikes = True

    @abstractmethod
    def mirror(self, node: Node, params: Params) -> Params:
        """The backward weights of a synapse."""

    def connect(self, node: Node, params: Params, x: Tensor, rows: Tensor | SparseRows) -> Tensor:
        """See `Spatial.connect`."""
        return through(node.module, params, self.mirror(node, params), x, rows)

    def credit(self, record: Record, head: Head) -> dict[int, Credit]:
        """The graph brings everything."""
        return {}


class FeedbackAlignment(Mirrored):
    """Fixed random backward weights."""

    stochastic = True

    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """Draws B for every synapse."""
        for node in net.synapses:
            weight = effective(node.module)["weight"].detach()
            key, one = Key("feedback", node.name, 0), torch.zeros(1, dtype=torch.int64)
            u = draws.draw(Uniform(), key, one, torch.arange(len(weight)), tuple(weight.shape[1:]), weight)[0]
            self.register_buffer(f"b{node.index}", (2 * u - 1) / sqrt(weight[0].numel()))

    def mirror(self, node: Node, params: Params) -> Params:
        """See `Mirrored.mirror`."""
        return {"weight": self.get_buffer(f"b{node.index}").to(params["weight"].dtype)}


class SignSymmetric(Mirrored):
    """The sign of the forward weights."""

    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """Nothing to keep: the mirror is read off the weights once a sequence."""
        self._size = sum(effective(node.module)["weight"].nbytes for node in net.synapses)

    def holds(self, net: Network, steps: range) -> Holds:
        """See `Spatial.holds`: the mirror."""
        return Holds(read=self._size)

    def begin(self, context: Context, sink: Sink) -> None:
        """A sequence starts: yesterday's signs are void."""
        self._signs: dict[int, Tensor] = {}

    def mirror(self, node: Node, params: Params) -> Params:
        """See `Mirrored.mirror`."""
        if node.index not in self._signs:
            weight = params["weight"]
            spatial = prod(weight.shape[2:])
            scale = sqrt(2 / (spatial * len(weight))) if weight.dim() > 2 else 1 / sqrt(weight.shape[1])
            self._signs[node.index] = scale * weight.sign()
        return {"weight": self._signs[node.index]}


_FACTS = {"published": "code of HLOP (Xiao et al. 2024)", "inferred": "none"}
spatials.register(
    "feedback-alignment",
    Choice,
    lambda choice: FeedbackAlignment(),
    "back-propagation through fixed random weights",
    facts={
        "paper": "Lillicrap et al. 2016",
        "equation": "g^l[t] = B^{l+1} delta^{l+1}[t],    B^{l+1} random and fixed",
        **_FACTS,
    },
)
spatials.register(
    "sign-symmetric",
    Choice,
    lambda choice: SignSymmetric(),
    "back-propagation through the signs of the weights",
    facts={
        "paper": "Liao et al. 2016",
        "equation": "g^l[t] = scale sign(W^{l+1})^T delta^{l+1}[t]",
        **_FACTS,
    },
)
