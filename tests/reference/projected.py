"""Orthogonal projection the slow way: every input of a linear synapse is projected before it is deposited."""

from __future__ import annotations

import torch
from torch import Tensor

from onward.core.graph import Node
from onward.core.signal import dense
from onward.core.sink import Change, Forwarding, Sink
from onward.core.trace import Presynaptic
from onward.transforms import Analogue, Hlop
from onward.transforms.learners import Lateral

EXACT = Analogue()


def projection(x: Tensor, h: Tensor, lateral: Lateral = EXACT) -> Tensor:
    """P x, with lateral neurons that answer in their own way."""
    return lateral(x @ h.T) @ h


class InputForm(Forwarding):
    """Stands behind `Hlop`: deposits x - P x in the place of x, and takes no revision of the gradient."""

    def __init__(self, inner: Sink, lateral: Lateral = EXACT):
        super().__init__(inner)
        self.lateral = lateral
        self.hlop: Hlop | None = None

    def revise(self, node: Node, change: Change) -> None:
        """The input was projected already."""

    def deposit(self, node: Node, pre: Presynaptic, post: Tensor, bias_gain: list[float] | None = None) -> None:
        """See `Sink.deposit`."""
        assert self.hlop is not None
        held = {site.node.index: site.subspace.held for site in self.hlop.sites}.get(node.index, torch.empty(0))
        if len(held) and bool(self.hlop.state.within):
            x = dense(pre)
            pre = x - projection(x, held, self.lateral)
        super().deposit(node, pre, post, bias_gain)
