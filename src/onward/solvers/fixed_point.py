"""Fixed-point iterations: the Neumann series, damped or not, and the halved one found in published code."""

from __future__ import annotations

from dataclasses import dataclass

from onward.core.errors import ConfigError
from onward.solvers.base import Search, Solver


@dataclass(frozen=True)
class FixedPoint(Solver):
    """v <- (1 - damping) v + damping (J^T v + g); at damping 1 the Neumann series g + J^T g + (J^T)^2 g + ...

    Converges wherever the spectral radius of J is below 1; the error shrinks by ||J|| a step. Damping helps where
    eigenvalues lie far out on the negative or imaginary axis. Stores nothing beyond what every solver holds.

    >>> import torch
    >>> solution = FixedPoint().solve(lambda v: v / 2, torch.ones(1, 3))
    >>> solution.status, solution.steps, round(float(solution.value[0, 0]), 4)
    ('converged', 20, 2.0)
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping <= 1:
            raise ConfigError(f"a damping of {self.damping} was given; expected 0 < damping <= 1 (1 takes whole steps)")

    def _run(self, search: Search) -> None:
        while search.open:
            search.move(search.v + self.damping * search.residual)


@dataclass(frozen=True)
class Halved(Solver):
    """v <- (J^T v + g) / 2. **Not a solver**: it tends to (2 I - J^T)^-1 g, about half the solution.

    Published code of IDE averages the iterate with the residual (its "iter" solver). Kept only to compare with that:
    it returns its last iterate rather than its best, whose residual is measured in the true equation, so that the
    status tells. Rule `ide` solves for what the feedback adds to g alone, and so gets g + (2 I - J^T)^-1 J^T g: twice
    what the published code has. Stores nothing beyond what every solver holds.
    """

    def _run(self, search: Search) -> None:
        while search.open:
            search.move((search.v + search.residual) / 2)
        search.insist()
