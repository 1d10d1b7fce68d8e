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
    Guided,
    ImpulseResponse,
    LearnedDivergence,
    LSTMOptimizer,
    QueryRNN,
    Watch,
    allocate_state,
    dc_gain,
    impulse_response,
    initial_cell,
    spectral_radius,
)
from onward.optim.features import inputs
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


@pytest.mark.parametrize("options", [{}, {"layers": 3, "scale": 0.1}, {"momenta": [0.5, 0.9], "hidden": 4}])
def test_the_impulse_response_is_what_small_gradients_see(options: dict[str, Any]) -> None:
    cell, eps = wide(**options), 1e-5
    taps = impulse_response(cell, 400)
    g = torch.zeros(400, 1, dtype=torch.float64)
    g[0] = eps
    torch.testing.assert_close(updates(cell, g)[:, 0] / eps, taps, rtol=1e-3, atol=1e-6)
    assert spectral_radius(cell) < 1
    assert taps.sum().item() == pytest.approx(dc_gain(cell).item(), abs=1e-9)


def test_the_filter_moves_as_the_lstm_does_for_small_gradients() -> None:
    cell, g = wide(), 1e-5 * gradients(30, 5)
    one, other = nn.Parameter(torch.ones(5, dtype=torch.float64)), nn.Parameter(torch.ones(5, dtype=torch.float64))
    learned, control = LSTMOptimizer([one], cell), ImpulseResponse([other], impulse_response(cell, 30))
    for row in g:
        one.grad, other.grad = row.clone(), row.clone()
        learned.step()
        control.step()
    torch.testing.assert_close(one - 1, other - 1, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("options", [{"biases": True}, {"input": "log"}, {"input": "normalised"}])
def test_what_is_no_filter_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="only a learned optimiser without biases"):
        impulse_response(wide(**options))


def test_a_response_that_grows_has_no_gain() -> None:
    cell = exact_sgd(0.1)
    with torch.no_grad():
        cell.core.rnn[0].get_parameter("weight_hh")[20:30] = 3 * torch.eye(10, dtype=torch.float64)
    with pytest.raises(ConfigError, match="does not fade"):
        dc_gain(cell)


def test_normalised_input_sees_no_scale_and_the_log_sees_little_of_it() -> None:
    g = gradients(6, 20)
    plain, scaled = (updates(wide(input="normalised"), factor * g) for factor in (1, 1e3))
    torch.testing.assert_close(plain, scaled, rtol=1e-9, atol=1e-12)
    smooth, branched = (inputs.build(name)(g[0], {}) for name in ("log", "log-branched"))
    assert smooth.abs().max() <= 1
    assert torch.equal(branched[:, 1].sign(), g[0].sign())


def test_the_clamp_bounds_every_tensor_by_its_own_norm() -> None:
    parameters = [nn.Parameter(torch.full((4,), size)) for size in (1.0, 1e-3, 0.0)]
    optimizer = LSTMOptimizer(parameters, wide(), clamp=0.01, watch=STILL)
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = torch.full((4,), 2.0)
    optimizer.step()
    moved = [(p.detach() - old).norm() / old.norm() for p, old in zip(parameters, before, strict=True)]
    assert moved[0] == pytest.approx(0.01, rel=1e-3)
    assert moved[1] == pytest.approx(0.01, rel=1e-3)
    assert (parameters[2] != 0).all()


@pytest.mark.parametrize(("watch", "said"), [(Watch(0.5, None), "an update has"), (Watch(None, 2.0), "have grown to")])
def test_divergence_is_refused_before_anything_changes(watch: Watch, said: str) -> None:
    cell = exact_sgd(-400.0)
    theta = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer, before = LSTMOptimizer([theta], cell, watch=watch), theta.detach().clone()
    with pytest.raises(LearnedDivergence, match=said):  # noqa: PT012
        for _ in range(20):
            before = theta.detach().clone()
            theta.grad = torch.full((3,), 1e-2, dtype=torch.float64)
            optimizer.step()
    assert torch.equal(theta, before)


def test_weight_decay_and_the_factor_stand_apart_from_the_cell() -> None:
    theta = nn.Parameter(torch.tensor([2.0, -4.0]))
    optimizer = LSTMOptimizer([theta], initial_cell(Architecture(), 0), lr=0.5, weight_decay=0.1)
    theta.grad = torch.zeros(2)
    optimizer.step()
    assert theta.tolist() == pytest.approx([1.9, -3.8])


def test_a_closure_is_called_with_gradients_on() -> None:
    for make in (
        lambda p: LSTMOptimizer([p], initial_cell(Architecture(), 0)),
        lambda p: ImpulseResponse([p], torch.tensor([-0.1])),
    ):
        theta = nn.Parameter(torch.ones(2))

        def closure(theta: nn.Parameter = theta) -> float:
            loss = theta.square().sum()
            loss.backward()
            return loss.item()

        assert make(theta).step(closure) == 2.0
        assert (theta != 1).all()


def test_the_query_network_spreads_directions_over_a_sphere_and_guides_bend_them() -> None:
    query = QueryRNN().to(torch.float64)
    g, update = gradients(2, 30)
    state = query.rest(g)
    std, penalty = query(g, update, state)
    assert std.norm().item() == pytest.approx(30**0.5)
    out = query.core(torch.stack([g, update], 1), *[torch.zeros(1, 30, 10, dtype=torch.float64)] * 2)[0]
    assert penalty.item() == pytest.approx(0.005 * out.square().sum().item())
    normal, inside = torch.randn(30, dtype=torch.float64), torch.tensor([0.5, -2.0], dtype=torch.float64)
    guides = torch.stack([g, update])
    bent = Guided(0.0)(normal, inside, guides)
    assert bent.norm().item() == pytest.approx(normal.norm().item())
    within = torch.linalg.lstsq(guides.T, bent[:, None]).solution
    torch.testing.assert_close(guides.T @ within, bent[:, None])
    torch.testing.assert_close(Guided(1.0)(normal, inside, guides), normal)
    assert torch.equal(Guided()(normal, inside, torch.zeros(2, 30, dtype=torch.float64)), normal)
    once, twice = (Guided()(normal, inside, torch.stack(rows)) for rows in ([g, 2 * g], [g, 0 * g]))
    torch.testing.assert_close(once, twice)
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        Guided(1.5)


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
