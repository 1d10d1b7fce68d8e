"""Broyden's "good" method, sample by sample, with a limited memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onward.solvers.base import Rows, Search, Solver, at_least_one


@dataclass(frozen=True)
class Broyden(Solver):
    """v <- v - B r(v), where B, at first -I, learns the inverse of J^T - I from every step (Broyden 1965, "good").

    B <- B + (s - B y) s^T B / (s^T B y) for a step s that changed the residual by y. B is kept as -I plus the latest
    ``memory`` rank-one terms of every sample. Needs no contraction, and about as many steps as J^T has eigenvalues
    that matter. A step costs six passes over the terms; they take 2 min(steps, memory) tensors ``[B, n]``.
    """

    memory: int = 27

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("memory", self.memory)

    @property
    def vectors(self) -> int:
        """See `Solver.vectors`: the terms of B, the last step, and what it changed."""
        return super().vectors + 2 * min(self.steps, self.memory) + 3

    def _run(self, search: Search) -> None:
        inverse = _Inverse(search.g, min(self.steps, self.memory))
        while search.open:
            search.move(search.v + inverse.step(search.residual))


class _Inverse:
    """B = -I + sum_i u_i v_i^T, one a sample, and the last step taken with it."""

    def __init__(self, like: Tensor, most: int):
        self._u, self._v = Rows(like, most), Rows(like, most)
        self._last: tuple[Tensor, Tensor] | None = None

    def step(self, residual: Tensor) -> Tensor:
        """-B r, after learning from what the last step did to the residual."""
        if self._last is not None:
            step, before = self._last
            self._learn(step, residual - before)
        step = -self._times(residual)
        self._last = step, residual
        return step

    def _learn(self, step: Tensor, change: Tensor) -> None:
        self._u.blank()
        image, row = self._times(change), self._transposed(step)
        share = (row * change).sum(1, keepdim=True)
        least = torch.finfo(step.dtype).eps * step.norm(dim=1, keepdim=True) * image.norm(dim=1, keepdim=True)
        share = torch.where(share.abs() > least, share, torch.inf)  # a sample that stands still teaches nothing
        self._u.put((step - image) / share)
        self._v.put(row)

    def _times(self, x: Tensor) -> Tensor:
        return self._u.mix(self._v.dot(x)) - x

    def _transposed(self, x: Tensor) -> Tensor:
        return self._v.mix(self._u.dot(x)) - x
