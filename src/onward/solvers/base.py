"""What solvers of beta = J^T beta + g share: the problem, the search for its solution, and when a search ends.

The unknown is ``[B, n]``; its rows are independent samples. The residual of v is r(v) = J^T v - v + g. A search works
on g divided by a power of two, which brings it near 1 without rounding, so that gradients of any size are served alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onward.core.errors import ConfigError, ShapeError

Operator = Callable[[Tensor], Tensor]
"""v ``[B, n]`` -> J^T v ``[B, n]``, linear, row by row."""

Status = Literal["converged", "limit", "diverged", "stagnated"]

DIVERGED = 1e6
"""Times the residual at the start: where a search is given up."""

PATIENCE = 5
"""Steps without a smaller residual at the level of rounding, after which there will be none."""

ROUNDING = 16.0
"""Units in the last place of the iterate that an evaluation of the residual may be off."""


@dataclass(frozen=True)
class Solution:
    """What a solver found, ``value`` ``[B, n]``: each row is the best iterate of that sample, zero included.

    So a sample that diverges spoils no other. (`Halved` alone returns its last iterate.)

    ``residual`` is ||J^T v - v + g|| / ||g|| of ``value`` over all its rows, 0 where g is 0 and infinite where g is not
    finite. ``steps`` counts evaluations of the operator; ``trace`` holds the relative residual after each.

    ``status``: "converged" (``residual`` is at most the tolerance), "limit" (steps ran out), "diverged" (the residual
    grew a millionfold or left the finite numbers), "stagnated" (iterates repeat, or rounding allows no better).
    """

    value: Tensor
    residual: float
    steps: int
    status: Status
    trace: tuple[float, ...]

    @property
    def converged(self) -> bool:
        """Whether the residual came down to the tolerance."""
        return self.status == "converged"


@dataclass(frozen=True)
class Solver(ABC):
    """Solves beta = J^T beta + g, with J^T given as a function, in at most ``steps`` evaluations of it.

    A search ends early at a relative residual of ``tolerance``. The default suits float32, whose rounding allows
    little less; in float64 1e-12 is within reach. All hold four tensors ``[B, n]`` (g, the iterate, its residual, the
    best); a step moves three numbers to the host. Raises `ConfigError` for options out of bounds.
    """

    steps: int = 30
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        at_least_one("steps", self.steps)
        if not self.tolerance > 0:
            raise ConfigError(f"a tolerance of {self.tolerance} was given; expected a positive number")

    def solve(self, operator: Operator, g: Tensor, start: Tensor | None = None) -> Solution:
        """The best approximation found to beta; ``start`` ``[B, n]`` (zero, if none) costs one evaluation.

        Nothing is recorded for autograd. Raises `ShapeError` where ``g`` is not ``[B, n]``, or where ``start`` or
        what the operator returns have another shape.
        """
        search = Search(operator, g, start, self.steps, self.tolerance)
        self._run(search)
        return search.solution()

    @property
    def vectors(self) -> int:
        """For plans of memory: the tensors ``[B, n]`` that a search holds."""
        return 4

    @abstractmethod
    def _run(self, search: Search) -> None:
        """Moves ``search`` on until it is no longer open."""


class Search:
    """A search under way: the current iterate ``v``, its ``residual``, the best rows so far, and why it ended."""

    def __init__(self, operator: Operator, g: Tensor, start: Tensor | None, steps: int, tolerance: float):
        _check(g, start)
        self._scale = _power_of_two(g)
        self._operator, self._steps, self._tolerance = operator, steps, tolerance
        self.g = g.detach() / self._scale
        self.v, self.residual = torch.zeros_like(self.g), self.g
        self._best, self._rows = self.v, row_norms(self.g)
        size = float(torch.linalg.vector_norm(self._rows))
        self._size = size or 1.0
        self._now = size / self._size
        self._reached, self._trace = [self._now], list[float]()
        self._most = DIVERGED
        self.status: Status | None = self._verdict(repeats=False, magnitude=0.0)
        if start is not None and self.open:
            self._begin(start.detach().to(g) / self._scale)

    @property
    def open(self) -> bool:
        """Whether there is something left to do, and a step to do it with."""
        return self.status is None

    @property
    def left(self) -> int:
        """Evaluations of the operator that are left."""
        return self._steps - len(self._trace)

    def move(self, v: Tensor) -> None:
        """Makes ``v`` the current iterate: evaluates its residual and judges it. One step."""
        before, self.v = self.v, v
        self.residual = self._apply(v) - v + self.g
        rows = row_norms(self.residual)
        better = rows < self._rows
        self._best, self._rows = torch.where(better[:, None], v, self._best), torch.where(better, rows, self._rows)
        norms = [torch.linalg.vector_norm(x) for x in (rows, self._rows, row_norms(self._best))]
        now, best, magnitude = (x / self._size for x in torch.stack(norms).tolist())
        repeats = now == self._now and torch.equal(before, v)
        self._now = now
        self._trace.append(now)
        self._reached.append(best)
        self.status = self._verdict(repeats, magnitude)

    def image(self, v: Tensor) -> Tensor:
        """(I - J^T) v. One step; `estimated` enters in the trace what it leads to."""
        return v - self._apply(v)

    def estimated(self, rows: Tensor) -> bool:
        """Notes the residuals ``rows`` ``[B]`` that an iterate would have; whether it is time to try it."""
        self._trace.append(float(torch.linalg.vector_norm(rows)) / self._size)
        self._reached.append(self._reached[-1])
        return not self._trace[-1] > max(self._tolerance, torch.finfo(self.g.dtype).eps)

    def insist(self) -> None:
        """Has the last iterate returned in place of the best, unless the search converged or diverged."""
        if self.status in ("limit", "stagnated"):
            self._best, self._reached[-1] = self.v, self._now

    def solution(self) -> Solution:
        """What was found."""
        assert self.status is not None
        residual = self._reached[-1] if math.isfinite(self._reached[-1]) else math.inf
        return Solution(self._best * self._scale, residual, len(self._trace), self.status, tuple(self._trace))

    def _begin(self, start: Tensor) -> None:
        """Moves to ``start``, however bad, even if it is zero."""
        self._now, self._most = math.nan, math.inf
        self.move(start)
        self._most = DIVERGED * max(1.0, self._now)

    def _apply(self, v: Tensor) -> Tensor:
        image = self._operator(v).detach()
        if image.shape != v.shape:
            raise ShapeError(f"the operator made {list(image.shape)} of {list(v.shape)}; it must keep the shape [B, n]")
        return image

    def _verdict(self, repeats: bool, magnitude: float) -> Status | None:
        if self._reached[-1] <= self._tolerance:
            return "converged"
        if not self._now < self._most:
            return "diverged"
        if repeats or self._exhausted(magnitude):
            return "stagnated"
        return None if self.left > 0 else "limit"

    def _exhausted(self, magnitude: float) -> bool:
        floor = ROUNDING * torch.finfo(self.g.dtype).eps * (1 + magnitude)
        recent = self._reached[-1 - PATIENCE :]
        return len(recent) > PATIENCE and recent[-1] <= floor and recent[-1] > 0.9 * recent[0]


class Rows:
    """The latest ``most`` of the tensors ``[B, n]`` put in, ``[B, k, n]``, and their products sample by sample."""

    def __init__(self, like: Tensor, most: int):
        self._rows = like.new_empty(len(like), most, like.shape[1])
        self._most, self._count = most, 0

    def __len__(self) -> int:
        return min(self._count, self._most)

    @property
    def slot(self) -> int:
        """Where the next tensor goes."""
        return self._count % self._most

    @property
    def latest(self) -> Tensor:
        """The tensor put in last."""
        return self._rows[:, (self._count - 1) % self._most]

    def put(self, x: Tensor) -> None:
        """Adds ``x``, over the oldest one where all slots are taken."""
        self._rows[:, self.slot] = x
        self._count += 1

    def blank(self) -> None:
        """Replaces by zero what the next tensor will overwrite, if anything."""
        if self._count >= self._most:
            self._rows[:, self.slot] = 0

    def dot(self, x: Tensor) -> Tensor:
        """Scalar products of each tensor with ``x`` ``[B, n]``: ``[B, k]``."""
        return torch.bmm(self._rows[:, : len(self)], x[:, :, None])[:, :, 0]

    def mix(self, weights: Tensor) -> Tensor:
        """The sum of the first tensors times ``weights`` ``[B, k]``: ``[B, n]``."""
        count = weights.shape[1]
        return torch.bmm(weights[:, None].to(self._rows.dtype), self._rows[:, :count])[:, 0]


def row_norms(x: Tensor) -> Tensor:
    """Euclidean norms of the rows ``[B]``, at least in float32."""
    return torch.linalg.vector_norm(x, dim=1, dtype=precise(x.dtype))


def precise(dtype: torch.dtype) -> torch.dtype:
    """What sums over ``dtype`` and small systems are kept in."""
    return torch.promote_types(dtype, torch.float32)


def at_least_one(option: str, value: int) -> None:
    """Raises `ConfigError` where ``value`` is below 1."""
    if value < 1:
        raise ConfigError(f"{option} = {value} was given; expected a whole number of at least 1")


def _check(g: Tensor, start: Tensor | None) -> None:
    if g.dim() != 2 or not g.is_floating_point():
        raise ShapeError(f"g has the shape {list(g.shape)} and type {g.dtype}; expected floating point [B, n]")
    if start is not None and start.shape != g.shape:
        raise ShapeError(f"the start has the shape {list(start.shape)}; expected that of g, {list(g.shape)}")


def _power_of_two(g: Tensor) -> float:
    """The one just above the largest element of ``g``, within what its type can be divided by."""
    largest = float(g.detach().abs().max()) if g.numel() else 0.0
    most = math.frexp(torch.finfo(g.dtype).max)[1] - 2
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 0
    return 2.0 ** max(-most, min(exponent, most))
