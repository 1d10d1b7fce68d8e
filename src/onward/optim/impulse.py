"""What a learned optimiser is for small gradients: a linear filter. The filter alone is the control for the LSTM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from onward.core.errors import ConfigError
from onward.optim.cell import Cell
from onward.optim.closure import worked_out
from onward.optim.lstm import LearnedOptions, cell_of
from onward.optim.optimizers import Groups, optimizers

TAPS = 40


def impulse_response(cell: Cell, taps: int = TAPS) -> Tensor:
    """k[s] = d update_s / d gradient_0 at rest, ``[taps]`` in float64: the update is sum_s k[s] g_{t-s} for small g.

    At rest every gate is 1/2, so that a layer is c <- (I/2 + W_hh/4) c + W_ih x/2 and h = c/2, of the cell gate's
    weights. Cost: ``taps`` steps of one coordinate. Raises `ConfigError` where the cell is not linear at rest: with
    biases, or with an input other than the gradient and its running means.

    >>> from onward.optim.cell import Architecture, initial_cell
    >>> k = impulse_response(initial_cell(Architecture(), seed=0), taps=80)
    >>> bool((k.sum() - dc_gain(initial_cell(Architecture(), seed=0))).abs() < 1e-9)
    True
    """
    wide, zero = _linear(cell), torch.zeros(1, dtype=torch.float64)
    layers, found = _layers(wide), []
    states = [torch.zeros(wide.core.hidden, dtype=torch.float64) for _ in layers]
    for x in _seen(wide, taps, zero):
        signal = x[0]
        for i, (transition, entry) in enumerate(layers):
            states[i] = transition @ states[i] + entry @ signal
            signal = states[i] / 2
        found.append(wide.core.readout.weight.detach()[0] @ signal)
    return wide.scale * torch.stack(found)


def _seen(cell: Cell, taps: int, like: Tensor) -> list[Tensor]:
    """What the cell sees of a gradient of 1 and ``taps`` - 1 zeros after it."""
    one, state = torch.ones_like(like), cell.rest(like)
    return [cell.see(one if step == 0 else torch.zeros_like(one), state).clone() for step in range(taps)]


def dc_gain(cell: Cell) -> Tensor:
    """The sum of the whole impulse response, a float64 number: minus the learning rate that the cell comes to.

    Raises as `impulse_response`, and `ConfigError` where the response does not fade.
    """
    wide = _linear(cell)
    if (radius := spectral_radius(cell)) >= 1:
        raise ConfigError(
            f"the impulse response does not fade (spectral radius {radius:.3g}, expected below 1), so it has no sum; "
            "meta-train the optimiser longer"
        )
    signal = torch.ones(wide.features.width, dtype=torch.float64)
    for transition, entry in _layers(wide):
        signal = torch.linalg.solve(torch.eye(len(transition)).to(transition) - transition, entry @ signal) / 2
    return wide.scale * (wide.core.readout.weight.detach()[0] @ signal)


def spectral_radius(cell: Cell) -> float:
    """The slowest decay per update of what the cell remembers of small gradients; below 1 it forgets them.

    Raises as `impulse_response`.
    """
    layers = _layers(_linear(cell))
    return max(float(torch.linalg.eigvals(transition).abs().max()) for transition, _ in layers)


def _linear(cell: Cell) -> Cell:
    """The cell in float64, if it is linear at rest."""
    if not cell.features.linear or cell.architecture.biases:
        raise ConfigError(
            "only a learned optimiser without biases whose input is 'raw' is a linear filter of small gradients; "
            f"this one has input {cell.architecture.input.name!r} and {'' if cell.architecture.biases else 'no '}biases"
        )
    wide = Cell(cell.architecture).to(torch.float64)
    wide.load_state_dict(cell.state_dict())
    return wide.requires_grad_(False)


def _layers(cell: Cell) -> list[tuple[Tensor, Tensor]]:
    """For every layer, what c and the input go on as: I/2 + W_hh/4 and W_ih/2, of the cell gate."""
    found, hidden = [], cell.core.hidden
    for layer in cell.core.rnn:
        rows = slice(2 * hidden, 3 * hidden)
        across, entry = layer.get_parameter("weight_hh").detach()[rows], layer.get_parameter("weight_ih").detach()[rows]
        found.append((torch.eye(hidden).to(across) / 2 + across / 4, entry / 2))
    return found


class ImpulseResponse(Optimizer):
    """theta <- theta + lr sum_s taps[s] g_{t-s}: the control of a learned optimiser, which this is for small g.

    State: one number a parameter and tap. Time O(P taps).

    >>> theta = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = ImpulseResponse([theta], torch.tensor([-0.5, -0.25]))
    >>> for g in (1.0, 0.0, 0.0):
    ...     theta.grad = torch.tensor([g])
    ...     optimizer.step()
    >>> theta.item()
    -0.75
    """

    def __init__(self, params: Iterable[Any], taps: Tensor, *, lr: float = 1.0, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.taps = taps.detach().clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        loss = worked_out(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group["lr"], group["weight_decay"])
        return loss

    def _move(self, p: Tensor, lr: float, weight_decay: float) -> None:
        """What is due later waits in the state, each tap one update nearer every time."""
        assert p.grad is not None
        state, taps = self.state[p], self.taps.to(p)
        if not state:
            state["due"] = p.new_zeros(len(taps), *p.shape)
        due = state["due"]
        due.copy_(torch.cat([due[1:], torch.zeros_like(due[:1])]))
        due.add_(taps.view(-1, *[1] * p.dim()) * p.grad)
        p.mul_(1 - lr * weight_decay).add_(due[0], alpha=lr)


class ImpulseOptions(LearnedOptions):
    """Options of the control."""

    taps: int = Field(TAPS, ge=1, le=1000, description="gradients that take part in an update")


def _impulse(choice: Any, groups: Groups) -> Optimizer:
    return ImpulseResponse(groups, impulse_response(cell_of(choice), choice.taps), lr=choice.lr)


optimizers.register(
    "impulse", ImpulseOptions, _impulse, "control of lstm: its response to small gradients, a linear filter"
)
