"""Glue that multiplies signals with each other, for spiking Transformers and gated residual networks.

All act on rows ``[R, D, *positions]``: D channels, a token at every position. Of spikes, products are spikes or whole
numbers; none of it has weights or memory.
"""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    """Spiking self-attention without softmax, in every head: out = scale Q K^T V (Zhou et al. 2023).

    Products are associative, so that (Q K^T) V and Q (K^T V) agree; whichever costs less is taken: 2 N^2 d against
    2 N d^2 multiplications for N tokens of d channels a head. Of spikes, both add up whole numbers: the same bits.

    >>> import torch
    >>> one = torch.ones(1, 4, 3)
    >>> Attention(heads=2, scale=0.5)(one, one, one).unique()
    tensor([3.])
    """

    def __init__(self, heads: int, scale: float = 0.125):
        super().__init__()
        self.heads, self.scale = heads, scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """scale Q K^T V, in the shape of V."""
        queries, keys, values = (x.flatten(2).unflatten(1, (self.heads, -1)) for x in (q, k, v))
        width, tokens = queries.shape[-2:]
        order = self.tokens_first if tokens <= width else self.channels_first
        return (order(queries, keys, values) * self.scale).reshape(v.shape)

    @staticmethod
    def tokens_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(Q K^T) V of ``[..., d, N]``."""
        return v @ (k.mT @ q)

    @staticmethod
    def channels_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Q (K^T V) of ``[..., d, N]``."""
        return (v @ k.mT) @ q

    def extra_repr(self) -> str:
        """Heads and scale."""
        return f"heads={self.heads}, scale={self.scale:.4g}"


class Gate(nn.Module):
    """gate * x: of spikes, AND.

    A gate of fewer channels opens equal groups of them; one of a single position opens all.
    """

    def forward(self, gate: Tensor, x: Tensor) -> Tensor:
        """gate * x, in the shape of ``x``."""
        return (gate.unsqueeze(2) * x.unflatten(1, (gate.shape[1], -1))).flatten(1, 2)


class Veto(nn.Module):
    """(1 - veto) * x: of spikes, NOT the first AND the second."""

    def forward(self, veto: Tensor, x: Tensor) -> Tensor:
        """(1 - veto) * x."""
        return (1 - veto) * x


class HeadSums(nn.Module):
    """The sum over the channels of every head, ``[R, heads, *positions]``."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """The sums."""
        return x.unflatten(1, (self.heads, -1)).sum(2)

    def extra_repr(self) -> str:
        """The number of heads."""
        return f"{self.heads}"


class TokenSums(nn.Module):
    """The sum over all tokens, ``[R, D, 1, ...]``."""

    def forward(self, x: Tensor) -> Tensor:
        """The sums."""
        return x.sum(tuple(range(2, x.dim())), keepdim=True)
