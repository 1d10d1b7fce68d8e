"""Anderson acceleration of the fixed-point iteration, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onward.solvers.base import Rows, Search, Solver, at_least_one, precise

RIDGE = 10.0
"""Units in the last place added to the diagonal of the normal equations, whose own is 1."""


@dataclass(frozen=True)
class Anderson(Solver):
    """v <- v + r - sum_i c_i (dv_i + dr_i), with the c that make ||r - sum_i c_i dr_i|| smallest (Anderson 1965).

    dv and dr are the latest ``memory`` differences between iterates and between their residuals. The least squares of
    every sample are solved through normal equations with a ridge at the level of rounding, in float32 at least. A step
    costs three passes over the differences, which take 2 min(steps, memory) tensors ``[B, n]``.
    """

    memory: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("memory", self.memory)

    @property
    def vectors(self) -> int:
        """See `Solver.vectors`: the differences, and what the next are taken from."""
        return super().vectors + 2 * min(self.steps, self.memory) + 2

    def _run(self, search: Search) -> None:
        mixer = _Mixer(search.g, min(self.steps, self.memory))
        while search.open:
            search.move(mixer.next(search.v, search.residual))


class _Mixer:
    """The latest differences, and the scalar products between those of residuals."""

    def __init__(self, like: Tensor, most: int):
        self._changes, self._moves = Rows(like, most), Rows(like, most)
        self._products = like.new_zeros(len(like), most, most, dtype=precise(like.dtype))
        self._last: tuple[Tensor, Tensor] | None = None

    def next(self, v: Tensor, residual: Tensor) -> Tensor:
        """The next iterate."""
        ahead = v + residual
        if self._last is not None:
            self._learn(residual - self._last[1], ahead - self._last[0])
        self._last = ahead, residual
        if not len(self._changes):
            return ahead
        size = len(self._changes)
        weights = _least_squares(self._products[:, :size, :size], self._changes.dot(residual))
        return ahead - self._moves.mix(weights)

    def _learn(self, change: Tensor, move: Tensor) -> None:
        slot = self._changes.slot
        self._changes.put(change)
        self._moves.put(move)
        products = self._changes.dot(change).to(self._products.dtype)
        self._products[:, slot, : len(self._changes)] = products
        self._products[:, : len(self._changes), slot] = products


def _least_squares(products: Tensor, target: Tensor) -> Tensor:
    """The c ``[B, k]`` with products c = target, all scaled to a unit diagonal; 0 for a difference of 0."""
    diagonal = products.diagonal(dim1=1, dim2=2)
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0)
    ridge = RIDGE * torch.finfo(products.dtype).eps
    unit = torch.eye(products.shape[1], dtype=products.dtype, device=products.device)
    system = scale[:, :, None] * products * scale[:, None, :] + ridge * unit
    solved, _ = torch.linalg.solve_ex(system, scale * target.to(products.dtype))
    return scale * solved
