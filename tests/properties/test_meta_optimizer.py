"""Learned optimisers: MO1 to MO7, MO10 to MO12 of the method's specification, and what else is claimed of them.

MO8 (sizes of networks) and MO9 (the loss of spiking outputs) belong to models and objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from onward.core.errors import ConfigError, NonFiniteError
from onward.optim import (
    Architecture,
    Cell,
    LSTMOptimizer,
    allocate_state,
    dc_gain,
    initial_cell,
)
from onward.optim.meta import (
    HELD,
    Course,
    Learner,
    Look,
    MetaTrainer,
    Optimizee,
    demand,
    evenly,
    later_more,
    meta_gradient,
    unroll,
)
from onward.train.memory import meter
from properties.learned_lab import INPUTS, STILL, exact_sgd, gradients, updates, wide


@pytest.mark.parametrize("name", INPUTS)
def test_mo1_a_permutation_of_coordinates_permutes_updates(name: str) -> None:
    cell, g = wide(input=name, momenta=[0.5]), gradients(4, 37)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    permuted, plain = updates(cell, g[:, order]), updates(cell, g)[:, order]
    if name == "normalised":  # its mean over the tensor is a sum in another order
        torch.testing.assert_close(permuted, plain, rtol=1e-13, atol=1e-15)
    else:
        assert torch.equal(permuted, plain)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(INPUTS),
    st.integers(1, 3),
    st.integers(1, 90),
    st.lists(st.integers(1, 100), min_size=1, max_size=3),
    st.sampled_from([torch.float64, torch.float32]),
)
def test_mo2_blocks_change_no_bit(name: str, layers: int, count: int, blocks: list[int], dtype: torch.dtype) -> None:
    cell, g = wide(input=name, layers=layers, hidden=7).to(dtype), gradients(3, count).to(dtype)
    whole = updates(cell, g, count)
    for block in blocks:
        assert torch.equal(updates(cell, g, block), whole)


def test_mo3_without_biases_a_parameter_without_gradient_never_moves() -> None:
    g = gradients(10, 6)
    g[:, 2] = 0
    assert torch.equal(updates(wide(), g)[:, 2], torch.zeros(10, dtype=torch.float64))
    assert (updates(wide(), g)[:, 3] != 0).all()
    assert (updates(wide(biases=True), g)[:, 2] != 0).all()
    theta = nn.Parameter(torch.full((3,), 0.1))
    optimizer = LSTMOptimizer([theta], wide())
    allocate_state(optimizer)
    state = optimizer.state[theta]
    assert all(bool((tensor == 0).all()) for tensor in state.values())
    assert state["h"].shape == state["c"].shape == (1, 3, 10)


def test_mo4_updates_are_not_odd_yet_linear_for_small_gradients() -> None:
    cell = wide()
    large = torch.full((1, 1), 3.0, dtype=torch.float64)
    assert not torch.allclose(updates(cell, -large), -updates(cell, large), rtol=1e-3)
    g = gradients(5, 8)
    ratios = [updates(cell, eps * g) / eps for eps in (1e-3, 1e-4, 1e-5)]
    coarse, fine = ((ratio - ratios[2]).abs().max() for ratio in ratios[:2])
    assert fine < 0.2 * coarse


class Net(Optimizee):
    """A small smooth network whose mini-batches differ from step to step."""

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(torch.float64)
        self.x = torch.randn(12, 6, 4, dtype=torch.float64, generator=generator)
        self.y = torch.randint(0, 3, (12, 6), generator=generator)

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        return list(self.net.parameters())

    def loss(self, values: Sequence[Tensor], step: int) -> Tensor:
        named = dict(zip(dict(self.net.named_parameters()), values, strict=True))
        return F.cross_entropy(functional_call(self.net, named, (self.x[step],)), self.y[step])

    def look(self, step: int, *, after: bool) -> Look:
        value = self.loss(self.parameters, step)
        return Look(value.item(), torch.autograd.grad(value, self.parameters))


def unrolled_loss(cell: Cell, task: Net, steps: int, weight: Callable[[int], float], telescoped: bool) -> Tensor:
    """The meta-objective with autograd through everything but the cell's inputs; parameters are functions."""
    values = [p.detach().clone() for p in task.parameters]
    states = [cell.rest(p.detach().reshape(-1)) for p in values]
    total, before = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for step in range(steps):
        leaves = [value.detach().requires_grad_() for value in values]
        found = torch.autograd.grad(task.loss(leaves, step), leaves)
        for i, (g, state) in enumerate(zip(found, states, strict=True)):
            update, state["h"], state["c"] = cell(cell.see(g.reshape(-1), state), state["h"], state["c"])
            values[i] = values[i] + update.view_as(values[i])
        loss = task.loss(values, step)
        total, before = total + weight(step + 1) * (loss - before), loss.detach() if telescoped else before
    return total


