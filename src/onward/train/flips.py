"""How many signs of binary weights change in an epoch: many, and late, is a learning rate that is too high."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onward.core import Network
from onward.core.graph import Node
from onward.weights.binary import binary_of, latent_of
from onward.weights.bits import pack, unpack


class Flips(nn.Module):
    """Remembers the signs of latent weights at one bit each; part of checkpoints, empty without binary weights."""

    def __init__(self, net: Network):
        super().__init__()
        self.nodes = [node for node in net.synapses if binary_of(node.module) is not None]
        for node in self.nodes:
            self.register_buffer(_name(node), pack(_signs(node)))

    def since(self) -> dict[str, float]:
        """The share of signs that changed since this was last asked (or the start), by synapse."""
        found = {}
        for node in self.nodes:
            signs, before = _signs(node), self.get_buffer(_name(node))
            found[node.name] = float((unpack(before, tuple(signs.shape)) != signs).float().mean())
            before.copy_(pack(signs))
        return found


def _name(node: Node) -> str:
    return f"synapse{node.index}"


@torch.no_grad()
def _signs(node: Node) -> Tensor:
    return latent_of(node.module) >= 0
