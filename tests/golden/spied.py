"""A sink that remembers the last deposit of every synapse, for gradients that a rule does not make."""

from __future__ import annotations

import torch
from torch import Tensor

from onward.core.graph import Node
from onward.core.signal import dense
from onward.core.sink import Forwarding, Sink
from onward.core.synapse import ops_of
from onward.core.trace import Postsynaptic, Presynaptic


class Spied(Forwarding):
    """Passes everything on."""

    def __init__(self, inner: Sink):
        super().__init__(inner)
        self.posts: dict[int, Tensor] = {}

    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """Notes the credit at the drive."""
        self.posts[node.index] = dense(post).clone()
        super().deposit(node, pre, post, bias_gain)

    def before(self, node: Node, shape: torch.Size) -> Tensor:
        """The credit at what the synapse reads, ``[K, *shape]``."""
        post = self.posts[node.index]
        like = post.new_zeros(len(post) * shape[0], *shape[1:])
        back = ops_of(node.module).transpose(node.module, self.params(node), post.flatten(0, 1), like)
        return back.view(len(post), *shape)