def recorded_gradients(cell: Cell, steps: int, weight: Callable[[int], float], block: int) -> list[Tensor]:
    cell.zero_grad()
    _, trails = unroll(Learner(cell, Net(), block), steps, weight)
    meta_gradient(cell, trails, block)
    return [p.grad.clone() for p in cell.parameters() if p.grad is not None]


@pytest.mark.parametrize("weight", [evenly, later_more])
@pytest.mark.parametrize("options", [{}, {"layers": 2, "input": "log", "biases": True, "scale": 0.01}])
def test_mo5_the_meta_gradient_is_that_of_autograd_telescoped_or_plain(
    weight: Callable[[int], float], options: dict[str, Any]
) -> None:
    cell = wide(**options)
    found = recorded_gradients(cell, 5, weight, block=7)
    for telescoped in (False, True):
        cell.zero_grad()
        unrolled_loss(cell, Net(), 5, weight, telescoped).backward()
        for p, g in zip(cell.parameters(), found, strict=True):
            torch.testing.assert_close(g, p.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [evenly, later_more])
def test_mo6_the_meta_gradient_matches_differences_with_gradients_held_fixed(weight: Callable[[int], float]) -> None:
    cell, task, steps = wide(), Net(), 4
    found = recorded_gradients(cell, steps, weight, block=1000)
    recorded, learner = list[list[Tensor]](), Learner(cell, Net(), 1000)
    for _ in range(steps):
        recorded.append([rows[:, 0] for rows in learner.advance()[1]])

    def objective() -> float:
        total, values = 0.0, [p.detach().clone() for p in task.parameters]
        states = [cell.rest(value.reshape(-1)) for value in values]
        for step, seen in enumerate(recorded):
            for value, g, state in zip(values, seen, states, strict=True):
                value.add_(cell.move(cell.see(g, state), state, 1000).view_as(value))
            total += weight(step + 1) * task.loss(values, step).item()
        return total

    for p, g in zip(cell.parameters(), found, strict=True):
        for index in (0, p.numel() // 2, p.numel() - 1):
            flat, eps = p.data.view(-1), 1e-6
            centre = float(flat[index])
            flat[index] = centre + eps
            above = objective()
            flat[index] = centre - eps
            difference = (above - objective()) / (2 * eps)
            flat[index] = centre
            assert difference == pytest.approx(g.view(-1)[index].item(), rel=1e-5, abs=1e-8)


def test_blocks_and_tensors_change_the_meta_gradient_by_rounding_alone() -> None:
    cell = wide()
    whole = recorded_gradients(cell, 5, evenly, block=1000)
    for block in (1, 3, 16):
        for a, b in zip(recorded_gradients(cell, 5, evenly, block), whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


class Quadratic(Optimizee):
    """norm(W theta - y)^2 with random W and y in ten dimensions."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(seed)
        self.w = torch.randn(10, 10, generator=generator).to(dtype) / 10**0.5
        self.y = torch.randn(10, generator=generator).to(dtype)
        self.theta = torch.zeros(10, dtype=dtype)
        self.looks: list[bool] = []

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [self.theta]

    def look(self, step: int, *, after: bool) -> Look:
        rest = self.w @ self.theta - self.y
        self.looks.append(after)
        return Look(float(rest.square().sum()), [2 * self.w.T @ rest])


def test_mo7_a_window_leaves_no_graph_and_a_horizon_makes_horizon_over_window_updates() -> None:
    trainer, task = MetaTrainer(initial_cell(Architecture(), 0), Course(12, 3)), Quadratic(0)
    assert len(trainer.train(task)) == 12
    assert trainer.updates == 4
    assert task.looks == [False, True] * 12
    learner = Learner(trainer.cell, task, 100)
    _, trails = unroll(learner, 3, evenly)
    tensors = [task.theta, *learner.states[0].values(), *vars(trails[0]).values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert all(p.grad is None for p in trainer.cell.parameters())


def test_mo10_meta_trained_on_quadratics_it_beats_sgd() -> None:
    trainer = MetaTrainer(initial_cell(Architecture(), 0), Course(20, 20), lr=3e-2)
    for number in range(60):
        trainer.train(Quadratic(number))
    held = [Quadratic(10_000 + number) for number in range(20)]
    learned = sum(_after(task, LSTMOptimizer([task.theta], trainer.cell, watch=STILL)) for task in held)
    rates = {1e-3, *torch.logspace(-3, -0.3, 10).tolist()}
    fixed = dict.fromkeys(rates, 0.0)
    for lr in rates:
        for number in range(20):
            task = Quadratic(10_000 + number)
            fixed[lr] += _after(task, torch.optim.SGD([task.theta], lr=lr))
    assert learned < 0.5 * fixed[1e-3]
    assert learned < 1.1 * min(value for value in fixed.values() if value == value)


def _after(task: Quadratic, optimizer: torch.optim.Optimizer) -> float:
    for step in range(20):
        task.theta.grad = task.look(step, after=False).gradients[0]
        optimizer.step()
    return task.look(20, after=False).loss


def test_mo11_exact_sgd_weights() -> None:
    steady = torch.tensor([1e-3, -1e-3, 1e-4, 1e-9, 0.0], dtype=torch.float64).expand(30, 5)
    torch.testing.assert_close(updates(exact_sgd(0.3), steady), -0.3 * steady, rtol=1e-6, atol=0)
    restless = 1e-3 * (2 * torch.rand(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1)
    torch.testing.assert_close(updates(exact_sgd(0.3), restless), -0.3 * restless, rtol=0, atol=2e-6 * 0.3e-3)
    assert dc_gain(exact_sgd(0.3)).item() == pytest.approx(-0.3, rel=1e-12)


def test_mo12_the_same_seed_gives_the_same_trajectory_and_steps_keep_no_graph() -> None:
    def run() -> Tensor:
        trainer, task = MetaTrainer(initial_cell(Architecture(), 3), Course(10, 5)), Quadratic(0)
        trainer.train(task)
        return torch.cat([task.theta, *(p.detach().reshape(-1) for p in trainer.cell.parameters())])

    assert torch.equal(run(), run())
    theta = nn.Parameter(torch.ones(4))
    optimizer = LSTMOptimizer([theta], initial_cell(Architecture(), 3))
    theta.grad = torch.ones(4)
    with torch.enable_grad():
        optimizer.step()
    assert theta.is_leaf
    assert not any(tensor.requires_grad for tensor in optimizer.state[theta].values())


@pytest.mark.parametrize("options", [{}, {"layers": 2, "input": "log", "hidden": 6}])
def test_memory_of_a_window_is_foretold(options: dict[str, Any]) -> None:
    cell, sizes, window = initial_cell(Architecture.model_validate(options), 0), [640, 32], 5
    plan = demand(cell, sizes, window, 2**30)
    assert plan.block == 640
    x = torch.zeros(640, cell.features.width)
    state, held = cell.rest(x[:, 0]), dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    total, (h, c) = torch.zeros(()), (state["h"], state["c"])
    outer = {t.untyped_storage().data_ptr() for t in (x, h, c, *cell.parameters())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for _ in range(window):
            update, h, c = cell(x, h, c)
            total = total + (x[:, 0] * update).sum()
    seen = sum(size for place, size in held.items() if place not in outer)
    assert seen == pytest.approx(HELD * cell.core.layers * cell.core.hidden * window * 640 * 4, rel=0.1)
    assert plan.activations == HELD * cell.core.layers * cell.core.hidden * window * 640 * 4


def test_a_window_stays_within_what_it_was_foretold() -> None:
    cell, sizes = initial_cell(Architecture(), 0), [8_000]
    for allowed in (2**24, 2**22):
        plan = demand(cell, sizes, 5, allowed)
        assert plan.total <= allowed
        task = Flat(sizes[0])
        with meter("cpu") as measured:
            _, trails = unroll(Learner(cell, task, plan.block), 5, evenly)
            meta_gradient(cell, trails, plan.block)
        assert measured.peak_bytes < 1.3 * plan.total
    with pytest.raises(ConfigError, match="use a shorter --meta"):
        demand(cell, sizes, 5, 2**20)


class Flat(Optimizee):
    """Always the same gradient."""

    def __init__(self, count: int):
        self.theta, self.slope = torch.zeros(count), torch.full((count,), 1e-3)

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [self.theta]

    def look(self, step: int, *, after: bool) -> Look:
        return Look(0.0, [self.slope])


def test_courses_that_cannot_be_are_refused() -> None:
    for horizon, window, said in ((0, 1, "a horizon of 0"), (4, 0, "a window of 0"), (10, 4, "use a window of 2")):
        with pytest.raises(ConfigError, match=said):
            Course(horizon, window)
    windows = Course(6, 2).windows
    assert [list(w) for w in windows] == [[0, 1], [2, 3], [4, 5]]
    assert all(a.stop == b.start for a, b in pairwise(windows))


def test_a_meta_gradient_that_is_not_finite_changes_nothing() -> None:
    trainer = MetaTrainer(initial_cell(Architecture(), 0), Course(2, 2))
    before = [p.detach().clone() for p in trainer.cell.parameters()]
    task = Quadratic(0)
    task.w[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="meta-gradient"):
        trainer.train(task)
    assert all(torch.equal(p, old) for p, old in zip(trainer.cell.parameters(), before, strict=True))
    assert trainer.judge([lambda: task]) == torch.inf
    assert trainer.updates == 0
