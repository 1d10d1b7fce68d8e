"""Cells in float64, gradients for them, and what they make of these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onward.optim import (
    Architecture,
    Cell,
    Watch,
    initial_cell,
)
from onward.optim.features import inputs

INPUTS = inputs.names()
STILL = Watch(None, None)


def wide(seed: int = 0, **options: Any) -> Cell:
    """A cell in float64, its readout ten times as large as at the start, so that updates are worth looking at."""
    cell = initial_cell(Architecture.model_validate(options), seed).to(torch.float64)
    with torch.no_grad():
        cell.core.readout.weight.mul_(10)
    return cell


def gradients(steps: int, count: int, seed: int = 1) -> Tensor:
    """Normal numbers of all sizes, ``[steps, count]``, in float64."""
    g = torch.randn(steps, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return g * torch.logspace(-6, 1, count, dtype=torch.float64)


def updates(cell: Cell, g: Tensor, block: int = 1000) -> Tensor:
    """What the cell makes of gradients ``[steps, n]``."""
    state = cell.rest(g[0])
    return torch.stack([cell.move(cell.see(row, state), state, block) for row in g])


def exact_sgd(lr: float) -> Cell:
    """Weights with which the cell is stochastic gradient descent for small gradients."""
    cell = Cell(Architecture()).to(torch.float64)
    with torch.no_grad():
        for p in cell.parameters():
            p.zero_()
        cell.core.rnn[0].get_parameter("weight_ih")[20:30] = 1
        cell.core.rnn[0].get_parameter("weight_hh")[20:30] = -2 * torch.eye(10, dtype=torch.float64)
        cell.core.readout.weight.fill_(-0.4 * lr)
    return cell
