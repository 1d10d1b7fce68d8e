"""Synapses of every kind that has an operator, and the dense matrix of what they do."""

from __future__ import annotations

from copy import deepcopy
from math import prod

import pytest
import torch
from torch import Tensor, nn

SYNAPSES = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "conv2d-strided": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), (2, 6, 5)),
    "conv2d-dilated-groups": (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (4, 5, 5)),
    "conv2d-circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    "conv2d-same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, stride=(1, 2, 1)), (1, 3, 4, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(3, 2, 3, stride=2), (3, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 4, 3)),
    "transposed2d-groups": (lambda: nn.ConvTranspose2d(4, 6, 3, padding=1, groups=2), (4, 4, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 1, 2, stride=2, output_padding=1), (2, 2, 3, 2)),
}

every_synapse = pytest.mark.parametrize("name", SYNAPSES)


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, features = SYNAPSES[name]
    return make().double(), features


@torch.no_grad()
def dense(module: nn.Module, features: tuple[int, ...]) -> Tensor:
    """The matrix of the module's linear part, a column an input, read in evaluation mode."""
    still = deepcopy(module).eval()
    units = torch.eye(prod(features), dtype=torch.float64).view(-1, *features)
    return (still(units) - still(torch.zeros_like(units[:1]))).flatten(1).T


def true_norm(module: nn.Module, features: tuple[int, ...]) -> float:
    return float(torch.linalg.matrix_norm(dense(module, features), 2))
