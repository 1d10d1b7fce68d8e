"""GMRES with restarts, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onward.solvers.base import Rows, Search, Solver, at_least_one, precise, row_norms


@dataclass(frozen=True)
class GMRES(Solver):
    """The v with the smallest residual in the span of r, (I - J^T) r, (I - J^T)^2 r, ... (Saad and Schultz 1986).

    Starts anew from the iterate reached after every ``restart`` dimensions. No solver needs fewer steps when it never
    restarts, contraction or not. Within a cycle the trace holds the method's own estimates; a cycle ends with one
    evaluation of the true residual, and what is returned was so measured. A step costs four passes over the basis,
    which takes min(steps, restart + 1) tensors ``[B, n]``.
    """

    restart: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one("restart", self.restart)

    @property
    def vectors(self) -> int:
        """See `Solver.vectors`: the basis."""
        return super().vectors + min(self.steps, self.restart + 1)

    def _run(self, search: Search) -> None:
        while search.open:
            search.move(search.v + self._correction(search))

    def _correction(self, search: Search) -> Tensor:
        most = min(self.restart, search.left - 1)
        if most == 0:
            return search.residual
        cycle = _Cycle(search.residual, most)
        for _ in range(most):
            if search.estimated(cycle.extend(search.image(cycle.latest))):
                break
        return cycle.correction()


class _Cycle:
    """Arnoldi's orthonormal basis of one sample each, and the QR factors of what I - J^T is in it."""

    def __init__(self, residual: Tensor, most: int):
        wide = precise(residual.dtype)
        self._norms = row_norms(residual)
        self._basis = Rows(residual, most + 1)
        self._basis.put(_divided(residual, self._norms))
        self._upper = residual.new_zeros(len(residual), most, most, dtype=wide)
        self._turns = torch.eye(most + 1, dtype=wide, device=residual.device).repeat(len(residual), 1, 1)
        self._tiny = 10 * torch.finfo(residual.dtype).eps

    @property
    def latest(self) -> Tensor:
        """The newest basis vector."""
        return self._basis.latest

    def extend(self, image: Tensor) -> Tensor:
        """Takes (I - J^T) times the newest vector in; the residual norms ``[B]`` that the basis now allows."""
        size = len(self._basis)
        products, rest = self._orthogonal(image)
        norms = row_norms(rest)
        norms = torch.where(norms > self._tiny * row_norms(image), norms, 0)  # the basis of that sample is complete
        self._basis.put(_divided(rest, norms))
        column = torch.cat([products.to(norms.dtype), norms[:, None]], 1)
        self._rotate(torch.bmm(self._turns[:, : size + 1, : size + 1], column[:, :, None])[:, :, 0], size)
        return self._norms * self._turns[:, size, 0].abs()

    def correction(self) -> Tensor:
        """What to add to the iterate: the combination of the basis with the smallest residual."""
        size = len(self._basis) - 1
        upper, target = self._upper[:, :size, :size], self._norms[:, None] * self._turns[:, :size, 0]
        complete = upper.diagonal(dim1=1, dim2=2) == 0
        upper = upper + torch.diag_embed(complete.to(upper.dtype))
        weights = torch.linalg.solve_triangular(upper, torch.where(complete, 0, target)[:, :, None], upper=True)
        return self._basis.mix(weights[:, :, 0])

    def _orthogonal(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients in the basis and what is left: Gram-Schmidt, twice, which is as good as exact."""
        first = self._basis.dot(image)
        rest = image - self._basis.mix(first)
        second = self._basis.dot(rest)
        return first + second, rest - self._basis.mix(second)

    def _rotate(self, column: Tensor, size: int) -> None:
        """Turns the last two of ``column`` ``[B, size + 1]`` so that the last one vanishes."""
        a, b = column[:, -2], column[:, -1]
        length = torch.hypot(a, b)
        length = torch.where(length > self._tiny * column.norm(dim=1), length, 0)
        cosine, sine = torch.where(length > 0, a / length, 0), torch.where(length > 0, b / length, 1)
        self._upper[:, : size - 1, size - 1] = column[:, : size - 1]
        self._upper[:, size - 1, size - 1] = length
        upper, lower = self._turns[:, size - 1].clone(), self._turns[:, size].clone()
        self._turns[:, size - 1] = cosine[:, None] * upper + sine[:, None] * lower
        self._turns[:, size] = cosine[:, None] * lower - sine[:, None] * upper


def _divided(x: Tensor, norms: Tensor) -> Tensor:
    """Rows of ``x`` at length 1; 0 where the norm is 0."""
    return x * torch.where(norms > 0, norms.reciprocal(), 0)[:, None].to(x.dtype)
