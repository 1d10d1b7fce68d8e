"""The learned optimiser: an LSTM that every parameter runs by itself turns gradients into updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from onward._tensors import fingerprint
from onward.core.errors import ConfigError, Divergence
from onward.optim.cell import Cell
from onward.optim.cell_file import CELL, read_cell
from onward.optim.closure import worked_out
from onward.optim.features import State
from onward.optim.optimizers import Groups, OptimOptions, ScheduleChoice, optimizers
from onward.optim.schedules import schedules

BLOCK = 2**12
START = "start"
REMEDY = (
    "lower --optim.lr (a factor on its updates, 1 by default), bound them with --optim.clamp 0.01, or use one that was "
    "meta-trained on this network, or with --meta.input normalised"
)


class LearnedDivergence(Divergence):
    """A learned optimiser takes the parameters away."""


@dataclass(frozen=True)
class Watch:
    """When a learned optimiser counts as diverging; None: never.

    ``most_update`` bounds the norm of an update of all parameters, as a share of theirs; ``most_growth`` the
    parameters' own, as a multiple of what it was at the first update.
    """

    most_update: float | None = 10.0
    most_growth: float | None = 100.0

    def check(self, update: float, norm: float, start: float) -> None:
        """Raises `LearnedDivergence`."""
        if self.most_update is not None and update > self.most_update * norm > 0:
            raise LearnedDivergence(
                f"the learned optimiser diverges: an update has {update / norm:.3g} times the norm of the parameters, "
                f"and {self.most_update:g} is the most; {REMEDY}"
            )
        if self.most_growth is not None and norm > self.most_growth * start > 0:
            raise LearnedDivergence(
                f"the learned optimiser diverges: the parameters have grown to {norm / start:.3g} times their norm at "
                f"the start, and {self.most_growth:g} is the most; {REMEDY}"
            )


@dataclass(frozen=True)
class _Move:
    """What is about to be added to a parameter; norms are tensors, so that nothing waits for a device."""

    parameter: Tensor
    update: Tensor
    kept: float
    norm: Tensor
    start: Tensor


class LSTMOptimizer(Optimizer):
    """theta <- theta + lr cell(gradient), the update of `Cell` with a state of its own for every coordinate.

    ``lr`` is a factor, 1 in the published method; weight decay is apart from the gradient, as in AdamW. With
    ``clamp`` r the update of a tensor has at most r times the tensor's norm (where that is not 0). Coordinates are
    worked through in blocks, whose size changes no bit. State: 2 layers hidden numbers a coordinate; 0 at the start.
    Time O(P layers hidden^2). ``relative`` is the norm of the last update over that of the parameters.

    Raises `LearnedDivergence` where ``watch`` says so, before parameters are changed; its state has seen the gradient.

    >>> from onward.optim.cell import Architecture, initial_cell
    >>> theta = torch.nn.Parameter(torch.ones(3))
    >>> optimizer = LSTMOptimizer([theta], initial_cell(Architecture(), seed=0))
    >>> theta.grad = torch.tensor([0.0, 1.0, 1.0])
    >>> optimizer.step()
    >>> bool(theta[0] == 1), bool(theta[1] != 1), bool(theta[1] == theta[2])
    (True, True, True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        cell: Cell,
        *,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        clamp: float | None = None,
        watch: Watch = Watch(),
        block: int = BLOCK,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        first: Tensor = self.param_groups[0]["params"][0]
        self.cell = deepcopy(cell).requires_grad_(False).to(first)
        self.clamp, self.watch, self.block = clamp, watch, block
        self.relative = 0.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient; keeps no graph."""
        loss = worked_out(closure)
        moves = [self._move(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if moves:
            self._look_at(moves)
        for move in moves:
            move.parameter.mul_(move.kept).add_(move.update)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> _Move:
        assert p.grad is not None
        state, g = self._state(p), p.grad.reshape(-1)
        update = self.cell.move(self.cell.see(g, state), state, self.block).mul_(group["lr"]).view_as(p)
        norm = p.norm()
        state[START].copy_(torch.where(state[START] == 0, norm, state[START]))
        if self.clamp is not None:
            most = torch.where(norm > 0, self.clamp * norm, torch.inf)
            update.mul_((most / update.norm()).nan_to_num(nan=1.0).clamp_max(1))
        return _Move(p, update, 1 - group["lr"] * group["weight_decay"], norm, state[START])

    def _state(self, p: Tensor) -> State:
        state: State = self.state[p]
        if not state:
            like = p.detach().reshape(-1)
            state.update({**self.cell.rest(like), START: like.new_zeros(())})
        return state

    def _look_at(self, moves: Sequence[_Move]) -> None:
        """One wait for the device, for all parameters together."""
        sizes = ([move.update.norm(), move.norm, move.start] for move in moves)
        update, norm, start = torch.stack([torch.stack(size) for size in sizes]).norm(dim=0).tolist()
        self.relative = update / norm if norm else 0.0
        self.watch.check(update, norm, start)


class LearnedOptions(OptimOptions):
    """Options shared by learned optimisers."""

    lr: float = Field(1.0, gt=0, description="factor on the learned updates")
    schedule: ScheduleChoice = Field(schedules.parse("constant"), description="how the factor changes over the run")
    weights: str | None = Field(None, description="file of a learned optimiser, as `onward meta-train` writes them")


class LSTMOptions(LearnedOptions):
    """Options of the learned optimiser."""

    clamp: float | None = Field(
        None, gt=0, description="largest update of a tensor, as a share of its norm; none: unbounded"
    )
    most_update: float | None = Field(
        10.0, gt=0, description="stop where an update of all parameters has this share of their norm; none: never"
    )
    most_growth: float | None = Field(
        100.0, gt=1, description="stop where the parameters have grown to this multiple of their norm; none: never"
    )


def cell_of(choice: Any) -> Cell:
    """The learned optimiser that the options name; raises `OnwardError`."""
    return read_cell(_file(choice))


def files_read(choice: Any) -> dict[str, dict[str, int | str]]:
    """What tells whether the files that an optimiser's options name are the same; raises `ConfigError`."""
    return {"optim.weights": fingerprint(_file(choice))} if isinstance(choice, LearnedOptions) else {}


def _file(choice: Any) -> Path:
    if choice.weights is None:
        raise ConfigError(
            f"optimizer {choice.name} needs the weights of a learned optimiser; make some with `onward meta-train`, "
            "then add --optim.weights FILE"
        )
    path = Path(choice.weights).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"--optim.weights {choice.weights}: there is no such file; {CELL.how}, so put it back if it was "
            "there, or name the file where it is now"
        )
    return path


def _lstm(choice: Any, groups: Groups) -> Optimizer:
    return LSTMOptimizer(
        groups,
        cell_of(choice),
        lr=choice.lr,
        clamp=choice.clamp,
        watch=Watch(choice.most_update, choice.most_growth),
    )


optimizers.register("lstm", LSTMOptions, _lstm, "learned: an LSTM that every parameter runs by itself")
