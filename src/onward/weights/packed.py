"""Binary weights in one bit each: the same numbers as from latent weights, 1/32 of their memory."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core.synapse import effective
from onward.weights.binary import binary_of, latent_of, no_binary_weight, parametrizations
from onward.weights.bits import pack, unpack
from onward.weights.rows import Rows

Net = TypeVar("Net", bound=nn.Module)


class Packed(nn.Module):
    """The parametrization of nothing: a weight that is made of ``bits`` and ``scale`` whenever it is read.

    w_ci = alpha_c where the bit is set, else -alpha_c: bits of C x n signs in ceil(C n / 8) bytes, and C scales.
    """

    bits: Tensor
    scale: Tensor

    def __init__(self, rows: Rows, shape: tuple[int, ...], positive: Tensor, scale: Tensor):
        super().__init__()
        self.rows, self.shape, self.matrix = rows, shape, tuple(positive.shape)
        self.register_buffer("bits", pack(positive))
        self.register_buffer("scale", scale)

    def forward(self, nothing: Tensor) -> Tensor:
        """The effective weight."""
        scale = self.scale[:, None]
        return self.rows.back(torch.where(self.positive, scale, -scale), self.shape)

    @property
    def positive(self) -> Tensor:
        """The signs, ``[C, n]``."""
        return unpack(self.bits, self.matrix)

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return self.bits.nbytes + self.scale.nbytes


def packed_of(synapse: nn.Module) -> Packed | None:
    """What makes the weight of ``synapse`` of bits; None where nothing does."""
    return next((part for part in parametrizations(synapse) if isinstance(part, Packed)), None)


@torch.no_grad()
def with_packed_weights(net: Net) -> Net:
    """A copy of ``net`` whose binary weights are stored in one bit each, and can no longer be trained.

    It computes the same, to the last bit. Each weight is unpacked while it is used.

    >>> from onward.weights import binarize
    >>> net = nn.Sequential(binarize(nn.Linear(8, 4)))
    >>> packed = with_packed_weights(net)
    >>> torch.equal(packed[0].weight, net[0].weight), packed[0].parametrizations.weight[0].bits.nbytes
    (True, 4)
    """
    copy = deepcopy(net)
    for module in copy.modules():
        if binary_of(module) is not None:
            _pack(module)
    return copy


def _pack(synapse: nn.Module) -> None:
    positive, scale, rows = signs_of(synapse)
    shape = tuple(effective(synapse)["weight"].shape)
    nothing = nn.Parameter(scale.new_empty(0), requires_grad=False)
    held: Any = synapse.parametrizations
    # in place: to remove the old one would take it from other copies of the module, which share its class; unsafe
    # leaves out the question whether shapes stay the same
    held["weight"] = parametrize.ParametrizationList(
        [Packed(rows, shape, positive, scale.clone())], nothing, unsafe=True
    )


def signs_of(synapse: nn.Module) -> tuple[Tensor, Tensor, Rows]:
    """The signs (truth values ``[C, n]``), the scales ``[C]`` and the rows of a binary weight, packed or not."""
    packed, binary = packed_of(synapse), binary_of(synapse)
    if packed is not None:
        return packed.positive, packed.scale, packed.rows
    if binary is not None:
        latent = latent_of(synapse).detach()
        return latent >= 0, binary.scale(latent).detach()[:, 0], binary.rows
    raise no_binary_weight(synapse)
