"""Scaled weight standardisation, for networks without normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core.errors import ConfigError

ACTIVATION_SCALE = 2.74
"""1 / std of H(z - 1), z ~ N(0, 1): multiplies spikes in networks with standardised weights."""


class Standardized(nn.Module):
    """Scaled weight standardisation (Brock et al. 2021; Xiao et al. 2022).

    w_i -> gain_i (w_i - mean(w_i)) / sqrt(var(w_i) F + 1e-4), F the fan-in, var unbiased; one learned gain per
    output, initially 1. Rows sum to 0, and adding a constant to a row changes nothing. Raises `ConfigError` for a
    fan-in of 1, which has no variance.
    """

    def __init__(self, weight: Tensor, eps: float = 1e-4):
        super().__init__()
        if weight[0].numel() < 2:
            raise ConfigError(f"weights of shape {list(weight.shape)} cannot be standardised: one input an output")
        self.gain = nn.Parameter(weight.new_ones(len(weight), *[1] * (weight.dim() - 1)))
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight."""
        over = tuple(range(1, weight.dim()))
        var, mean = torch.var_mean(weight, dim=over, keepdim=True)
        fan_in = weight[0].numel()
        return self.gain * (weight - mean) / torch.sqrt(var * fan_in + self.eps)


def standardize(synapse: nn.Module) -> nn.Module:
    """Standardises the weight of ``synapse`` in place, and returns it.

    >>> float(standardize(nn.Linear(8, 4)).weight.detach().sum(1).abs().max()) < 1e-6
    True
    """
    weight = synapse.get_parameter("weight")
    parametrize.register_parametrization(synapse, "weight", Standardized(weight))
    return synapse
