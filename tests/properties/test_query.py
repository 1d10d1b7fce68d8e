"""Learned directions: the meta-gradient against finite differences, the rule, what it remembers, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward._tensors import CheckpointError
from onward.core import CrossEntropy, Frames, GradSink, KeyedDraws, Network, PerStep, run_sequence
from onward.core.drawn import Ray, names_of
from onward.core.errors import ConfigError
from onward.optim import QueryRNN, read_query, write_query
from onward.optim.cell import Cell
from onward.optim.meta import Course, Look, Optimizee, evenly, later_more
from onward.optim.meta_query import QueryLearner, QueryTrainer, Search, query_gradient, unroll_query
from onward.optim.query import scaled
from onward.rules import rules
from onward.rules.query import QueryRule
from onward.testing.harness import relative
from onward.testing.zoo import data, make
from properties.learned_lab import wide
from properties.weight_lab import flat, learn, stored
from reference.learned import query, query_weights, weights

STEPS, EPS = 4, 0.1
Losses = Callable[[Tensor, int, bool], tuple[float, Tensor]]


class Waves(Optimizee):
    """sum_i sin(theta_i + i step) + a product of neighbours: smooth, and other in every step; ``after`` the same."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.tensors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((2, 3), (4,))]

    @property
    def parameters(self) -> Sequence[Tensor]:
        return self.tensors

    def look(self, step: int, *, after: bool) -> Look:
        theta = torch.cat([p.flatten() for p in self.tensors])
        loss, gradient = self.at(theta, step)
        return Look(loss, [part.view_as(p) for part, p in zip(gradient.split([6, 4]), self.tensors, strict=True)])

    @staticmethod
    def at(theta: Tensor, step: int) -> tuple[float, Tensor]:
        theta = theta.clone().requires_grad_()
        phase = torch.arange(10, dtype=torch.float64) * (step + 1)
        with torch.enable_grad():
            loss = (theta + phase).sin().sum() + (theta[1:] * theta[:-1]).sum() / 3
        return float(loss.detach()), torch.autograd.grad(loss, theta)[0]


