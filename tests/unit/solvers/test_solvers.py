"""Solvers of beta = J^T beta + g against dense solves: accuracy, starts, breakdowns, divergence, refusals.

Numbers such as I5 are those of the methods' testable properties.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor

from onward.core.errors import ConfigError, OnwardError, ShapeError, UnknownName
from onward.solvers import GMRES, Anderson, Broyden, FixedPoint, Halved, Operator, Solver, SolverChoice, solvers
from onward.train.memory import Allocations

TRUE = [name for name in solvers.names() if name != "halved"]
QUICK = [name for name in TRUE if name != "fixed-point"]
NORMS = (0.3, 0.5, 0.78, 0.95)
each_solver = pytest.mark.parametrize("name", solvers.names())
each_true = pytest.mark.parametrize("name", TRUE)
each_quick = pytest.mark.parametrize("name", QUICK)
each_norm = pytest.mark.parametrize("norm", NORMS)


class Problem:
    """One random matrix a sample, all of one spectral norm, and the dense solution."""

    def __init__(self, norm: float, rows: int = 6, n: int = 20, seed: int = 0, dtype: torch.dtype = torch.float64):
        generator = torch.Generator().manual_seed(seed)
        jacobian = torch.randn(rows, n, n, generator=generator, dtype=torch.float64)
        jacobian *= (norm / torch.linalg.matrix_norm(jacobian, 2))[:, None, None]
        g = torch.randn(rows, n, generator=generator, dtype=torch.float64)
        self.exact = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - jacobian.mT, g)
        self.other = torch.randn(rows, n, generator=generator, dtype=torch.float64).to(dtype)
        self.jacobian, self.g = jacobian.to(dtype), g.to(dtype)
        self.calls = 0

    def __call__(self, v: Tensor) -> Tensor:
        self.calls += 1
        return torch.einsum("bij,bi->bj", self.jacobian, v)

    def error(self, value: Tensor) -> float:
        return float((value.double() - self.exact).norm() / self.exact.norm())

    def residual(self, value: Tensor) -> float:
        return float((self(value) - value + self.g).norm() / self.g.norm())


def built(name: str, steps: int = 30, tolerance: float = 1e-6) -> Solver:
    return solvers.build({"name": name, "steps": steps, "tolerance": tolerance})


@each_true
@each_norm
def test_solutions_equal_dense_ones(name: str, norm: float) -> None:
    problem = Problem(norm)
    solution = built(name, steps=300, tolerance=1e-12).solve(problem, problem.g)
    assert solution.status == "converged"
    assert solution.residual <= 1e-12
    assert problem.error(solution.value) < 1e-10


@each_true
@each_norm
def test_float32_reaches_the_default_tolerance(name: str, norm: float) -> None:
    problem = Problem(norm, dtype=torch.float32)
    solution = built(name, steps=300).solve(problem, problem.g)
    assert solution.converged
    assert solution.value.dtype == torch.float32
    assert problem.error(solution.value) < 2e-5


@each_true
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_as_far_as_it_can(name: str, dtype: torch.dtype) -> None:
    problem = Problem(0.5, dtype=dtype)
    solution = built(name).solve(problem, problem.g)
    assert solution.value.dtype == dtype
    assert problem.error(solution.value) < 4 * torch.finfo(dtype).eps


@each_solver
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("started", [False, True])
def test_reports_tell_what_happened(name: str, steps: int, started: bool) -> None:
    """Steps are calls of the operator, one entry of the trace each; the residual is that of the value returned."""
    problem = Problem(0.95)
    solution = built(name, steps=steps).solve(problem, problem.g, problem.other if started else None)
    assert problem.calls == solution.steps == len(solution.trace) == steps
    assert solution.status == "limit"
    assert not solution.converged
    assert solution.residual == pytest.approx(problem.residual(solution.value), rel=1e-9)
    if name in TRUE:
        assert solution.residual <= min(solution.trace) * (1 + 1e-9)


@each_true
def test_the_start_does_not_matter(name: str) -> None:
    """I6, from zero, from elsewhere, from far off and from the solution itself."""
    problem = Problem(0.78)
    solver = built(name, steps=300, tolerance=1e-12)
    for start in (None, torch.zeros_like(problem.g), problem.other, 1e9 * problem.other, problem.exact):
        assert problem.error(solver.solve(problem, problem.g, start).value) < 1e-10
    assert solver.solve(problem, problem.g, problem.exact).steps == 1


@each_norm
def test_broyden_and_fixed_point_agree(norm: float) -> None:
    """I6."""
    problem = Problem(norm)
    one, other = (solver(600, 1e-8).solve(problem, problem.g).value for solver in (Broyden, FixedPoint))
    assert float((one - other).norm() / one.norm()) < 1e-6


@each_norm
def test_errors_of_the_neumann_series_shrink_by_the_norm(norm: float) -> None:
    """I5: ||J||^k after k steps; to 1e-15 in the end, as far as rounding goes."""
    problem = Problem(norm)
    errors = [problem.error(FixedPoint(k, 1e-300).solve(problem, problem.g).value) for k in range(1, 21)]
    assert all(error <= norm**k + 1e-15 for k, error in enumerate(errors, 1))
    assert all(after <= norm * before + 1e-15 for before, after in pairwise([1.0, *errors]))


@pytest.mark.parametrize("seed", range(5))
def test_broyden_needs_few_steps_on_the_toy(seed: int) -> None:
    """I5, on three layers of 15, 12 and 10 in a loop, of unit norm, some neurons silent or saturated, V = 2."""
    generator = torch.Generator().manual_seed(seed)
    problem, masked = Problem(0.5, 8, 10, seed), torch.eye(10, dtype=torch.float64).expand(8, 10, 10)
    for wide, narrow in ((15, 10), (12, 15), (10, 12)):
        weight = torch.randn(wide, narrow, generator=generator, dtype=torch.float64)
        mask = torch.rand(8, wide, 1, generator=generator) < 0.7
        masked = mask * ((weight / torch.linalg.matrix_norm(weight, 2)) @ masked)
    problem.jacobian = masked.mT / 2
    solution = Broyden(tolerance=1e-9).solve(problem, problem.g)
    assert solution.converged
    assert solution.steps <= 7


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_quick_solvers_end_in_as_many_steps_as_there_are_dimensions(n: int) -> None:
    """GMRES in n and one to confirm, Broyden in 2n (Gay 1979), contraction or not."""
    for norm in (0.95, 1.5, 3.0):
        problem = Problem(norm, n=n)
        assert GMRES(steps=n + 1, tolerance=1e-9).solve(problem, problem.g).converged
        assert Broyden(steps=2 * n + 2, tolerance=1e-9).solve(problem, problem.g).converged


def test_damping_tames_negative_eigenvalues() -> None:
    g = torch.ones(2, 3, dtype=torch.float64)

    def negative(v: Tensor) -> Tensor:
        return -1.5 * v

    assert FixedPoint(steps=60).solve(negative, g).status == "diverged"
    damped = FixedPoint(steps=60, damping=0.5).solve(negative, g)
    assert damped.converged
    assert torch.allclose(damped.value, g / 2.5, atol=1e-6)


@pytest.mark.parametrize("solver", [GMRES(400, 1e-9, restart=3), Anderson(400, 1e-9, memory=3), Broyden(400, 1e-9, 3)])
@each_norm
def test_little_memory_is_enough_where_feedback_contracts(solver: Solver, norm: float) -> None:
    problem = Problem(norm)
    assert problem.error(solver.solve(problem, problem.g).value) < 1e-7


@pytest.mark.parametrize("solver", [GMRES(200, 1e-10, restart=1), Anderson(200, 1e-10, 1), Broyden(200, 1e-10, 1)])
def test_the_least_memory_works(solver: Solver) -> None:
    problem = Problem(0.5)
    assert problem.error(solver.solve(problem, problem.g).value) < 1e-9


@each_true
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_are_done_early_stay_finite(name: str, dtype: torch.dtype) -> None:
    """Rows of g that are zero or tiny, and rows without feedback, beside rows that take long."""
    problem = Problem(0.95, rows=8, dtype=dtype)
    problem.jacobian[:3] = 0
    problem.g[2:5] = 0
    problem.g[5] *= 1e-20
    solution = built(name, steps=300, tolerance=1e-6).solve(problem, problem.g)
    assert solution.converged
    assert torch.equal(solution.value[2:5], torch.zeros_like(problem.g[2:5]))
    assert torch.allclose(solution.value[:2], problem.g[:2], rtol=1e-5)
    assert problem.residual(solution.value) <= 1.001e-6


@each_true
def test_steps_beyond_rounding_are_not_taken(name: str) -> None:
    problem = Problem(0.5, dtype=torch.float32)
    solution = built(name, steps=500, tolerance=1e-30).solve(problem, problem.g)
    assert solution.status == "stagnated"
    assert solution.steps < 100
    assert problem.error(solution.value) < 1e-6


@each_solver
def test_nothing_to_do(name: str) -> None:
    for g in (torch.zeros(3, 4), torch.zeros(0, 4)):
        for start in (None, torch.ones_like(g)):
            solution = built(name).solve(Problem(0.5, 3, 4, dtype=torch.float32), g, start)
            assert (solution.residual, solution.steps, solution.status) == (0.0, 0, "converged")
            assert torch.equal(solution.value, g)


@each_true
def test_no_feedback(name: str) -> None:
    g = torch.randn(3, 4)
    solution = built(name).solve(torch.zeros_like, g)
    assert solution.converged
    assert torch.allclose(solution.value, g)


@each_solver
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_size_of_g_does_not_matter(name: str, size: float) -> None:
    """Of a power of two not even in the last bit."""
    problem = Problem(0.5, dtype=torch.float32)
    size = 2.0 ** round(math.log2(size))
    usual, sized = (built(name).solve(problem, problem.g * factor) for factor in (1.0, size))
    assert torch.equal(usual.value * size, sized.value)
    assert usual.trace == sized.trace


def test_fixed_point_tells_that_feedback_does_not_contract() -> None:
    problem = Problem(1.5, n=2)
    problem.jacobian = 1.5 * torch.eye(2, dtype=torch.float64).expand(6, 2, 2)
    solution = FixedPoint(steps=100).solve(problem, problem.g)
    assert solution.status == "diverged"
    assert solution.steps < 40
    assert FixedPoint().solve(problem, problem.g).status == "limit"
    assert bool(solution.value.isfinite().all())
    assert solution.residual <= 1


def test_one_diverging_sample_leaves_the_others_alone() -> None:
    problem = Problem(0.5)
    problem.jacobian[0] = 3 * torch.eye(20, dtype=torch.float64)
    solution = FixedPoint(steps=100).solve(problem, problem.g)
    assert solution.status == "diverged"
    assert float((solution.value - problem.exact)[1:].norm() / problem.exact[1:].norm()) < 1e-2


@each_quick
@pytest.mark.parametrize("norm", [1.5, 3.0])
def test_others_need_no_contraction(name: str, norm: float) -> None:
    problem = Problem(norm, n=6)
    solution = built(name, steps=60, tolerance=1e-9).solve(problem, problem.g)
    assert solution.converged
    assert problem.error(solution.value) < 1e-7


@each_solver
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite(name: str, bad: float) -> None:
    """In g, in the start and in what the operator returns: told, and nothing of it returned."""
    problem = Problem(0.5, dtype=torch.float32)
    spoilt = problem.g.clone()
    spoilt[1, 2] = bad
    from_g = built(name).solve(problem, spoilt)
    assert (from_g.status, from_g.residual, from_g.steps) == ("diverged", math.inf, 0)
    from_start = built(name).solve(problem, problem.g, spoilt)
    from_operator = built(name).solve(lambda v: v * bad, problem.g)
    for solution in (from_g, from_start, from_operator):
        assert solution.status == "diverged"
        assert bool(solution.value.isfinite().all())


@each_solver
def test_equations_without_solution_are_not_called_solved(name: str) -> None:
    """J = I on g in its left null space."""
    solution = built(name, steps=50).solve(lambda v: v * 1.0, torch.ones(2, 3, dtype=torch.float64))
    assert solution.status in ("limit", "stagnated")
    assert solution.residual == 1.0
    assert bool(solution.value.isfinite().all())


def test_gmres_survives_a_plateau() -> None:
    """A shift gains nothing until the last dimension; a shorter restart never gains."""
    g = torch.zeros(1, 6, dtype=torch.float64)
    g[0, 0] = 1

    def shift(v: Tensor) -> Tensor:
        return v - v.roll(1, 1)

    assert torch.allclose(GMRES().solve(shift, g).value, g.roll(-1, 1))
    assert GMRES(restart=5).solve(shift, g).status == "stagnated"


@each_norm
def test_halving_tends_to_something_else(norm: float) -> None:
    """I7, a negative control: to (2I - J^T)^-1 g, about half of the solution, which the status tells."""
    problem = Problem(norm)
    limit = torch.linalg.solve(2 * torch.eye(20, dtype=torch.float64) - problem.jacobian.mT, problem.g)
    solution = Halved(steps=100).solve(problem, problem.g, problem.other)
    assert solution.status in ("limit", "stagnated")
    assert torch.allclose(solution.value, limit, rtol=1e-12)
    assert problem.error(solution.value) > 0.4
    assert solution.residual == pytest.approx(problem.residual(limit))


@each_norm
def test_leaving_the_solve_out_is_found_out(norm: float) -> None:
    """I7, the other negative control, by the relative error and by the residual."""
    problem = Problem(norm)
    least = 0.2 if norm >= 0.5 else 0.1
    assert problem.error(problem.g) > least
    assert problem.residual(problem.g) > least


@given(
    rows=st.integers(1, 5),
    n=st.integers(1, 7),
    memory=st.integers(1, 12),
    norm=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
def test_any_shape(rows: int, n: int, memory: int, norm: float, seed: int) -> None:
    problem = Problem(norm, rows, n, seed)
    for solver in (
        FixedPoint(400, 1e-9),
        Broyden(400, 1e-9, memory),
        Anderson(400, 1e-9, memory),
        GMRES(400, 1e-9, memory),
    ):
        solution = solver.solve(problem, problem.g)
        assert solution.converged, solver
        assert problem.residual(solution.value) <= 1.001e-9
        assert problem.error(solution.value) < 1e-7


@given(rows=st.integers(2, 5), n=st.integers(1, 7), seed=st.integers(0, 1000))
def test_samples_are_independent(rows: int, n: int, seed: int) -> None:
    """What a sample gets after so many steps does not depend on its neighbours."""
    problem = Problem(0.9, rows, n, seed)
    for name in TRUE:
        solver = built(name, steps=4, tolerance=1e-300)
        together = solver.solve(problem, problem.g).value
        alone = solver.solve(lambda v: v @ problem.jacobian[0], problem.g[:1]).value
        residuals = [float((v @ problem.jacobian[0] - v + problem.g[:1]).norm()) for v in (together[:1], alone)]
        assert residuals[0] == pytest.approx(residuals[1], rel=1e-3, abs=1e-9), name


@each_solver
def test_nothing_is_recorded_for_autograd(name: str) -> None:
    weight = torch.full((3, 3), 0.1, requires_grad=True)
    g, start = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    before = g.detach().clone()
    solution = built(name).solve(lambda v: v @ weight, g, start)
    assert not solution.value.requires_grad
    assert torch.equal(g, before)
    assert torch.equal(start, torch.ones(2, 3))


@each_true
def test_vector_jacobian_products_of_a_graph(name: str) -> None:
    """As a rule calls it: products of one graph that is kept alive."""
    weight = torch.randn(5, 5, dtype=torch.float64) / 8
    state = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    new = torch.tanh(state @ weight)
    g = torch.randn(3, 5, dtype=torch.float64)
    solution = built(name, tolerance=1e-10).solve(lambda v: torch.autograd.grad(new, state, v, retain_graph=True)[0], g)
    jacobian = (1 - new.detach().square())[:, :, None] * weight.mT
    exact = torch.linalg.solve(torch.eye(5, dtype=torch.float64) - jacobian.mT, g)
    assert solution.converged
    assert torch.allclose(solution.value, exact, rtol=1e-8)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("broydn", UnknownName, "unknown solver 'broydn'; did you mean 'broyden'?"),
        ({"name": "gmres", "memory": 3}, UnknownName, "unknown option of gmres 'memory'"),
        ({"name": "broyden", "steps": 0}, ConfigError, "steps = 0 will not do: input should be greater than or equal"),
        ({"name": "anderson", "tolerance": 0}, ConfigError, "tolerance = 0 will not do: input should be greater than"),
        ({"name": "broyden", "memory": 0}, ConfigError, "memory = 0 will not do"),
        ({"name": "gmres", "restart": 0}, ConfigError, "restart = 0 will not do"),
        ({"name": "fixed-point", "damping": 0}, ConfigError, "damping = 0 will not do"),
        ({"name": "fixed-point", "damping": 1.1}, ConfigError, "damping = 1.1 will not do"),
    ],
)
def test_options_are_refused_in_words(value: str | dict, kind: type[OnwardError], message: str) -> None:
    with pytest.raises(kind) as caught:
        solvers.build(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        (FixedPoint, {"steps": 0}, "steps = 0 was given; expected a whole number of at least 1"),
        (Halved, {"tolerance": 0.0}, "a tolerance of 0.0 was given; expected a positive number"),
        (FixedPoint, {"damping": 2.0}, "a damping of 2.0 was given; expected 0 < damping <= 1"),
        (Broyden, {"memory": 0}, "memory = 0 was given"),
        (Anderson, {"memory": -1}, "memory = -1 was given"),
        (GMRES, {"restart": 0}, "restart = 0 was given"),
    ],
)
def test_arguments_are_refused_in_words(solver: type[Solver], options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        solver(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("operator", "g", "start", "message"),
    [
        (torch.zeros_like, torch.ones(3), None, "g has the shape [3] and type torch.float32; expected floating point"),
        (torch.zeros_like, torch.ones(3, 2).long(), None, "type torch.int64; expected floating point [B, n]"),
        (torch.zeros_like, torch.ones(3, 2), torch.ones(2, 3), "the start has the shape [2, 3]; expected that of g"),
        (lambda v: v[:1], torch.ones(3, 2), None, "the operator made [1, 2] of [3, 2]; it must keep the shape [B, n]"),
    ],
)
def test_shapes_are_refused_in_words(operator: Operator, g: Tensor, start: Tensor | None, message: str) -> None:
    for name in solvers.names():
        with pytest.raises(ShapeError) as caught:
            built(name).solve(operator, g, start)
        assert message in str(caught.value)


def test_choices_are_fields_of_configurations() -> None:
    class Options(BaseModel):
        solver: SolverChoice = solvers.parse("broyden")

    assert solvers.build(Options().solver) == Broyden()
    assert solvers.build(Options.model_validate({"solver": "anderson"}).solver) == Anderson()
    chosen = Options.model_validate({"solver": {"name": "fixed-point", "damping": 0.5, "steps": 7}})
    assert solvers.build(chosen.solver) == FixedPoint(7, damping=0.5)
    assert Options.model_validate(chosen.model_dump()) == chosen


def test_every_option_is_described() -> None:
    assert solvers.names() == ["anderson", "broyden", "fixed-point", "gmres", "halved"]
    for name in solvers.names():
        fields = solvers.entry(name).config.model_fields
        assert all(field.description for field in fields.values())
    assert "only for comparison" in solvers.entry("halved").summary


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_true
def test_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    problem = Problem(0.78, dtype=dtype)
    jacobian, tolerance = problem.jacobian.cuda(), 1e-6 if dtype == torch.float32 else 1e-12
    solver = built(name, steps=300, tolerance=tolerance)
    solution = solver.solve(lambda v: torch.einsum("bij,bi->bj", jacobian, v), problem.g.cuda())
    assert solution.converged
    assert solution.value.is_cuda
    assert problem.error(solution.value.cpu()) < 20 * tolerance


@each_solver
@pytest.mark.parametrize("steps", [3, 12])
def test_a_search_holds_the_vectors_that_it_tells(name: str, steps: int) -> None:
    g, solver = torch.ones(4, 20_000), built(name, steps, 1e-30)
    g[:, ::2] = -0.5
    factors = torch.linspace(-0.9, 0.9, 20_000)
    with Allocations() as held:
        solver.solve(lambda v: factors * v, g)
    assert solver.vectors <= held.peak_bytes / g.nbytes < solver.vectors + 4.1
