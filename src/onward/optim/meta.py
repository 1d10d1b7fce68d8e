"""Training a learned optimiser: the gradient of the losses that a network reaches, with respect to the optimiser.

What the optimiser sees is a constant. Then, with G_t = df_t/dtheta_t and Delta_s the update of step s,

    d/dpsi sum_t w_t f_t(theta_t) = sum_s < R_s , dDelta_s/dpsi >,    R_s = sum_{t >= s} w_t G_t,

so that no graph of the network is kept: the gradients G_t, from whatever rule gives them, are enough. Coordinates
meet in the sum alone; the optimiser is run again over what was seen, block by block of coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Adam

from onward.core.errors import ConfigError, NonFiniteError
from onward.optim.cell import LANES, Cell, Coordinatewise, blocks
from onward.optim.features import State
from onward.optim.optimizers import allocate_state

Trial = TypeVar("Trial")
Weight = Callable[[int], float]
"""w_t of the loss after update t, counted from 1."""

HELD = 8
"""Numbers that autograd holds per coordinate, step and unit of a layer: gates, both states twice, tanh(c)."""


def evenly(step: int) -> float:  # noqa: ARG001
    """w_t = 1."""
    return 1.0


def later_more(step: int) -> float:
    """w_t = t."""
    return float(step)


class Look(NamedTuple):
    """A loss, and its gradient by tensor in the order of `Optimizee.parameters`; None where there is none."""

    loss: float
    gradients: Sequence[Tensor | None]


class Optimizee(ABC):
    """What a learned optimiser is tried on: parameters, and a loss of every step's mini-batch."""

    @property
    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """The tensors that are updated, in place."""

    @abstractmethod
    def look(self, step: int, *, after: bool) -> Look:
        """Loss and gradient on the mini-batch of ``step`` at the present parameters.

        ``after`` the update the mini-batch is the same, and whatever is random is drawn anew. Raises `NonFiniteError`.
        """


