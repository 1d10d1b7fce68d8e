"""The norm of a synapse as the linear map that it is."""

from __future__ import annotations

import torch
from torch import nn

from onward.core.synapse import effective, ops_of


@torch.no_grad()
def operator_norm(module: nn.Module, features: tuple[int, ...], iterations: int = 50) -> float:
    """The largest factor by which the synapse lengthens an input of shape ``features``, by power iteration."""
    params = {name: value for name, value in effective(module).items() if name != "bias"}
    ops, weight = ops_of(module), params["weight"]
    x, norm = torch.randn(1, *features, dtype=weight.dtype, generator=torch.Generator().manual_seed(0)), 0.0
    x = x.to(weight.device)
    for _ in range(iterations):
        y = ops.apply(module, params, x / x.norm())
        x, norm = ops.transpose(module, params, y, x), float(y.norm())
    return norm
