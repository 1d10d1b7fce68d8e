"""Training a query network: how far to look along each coordinate, so that the losses reached become small.

A task is trained by a learned optimiser that is frozen (it comes first), from estimates of the query's directions. With
out_t the query network's numbers, P coordinates, n directions of normal noise e_i and mini-batch t,

    s = 1 + out_t;   std = s sqrt(P) / |s|;   u_i = |std| e_i
    g_t = (1/n) sum_i d_i u_i,   d_i = [f_t(theta_t + eps u_i) - f_t(theta_t - eps u_i)] / (2 eps)
    theta_{t+1} = theta_t + Delta_t,   Delta_t the optimiser's update, whose input is g_t and whose state goes on

    L(phi) = sum_t w_t f_t(theta_{t+1}) + lambda sum_t |out_t|^2

What the query network sees (the last estimate and update) is a constant, and so is theta_t inside f_t's probes: there
are no second derivatives. Then phi acts through u alone, once as the direction and once through the probes:

    R_t = sum_{k >= t} w_k grad f_k(theta_{k+1})                        what an update is worth
    a_t = d/dg_t sum_{k >= t} < R_k, Delta_k >                          back through the optimiser and its features
    dd_i = < m_i, du_i >,   m_i = [grad f_t(theta_t + eps u_i) + grad f_t(theta_t - eps u_i)] / 2
    < a_t, dg_t > = (1/n) sum_i < d_i a_t + < a_t, u_i > m_i, du_i >,   du_i = sign(std) e_i dstd
    dstd = sqrt(P) / |s| (ds - s < s, ds > / |s|^2)

so that with v = (1/n) sum_i sign(std) e_i (d_i a_t + < a_t, u_i > m_i) the query network's output is worth

    sqrt(P) / |s| (v - s < s, v > / |s|^2) + 2 lambda out_t

and one pass back through its LSTM gives the meta-gradient. grad f is the gradient of the task's rule: where that is a
surrogate's, as in spiking networks, so is the derivative of the difference. Coordinates meet in the inner products
alone: both LSTMs are differentiated block by block. What is kept whole of a window, for every coordinate: the records
of `onward.optim.meta`, and 5 + n numbers an update, the m_i among them. Source: Ruan et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onward.core.draws import Gaussian, Key, KeyedDraws
from onward.optim.cell import Cell, blocks
from onward.optim.features import Features, State
from onward.optim.meta import (
    HELD,
    Course,
    Demand,
    Optimizee,
    Trail,
    Trainer,
    Weight,
    flat,
    from_here_on,
    meta_gradient,
    remembered,
    within,
)
from onward.optim.query import QueryRNN, scaled

TASK = 2**20
"""Numbers of draws that a task has for itself."""


@dataclass(frozen=True)
class Search:
    """How directions are tried: ``directions`` an update, moved ``eps`` back and forth; noise keyed by ``seed``."""

    eps: float = 0.03
    directions: int = 1
    seed: int = 0

    def noise(self, direction: int, number: int, like: Tensor) -> Tensor:
        """The noise of a direction of an update, in the form of ``like`` ``[P]``."""
        key, one = Key(f"probe/{direction}", "query", number), torch.zeros(1, dtype=torch.int64)
        return KeyedDraws(self.seed).draw(Gaussian(), key, one, one, tuple(like.shape), like).view(-1)


@dataclass(frozen=True)
class Glance:
    """One update of the query network: what it saw ``rows`` ``[P, 2]``, its ``out`` ``[P]``, the number of its noise,
    and for each direction the slope ``[n]`` and the mean of both gradients ``[n, P]``."""

    rows: Tensor
    out: Tensor
    number: int
    slopes: Tensor
    means: Tensor


class QueryLearner:
    """A task under a query network and a frozen optimiser, from the start: all states, estimate and update at 0."""

    def __init__(self, query: QueryRNN, cell: Cell, task: Optimizee, search: Search, number: int, block: int):
        self.query, self.cell, self.task, self.search, self.block = query, cell, task, search, block
        starts = [p.detach().reshape(-1) for p in task.parameters]
        self.sizes = [len(start) for start in starts]
        self.estimate = torch.zeros_like(torch.cat(starts))
        self.update = torch.zeros_like(self.estimate)
        self.asked = query.rest(self.estimate)
        self.states: list[State] = [cell.rest(start) for start in starts]
        self.step, self.first = 0, number * TASK

    @torch.no_grad()
    def advance(self) -> tuple[Glance, list[Tensor]]:
        """One update of every parameter; how it was looked around, and what the optimiser saw of each tensor."""
        rows = torch.stack([self.estimate, self.update], dim=1)
        out = self.query.core.move(rows, self.asked, self.block)
        glance = self.probe(rows, out)
        seen, updates = [], []
        for p, g, state in zip(self.task.parameters, self.estimate.split(self.sizes), self.states, strict=True):
            seen.append(self.cell.see(g, state))
            updates.append(self.cell.move(seen[-1], state, self.block))
            p.data.add_(updates[-1].view_as(p))
        self.update = torch.cat(updates)
        self.step += 1
        return glance, seen

    def probe(self, rows: Tensor, out: Tensor) -> Glance:
        """Looks along all directions, and makes the estimate of it; parameters are as before."""
        number, n = self.first + self.step, self.search.directions
        deviations = scaled(1 + out, len(out)).abs()
        here, slopes, means = self.place(), [], []
        self.estimate = torch.zeros_like(self.estimate)
        for direction in range(n):
            u = deviations * self.search.noise(direction, number, out)
            ahead, behind = (self.at(here + strength * u) for strength in (self.search.eps, -self.search.eps))
            slopes.append((ahead[0] - behind[0]) / (2 * self.search.eps))
            means.append((ahead[1] + behind[1]) / 2)
            self.estimate.add_(u, alpha=slopes[-1] / n)
        self.put(here)
        return Glance(rows, out, number, out.new_tensor(slopes), torch.stack(means))

    def at(self, place: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient ``[P]`` on the mini-batch at hand, with parameters at ``place``."""
        self.put(place)
        loss, gradients = self.task.look(self.step, after=False)
        return loss, self.joined(gradients)

    def joined(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Gradients of all tensors as one ``[P]``."""
        return torch.cat([flat(g, p) for g, p in zip(gradients, self.task.parameters, strict=True)])

    def place(self) -> Tensor:
        """All parameters ``[P]``, copied."""
        return torch.cat([p.detach().reshape(-1) for p in self.task.parameters])

    def put(self, place: Tensor) -> None:
        """Sets all parameters."""
        for p, part in zip(self.task.parameters, place.split(self.sizes), strict=True):
            p.data.copy_(part.view_as(p))


@dataclass(frozen=True)
class Stretch:
    """What a window leaves behind: the query's states at its start, a glance for every update, and for every tensor a
    trail of the optimiser and the memory of its features at the start."""

    asked: State
    glances: list[Glance]
    trails: list[Trail]
    memories: list[State]


def unroll_query(learner: QueryLearner, steps: int, weight: Weight) -> tuple[list[float], Stretch]:
    """``steps`` updates; the loss after each, and what is left behind. No graph is kept."""
    asked, starts = _copied(learner.asked), [_copied(state) for state in learner.states]
    credits = learner.estimate.new_empty(steps, len(learner.estimate))
    losses, glances, seen = [], list[Glance](), list[list[Tensor]]()
    for index in range(steps):
        glance, rows = learner.advance()
        loss, gradients = learner.task.look(learner.step - 1, after=True)
        credits[index] = weight(learner.step) * learner.joined(gradients)
        losses.append(loss)
        glances.append(glance)
        seen.append(rows)
    from_here_on(credits)
    parts = zip(starts, zip(*seen, strict=True), credits.split(learner.sizes, dim=1), strict=True)
    trails = [Trail(start.pop("h"), start.pop("c"), torch.stack(rows), owed) for start, rows, owed in parts]
    return losses, Stretch(asked, glances, trails, starts)


def _copied(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def query_gradient(learner: QueryLearner, stretch: Stretch) -> None:
    """Adds the gradient of L over a window to those of the query network's parameters; see the module's docstring."""
    worth = torch.cat(list(_worths(learner, stretch)), dim=1)
    glances = stretch.glances
    owed = torch.stack([_credit(learner, glance, a) for glance, a in zip(glances, worth, strict=True)])
    seen = torch.stack([glance.rows for glance in glances])
    trail = Trail(stretch.asked["h"], stretch.asked["c"], seen, owed)
    meta_gradient(learner.query.core, [trail], learner.block)


def _worths(learner: QueryLearner, stretch: Stretch):
    """a_t ``[W, n]`` of every tensor."""
    estimates = torch.stack([_estimate(learner, glance) for glance in stretch.glances])
    parts = zip(stretch.trails, stretch.memories, estimates.split(learner.sizes, dim=1), strict=True)
    for trail, memory, g in parts:
        rows = back_through(learner.cell, trail, learner.block)
        yield back_to_gradients(learner.cell.features, memory, g, rows)


def _directions(learner: QueryLearner, glance: Glance):
    """e_i and u_i of every direction, drawn again."""
    deviations = scaled(1 + glance.out, len(glance.out)).abs()
    for direction in range(learner.search.directions):
        e = learner.search.noise(direction, glance.number, glance.out)
        yield e, deviations * e


def _estimate(learner: QueryLearner, glance: Glance) -> Tensor:
    directions = zip(glance.slopes, _directions(learner, glance), strict=True)
    return sum((slope * u for slope, (_, u) in directions), torch.zeros_like(glance.out)) / len(glance.slopes)


def _credit(learner: QueryLearner, glance: Glance, a: Tensor) -> Tensor:
    """What the output of an update is worth ``[P]``, penalty included."""
    s, v = 1 + glance.out, torch.zeros_like(glance.out)
    for slope, mean, (e, u) in zip(glance.slopes, glance.means, _directions(learner, glance), strict=True):
        v += s.sign() * e * (slope * a + (a @ u) * mean) / len(glance.slopes)
    norm = s.norm()
    along = s * (s @ v / norm**2)
    return (len(s) ** 0.5 / norm) * (v - along) + 2 * learner.query.penalty * glance.out


def back_through(cell: Cell, trail: Trail, block: int) -> Tensor:
    """d/dx sum_s < R_s, Delta_s > for all that a frozen optimiser saw of a tensor, as ``trail.seen``."""
    found = torch.empty_like(trail.seen)
    for part in blocks(trail.seen.shape[1], block):
        h, c = trail.h[:, part], trail.c[:, part]
        rows = trail.seen[:, part].detach().requires_grad_()
        with torch.enable_grad():
            total = rows.new_zeros(())
            for x, owed in zip(rows, trail.credits[:, part], strict=True):
                update, h, c = cell(x, h, c)
                total = total + (owed * update).sum()
        (found[:, part],) = torch.autograd.grad(total, rows)
    return found


def back_to_gradients(features: Features, memory: State, g: Tensor, worth: Tensor) -> Tensor:
    """From what features ``[W, n, width]`` of a tensor are worth to what its gradients ``[W, n]`` are worth."""
    g, state, rows = g.detach().requires_grad_(), memory, list[Tensor]()
    with torch.enable_grad():
        for row in g:
            state = _copied(state)  # features move their memory in place, and the graph needs what it was
            rows.append(features(row, state))
        return torch.autograd.grad(torch.stack(rows), g, worth)[0]


class QueryTrainer(Trainer[QueryLearner]):
    """Trains ``query`` beside a ``cell`` that is frozen, to make the losses of tasks fall.

    >>> from onward.optim.cell import Architecture, initial_cell
    >>> from onward.optim.meta import Look
    >>> class Bowl(Optimizee):
    ...     parameters = [torch.ones(3)]
    ...     def look(self, step, *, after):
    ...         return Look(float(self.parameters[0].square().sum()) / 2, self.parameters)
    >>> trainer = QueryTrainer(QueryRNN(), initial_cell(Architecture(), seed=0), Course(horizon=4, window=2))
    >>> len(trainer.train(Bowl())), trainer.updates
    (4, 2)
    """

    def __init__(
        self,
        query: QueryRNN,
        cell: Cell,
        course: Course,
        search: Search = Search(),
        *,
        lr: float = 1e-3,
        clamp: float = 1.0,
        block: int = 2**14,
    ):
        super().__init__(query, course, lr=lr, clamp=clamp)
        self.query, self.cell, self.search, self.block = query, cell.requires_grad_(False), search, block

    def start(self, task: Optimizee, number: int) -> QueryLearner:
        """See `Trainer.start`."""
        return QueryLearner(self.query, self.cell, task, self.search, number, self.block)

    def window(self, trial: QueryLearner, steps: int) -> list[float]:
        """See `Trainer.window`."""
        losses, stretch = unroll_query(trial, steps, self.course.weight)
        query_gradient(trial, stretch)
        return losses

    def tried(self, trial: QueryLearner) -> float:
        """See `Trainer.tried`; the loss costs a look of its own."""
        loss = trial.task.look(trial.step, after=True).loss
        trial.advance()
        return loss


def query_demand(
    cell: Cell, query: QueryRNN, directions: int, sizes: Sequence[int], window: int, allowed: int, itemsize: int = 4
) -> Demand:
    """What a ``window`` takes, as `onward.optim.meta.demand`; the larger of both LSTMs decides the block.

    records = P (W (3 width + 6 + directions) + 4 layers hidden + 4 hidden of the query + memory of features)

    Raises `ConfigError` where even the smallest blocks take more.
    """
    units = cell.core.layers * cell.core.hidden
    own = 4 * (units + query.core.hidden) + (1 + window) * remembered(cell, sizes)
    numbers = window * (3 * cell.features.width + 6 + directions) + own
    largest = max(units, query.core.hidden)
    return within(allowed, sizes, window, itemsize * numbers, itemsize * HELD * largest * window)