@dataclass(frozen=True)
class Course:
    """How an optimizee is trained: ``horizon`` updates, the optimiser learning after every ``window`` of them.

    Raises `ConfigError` unless both are at least 1 and the window divides the horizon.
    """

    horizon: int = 200
    window: int = 20
    weight: Weight = evenly

    def __post_init__(self) -> None:
        for name in ("horizon", "window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"a {name} of {getattr(self, name)} updates was given; expected at least 1")
        if self.horizon % self.window:
            near = max(n for n in range(1, self.window + 1) if self.horizon % n == 0)
            raise ConfigError(
                f"a window of {self.window} updates does not divide the horizon of {self.horizon}; use a window of "
                f"{near}, or a horizon of {self.window * max(1, round(self.horizon / self.window))}"
            )

    @property
    def windows(self) -> list[range]:
        """The steps of each window, counted from 0."""
        return [range(start, start + self.window) for start in range(0, self.horizon, self.window)]


@dataclass(frozen=True)
class Trail:
    """What a window leaves behind of one tensor: states ``h`` and ``c`` at its start, what was ``seen``
    ``[W, n, width]``, and the ``credits`` R ``[W, n]``."""

    h: Tensor
    c: Tensor
    seen: Tensor
    credits: Tensor


@dataclass(frozen=True)
class Demand:
    """Memory of a window, in bytes, foretold: ``records`` of all coordinates, and what autograd holds of a block.

    ``block`` coordinates are differentiated at a time.
    """

    records: int
    activations: int
    block: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.records + self.activations


def demand(cell: Cell, sizes: Sequence[int], window: int, allowed: int, itemsize: int = 4) -> Demand:
    """What a ``window`` over tensors of ``sizes`` takes, in the largest blocks that stay within ``allowed`` bytes.

        records = P (W (width + 1) + 4 layers hidden + memory of features),  activations = 8 layers hidden W block

    Raises `ConfigError` where even the smallest blocks take more.
    """
    units = cell.core.layers * cell.core.hidden
    numbers = window * (cell.features.width + 1) + 4 * units + remembered(cell, sizes)
    return within(allowed, sizes, window, itemsize * numbers, itemsize * HELD * units * window)


def remembered(cell: Cell, sizes: Sequence[int]) -> int:
    """Numbers that the features keep of a coordinate."""
    probe = torch.zeros(sizes[0] if sizes else 1)
    return sum(t.numel() for t in cell.features.rest(probe).values()) // max(len(probe), 1)


def within(allowed: int, sizes: Sequence[int], window: int, per_coordinate: int, per_row: int) -> Demand:
    """The demand of records and blocks that take so many bytes a coordinate, in blocks within ``allowed`` bytes.

    Raises `ConfigError` where even the smallest blocks take more.
    """
    records = sum(sizes) * per_coordinate
    rows = (allowed - records) // per_row // LANES * LANES
    if rows < LANES:
        raise ConfigError(
            f"a window of {window} updates of {sum(sizes):,} parameters takes at least "
            f"{_mib(records + LANES * per_row)}, and {_mib(allowed)} are allowed; use a shorter --meta.window, or a "
            "larger --meta.memory"
        )
    block = min(rows, -(-max(sizes, default=1) // LANES) * LANES)
    return Demand(records, block * per_row, block)


def _mib(amount: int) -> str:
    return f"{amount / 2**20:,.1f} MiB"


class Learner:
    """One optimizee under a cell, from the start: states at 0, steps counted from 0."""

    def __init__(self, cell: Cell, task: Optimizee, block: int):
        self.cell, self.task, self.block = cell, task, block
        self.states: list[State] = [cell.rest(p.detach().reshape(-1)) for p in task.parameters]
        self.step = 0

    def advance(self) -> tuple[float, list[Tensor]]:
        """One update of every parameter; the loss before it, and what was seen of the gradients."""
        loss, gradients = self.task.look(self.step, after=False)
        seen = []
        for p, g, state in zip(self.task.parameters, gradients, self.states, strict=True):
            rows = self.cell.see(flat(g, p), state).detach()
            p.data.add_(self.cell.move(rows, state, self.block).view_as(p))
            seen.append(rows)
        self.step += 1
        return loss, seen


def flat(g: Tensor | None, p: Tensor) -> Tensor:
    """The gradient of a parameter ``[n]``, outside any graph; zeros where there is none."""
    return torch.zeros_like(p).reshape(-1) if g is None else g.detach().reshape(-1)


def unroll(learner: Learner, steps: int, weight: Weight) -> tuple[list[float], list[Trail]]:
    """``steps`` updates; the loss after each, and the trails of all tensors. No graph is kept."""
    parameters = learner.task.parameters
    starts = [(state["h"].clone(), state["c"].clone()) for state in learner.states]
    width = learner.cell.features.width
    seen = [p.new_empty(steps, p.numel(), width).detach() for p in parameters]
    credits = [p.new_empty(steps, p.numel()).detach() for p in parameters]
    losses = []
    for index in range(steps):
        _, rows = learner.advance()
        loss, gradients = learner.task.look(learner.step - 1, after=True)
        losses.append(loss)
        for i, p in enumerate(parameters):
            seen[i][index] = rows[i]
            credits[i][index] = weight(learner.step) * flat(gradients[i], p)
    for owed in credits:
        from_here_on(owed)
    return losses, [Trail(*start, *rest) for start, *rest in zip(starts, seen, credits, strict=True)]


def from_here_on(rows: Tensor) -> None:
    """Every row becomes the sum of itself and those after it, in place."""
    for index in range(len(rows) - 2, -1, -1):
        rows[index] += rows[index + 1]


def meta_gradient(cell: Cell | Coordinatewise, trails: Sequence[Trail], block: int) -> None:
    """Adds sum_s <R_s, dDelta_s/dpsi> to the gradients of the cell's parameters.

    Runs the cell again, ``block`` coordinates at a time: memory 8 layers hidden W block numbers, time twice that of
    the updates and their gradient. The result does not depend on the block, up to rounding.
    """
    for trail in trails:
        for part in blocks(trail.seen.shape[1], block):
            h, c = trail.h[:, part], trail.c[:, part]
            total = trail.credits.new_zeros(())
            with torch.enable_grad():
                for x, owed in zip(trail.seen[:, part], trail.credits[:, part], strict=True):
                    update, h, c = cell(x, h, c)
                    total = total + (owed * update).sum()
                total.backward()


class Trainer(ABC, Generic[Trial]):
    """Trains ``learned`` with Adam, one step a window; every entry of the meta-gradient is clamped to +-``clamp``.

    ``updates`` counts its steps. The state to keep is that of ``learned``, of ``optimizer``, and this number.
    """

    def __init__(self, learned: nn.Module, course: Course, *, lr: float = 1e-3, clamp: float = 1.0):
        self.learned, self.course, self.clamp, self.updates = learned, course, clamp, 0
        self.optimizer = Adam(learned.parameters(), lr=lr)
        allocate_state(self.optimizer)

    @abstractmethod
    def start(self, task: Optimizee, number: int) -> Trial:
        """A task's way under what is learned, from the start; ``number`` keys what is random beside the task's own."""

    @abstractmethod
    def window(self, trial: Trial, steps: int) -> list[float]:
        """So many updates; adds their meta-gradient, and returns the loss after each. Raises `NonFiniteError`."""

    @abstractmethod
    def tried(self, trial: Trial) -> float:
        """One update, and the loss before it."""

    def train(self, task: Optimizee) -> list[float]:
        """A whole horizon of ``task``; the loss after every update. Raises `NonFiniteError`."""
        trial, losses = self.start(task, 1 + self.updates), []
        for window in self.course.windows:
            losses += self.window(trial, len(window))
            self.update()
        return losses

    def update(self) -> None:
        """Clamps the meta-gradient and takes a step of Adam; raises `NonFiniteError` and changes nothing."""
        gradients = [p.grad for p in self.learned.parameters() if p.grad is not None]
        finite = all(bool(g.isfinite().all()) for g in gradients)
        if finite:
            for g in gradients:
                g.clamp_(-self.clamp, self.clamp)
            self.optimizer.step()
            self.updates += 1
        self.optimizer.zero_grad(set_to_none=True)
        if not finite:
            raise NonFiniteError("the meta-gradient")

    def judge(self, tasks: Sequence[Callable[[], Optimizee]]) -> float:
        """The mean loss over the horizon of fresh tasks, before every update; infinity where one diverges."""
        losses = []
        for make in tasks:
            trial = self.start(make(), 0)
            try:
                losses += [self.tried(trial) for _ in range(self.course.horizon)]
            except NonFiniteError:
                return inf
        mean = sum(losses) / max(len(losses), 1)
        return mean if mean == mean else inf


class MetaTrainer(Trainer[Learner]):
    """Trains ``cell`` to make the losses of tasks fall.

    >>> from onward.optim.cell import Architecture, initial_cell
    >>> class Bowl(Optimizee):
    ...     parameters = [torch.ones(3)]
    ...     def look(self, step, *, after):
    ...         return Look(float(self.parameters[0].square().sum()) / 2, self.parameters)
    >>> trainer = MetaTrainer(initial_cell(Architecture(), seed=0), Course(horizon=4, window=2))
    >>> len(trainer.train(Bowl())), trainer.updates
    (4, 2)
    """

    def __init__(self, cell: Cell, course: Course, *, lr: float = 1e-3, clamp: float = 1.0, block: int = 2**14):
        super().__init__(cell, course, lr=lr, clamp=clamp)
        self.cell, self.block = cell, block

    def start(self, task: Optimizee, number: int) -> Learner:
        """See `Trainer.start`."""
        return Learner(self.cell, task, self.block)

    def window(self, trial: Learner, steps: int) -> list[float]:
        """See `Trainer.window`."""
        losses, trails = unroll(trial, steps, self.course.weight)
        meta_gradient(self.cell, trails, self.block)
        return losses

    def tried(self, trial: Learner) -> float:
        """See `Trainer.tried`."""
        return trial.advance()[0]