class Smooth(Optimizee):
    """A network without spikes under back-propagation, with a mini-batch of its own for every step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = Network(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))).double()
        self.rule, self.sink = rules.build("bptt"), GradSink(self.net)
        self.objective, self.draws = PerStep(CrossEntropy()), KeyedDraws(0)
        self.x = torch.randn(STEPS, 1, 5, 4, dtype=torch.float64)
        self.rule.bind(self.net, self.objective, Frames(self.x[0]), self.draws)

    @property
    def parameters(self) -> Sequence[Tensor]:
        return list(self.net.parameters())

    def look(self, step: int, *, after: bool) -> Look:
        y = torch.arange(5) % 2
        outcome = run_sequence(
            self.net, self.rule, self.objective, Frames(self.x[step]), y, self.sink, draws=self.draws
        )
        self.sink.flush()
        gradients = [p.grad for p in self.net.parameters()]
        self.net.zero_grad()
        return Look(float(outcome.loss), gradients)


def fresh(task: Optimizee, network: QueryRNN, cell: Cell, directions: int) -> QueryLearner:
    return QueryLearner(network, cell, task, Search(EPS, directions), number=1, block=3)


def loud(seed: int = 0) -> QueryRNN:
    """In float64, with deviations of both signs."""
    network = query(seed).to(torch.float64)
    with torch.no_grad():
        network.core.readout.weight.mul_(2)
        network.core.rnn[0].get_parameter("weight_ih").mul_(3)
    return network


def objective_held(
    make_task: Callable[[], Optimizee], network: QueryRNN, held: QueryRNN, cell: Cell, directions: int, weight: Any
) -> float:
    """L of ``network`` where what it sees and where it probes are what they were under ``held``."""
    path, free = fresh(make_task(), held, cell, directions), fresh(make_task(), network, cell, directions)
    asked, total = network.rest(path.estimate), 0.0
    theta, moving = path.place(), free
    for step in range(STEPS):
        where = path.place()
        rows = torch.stack([path.estimate, path.update], dim=1)
        out = network.core.move(rows, asked, 100)
        moving.put(where)
        moving.step = step
        moving.probe(rows, out)
        updates = []
        for g, state in zip(moving.estimate.split(moving.sizes), moving.states, strict=True):
            updates.append(cell.move(cell.see(g, state), state, 100))
        theta = theta + torch.cat(updates)
        moving.put(theta)
        total += weight(step + 1) * moving.task.look(step, after=True).loss
        total += network.penalty * float(out.square().sum())
        path.advance()
    return total


@pytest.mark.parametrize("make_task", [Waves, Smooth], ids=["waves", "network"])
@pytest.mark.parametrize(
    ("options", "directions", "weight"),
    [
        ({}, 1, evenly),
        ({}, 3, later_more),
        ({"input": "normalised", "layers": 2}, 2, evenly),
        ({"input": "log", "momenta": [0.5]}, 1, evenly),
    ],
)
def test_the_meta_gradient_is_that_of_finite_differences(
    make_task: Callable[[], Optimizee], options: dict, directions: int, weight: Any
) -> None:
    network, cell = loud(), wide(**options).requires_grad_(False)
    learner = fresh(make_task(), network, cell, directions)
    _, stretch = unroll_query(learner, STEPS, weight)
    smallest = min(float((1 + glance.out).min()) for glance in stretch.glances)
    assert smallest < 0 or make_task is Smooth  # the sign of std takes part
    query_gradient(learner, stretch)
    generator, h = torch.Generator().manual_seed(0), 1e-6
    for p in network.parameters():
        assert p.grad is not None
        for _ in range(3):
            way = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            ends = []
            for sign in (1, -1):
                moved = QueryRNN().to(torch.float64)
                moved.load_state_dict(network.state_dict())
                target = dict(moved.named_parameters())[next(n for n, q in network.named_parameters() if q is p)]
                target.data.add_(way, alpha=sign * h)
                ends.append(objective_held(make_task, moved, network, cell, directions, weight))
            assert (p.grad * way).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-7)


def test_blocks_change_rounding_alone() -> None:
    found = []
    for block in (1, 4, 100):
        network, cell = loud(), wide().requires_grad_(False)
        learner = QueryLearner(network, cell, Waves(), Search(EPS, 2), number=1, block=block)
        query_gradient(learner, unroll_query(learner, STEPS, evenly)[1])
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert relative(found[0], found[2]) < 1e-10
    assert relative(found[1], found[2]) < 1e-10


def test_probing_leaves_parameters_as_they_were_and_training_moves_the_query_alone() -> None:
    task, network, cell = Waves(), loud(), wide()
    trainer = QueryTrainer(network, cell, Course(horizon=4, window=2), Search(EPS, 2))
    kept, before = [p.clone() for p in cell.parameters()], network.core.readout.weight.clone()
    learner = trainer.start(task, 1)
    here = learner.place()
    learner.probe(torch.stack([learner.estimate, learner.update], 1), torch.zeros_like(here))
    assert torch.equal(learner.place(), here)
    assert len(trainer.train(task)) == 4
    assert all(torch.equal(a, b) for a, b in zip(kept, cell.parameters(), strict=True))
    assert not torch.equal(network.core.readout.weight, before)


def query_rule(folder: Path, **options: Any) -> QueryRule:
    rule = rules.build({"name": "query", "weights": query_weights(folder), "eps": 0.1, **options})
    assert isinstance(rule, QueryRule)
    return rule


@pytest.mark.parametrize("directions", [1, 2])
def test_the_rule_estimates_what_meta_training_estimates_of_the_same_noise(tmp_path: Path, directions: int) -> None:
    """Both, written out: deviations of the network that is read, over all weights together."""
    net, (x, y) = make("mlp"), data("mlp")
    rule, network = query_rule(tmp_path, share=1.0, directions=directions), query().to(torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    estimate = update = deviations = torch.zeros_like(flat(net))
    state = network.rest(estimate)
    for sequence in range(3):
        out = network.core.move(torch.stack([estimate, update], 1), state, 7)
        deviations, before = scaled(1 + out, len(out)).abs(), flat(net)
        drawn = learn(net, rule, x[0], y, sequence=sequence)[1]
        estimate = stored(net, drawn)
        rays = [Ray(KeyedDraws(0), rule.law, f"probe/{number}", sequence) for number in range(directions)]
        z = torch.stack(
            [torch.cat([ray.block(n, 0, p.detach().flatten()) for p, n in names_of(net).items()]) for ray in rays]
        )
        slopes = torch.linalg.lstsq((deviations * z).T, estimate[:, None]).solution
        assert relative((deviations * z).T @ slopes, estimate[:, None]) < 1e-9
        optimizer.step()
        update = flat(net) - before
    assert deviations.max() > 1.01
    assert torch.equal(rule.c, state["c"]) or relative(rule.c, state["c"]) < 1e-12


def test_the_first_mini_batch_and_a_share_of_nothing_are_plain_noise(tmp_path: Path) -> None:
    plain = {"name": "mezo", "eps": 0.1, "law": "gaussian"}
    assert torch.equal(after(lambda: rules.build(plain), 1), after(lambda: query_rule(tmp_path), 1))
    never = after(lambda: query_rule(tmp_path, share=0.0), 4)
    assert torch.equal(after(lambda: rules.build(plain), 4), never)
    assert not torch.equal(after(lambda: query_rule(tmp_path, share=1.0), 4), never)


def after(build: Callable[[], Any], updates: int) -> Tensor:
    """Weights after some updates by plain SGD."""
    net, (x, y) = make("conv", torch.float32), data("conv", torch.float32)
    rule, optimizer = build(), torch.optim.SGD(net.parameters(), 0.5)
    for sequence in range(updates):
        stored(net, learn(net, rule, x[0], y, sequence=sequence)[1])
        optimizer.step()
    return flat(net)


def test_the_learned_deviations_are_taken_half_of_the_time(tmp_path: Path) -> None:
    rule = query_rule(tmp_path)
    taken = [rule.learns(ray) for n in range(2000) for ray in rule.rays(KeyedDraws(3), n)]
    assert sum(taken) == pytest.approx(1000, abs=80)


def test_files_that_will_not_do_are_refused_in_words(tmp_path: Path) -> None:
    net, (x, y) = make("mlp"), data("mlp")

    def refused(error: type[Exception], said: str, **options: Any) -> None:
        with pytest.raises(error, match=said):
            learn(net, rules.build({"name": "query", **options}), x[0], y)

    refused(ConfigError, r"needs the weights of a query network.*--rule\.weights FILE")
    refused(ConfigError, r"--rule\.weights nowhere: there is no such file.*put it back", weights="nowhere")
    refused(CheckpointError, r"is a learned optimiser, which --optim\.weights takes", weights=weights(tmp_path))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(Path(query_weights(tmp_path)).read_bytes()[:-40])
    refused(CheckpointError, "cannot be read", weights=str(damaged))
    endless = query()
    nn.init.constant_(endless.core.readout.weight, torch.inf)
    write_query(tmp_path / "endless.safetensors", endless, {})
    refused(CheckpointError, "NaN or infinity", weights=str(tmp_path / "endless.safetensors"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = read_query(Path(query_weights(tmp_path)))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), query().parameters(), strict=True))
    assert made.penalty == 0.005
