"""Solvers of beta = J^T beta + g, by which an equilibrium is differentiated, and their names for configurations.

===========  ====================================  =====================  ==============================
name         a step                                extra tensors [B, n]   converges
===========  ====================================  =====================  ==============================
fixed-point  v <- J^T v + g, or part of the way    0                      where J contracts
broyden      v <- v - B r(v), B learned            2 min(steps, memory)   in practice
anderson     mixes the latest iterates             2 min(steps, memory)   where J contracts, or nearly
gmres        smallest residual in a Krylov space   min(steps, restart+1)  for long enough restarts
halved       v <- (J^T v + g) / 2                  0                      to something else: to compare
===========  ====================================  =====================  ==============================

>>> import torch
>>> solution = solvers.build("gmres").solve(lambda v: -2 * v, torch.ones(1, 4))
>>> solution.converged, solution.steps
(True, 2)
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny

from onward.core.registry import Choice, Registry
from onward.solvers.anderson import Anderson
from onward.solvers.base import Operator, Solution, Solver, Status
from onward.solvers.broyden import Broyden
from onward.solvers.fixed_point import FixedPoint, Halved
from onward.solvers.gmres import GMRES

__all__ = [
    "GMRES",
    "Anderson",
    "Broyden",
    "FixedPoint",
    "Halved",
    "Operator",
    "Solution",
    "Solver",
    "SolverChoice",
    "Status",
    "solvers",
]


class SolverOptions(Choice):
    """Options shared by all solvers."""

    steps: int = Field(Solver.steps, ge=1, description="most evaluations of the vector-Jacobian product")
    tolerance: float = Field(
        Solver.tolerance, gt=0, description="relative residual to stop at; in float64, 1e-12 is within reach"
    )


class DampedOptions(SolverOptions):
    """Options of the fixed-point iteration."""

    damping: float = Field(FixedPoint.damping, gt=0, le=1, description="share of every step taken; 1 is undamped")


class BroydenOptions(SolverOptions):
    """Options of Broyden's method."""

    memory: int = Field(Broyden.memory, ge=1, description="rank-one terms kept, each two tensors of the state's size")


class AndersonOptions(SolverOptions):
    """Options of Anderson acceleration."""

    memory: int = Field(Anderson.memory, ge=1, description="iterates mixed, each two tensors of the state's size")


class RestartOptions(SolverOptions):
    """Options of GMRES."""

    restart: int = Field(GMRES.restart, ge=1, description="dimensions after which the basis is begun anew")


solvers: Registry[Solver] = Registry("solver")
solvers.register(
    "fixed-point",
    DampedOptions,
    lambda c: FixedPoint(c.steps, c.tolerance, c.damping),
    "the Neumann series, for feedback that contracts; no memory",
)
solvers.register(
    "broyden",
    BroydenOptions,
    lambda c: Broyden(c.steps, c.tolerance, c.memory),
    "Broyden's good method, limited memory (IDE)",
)
solvers.register(
    "anderson",
    AndersonOptions,
    lambda c: Anderson(c.steps, c.tolerance, c.memory),
    "the fixed-point iteration, accelerated by mixing its latest iterates",
)
solvers.register(
    "gmres",
    RestartOptions,
    lambda c: GMRES(c.steps, c.tolerance, c.restart),
    "smallest residual in a Krylov space; fewest steps",
)
solvers.register(
    "halved",
    SolverOptions,
    lambda c: Halved(c.steps, c.tolerance),
    "not a solver: (2I - J^T)^-1 g, what published code of IDE computes; kept only for comparison",
)

SolverChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(solvers.parse)]
