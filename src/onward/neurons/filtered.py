"""Neurons built around a leaky filter: the leaky-integrator readout and the current-based LIF neuron."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from onward.core.neuron import Draw, Firing, Neuron, State, undrawn
from onward.kernels.scan import leaky_scan
from onward.neurons.affine import Affine, leak


def _filter(x: Tensor, start: Tensor, decay: float) -> Tensor:
    """`leaky_scan` as a function that autograd can follow."""
    steps, y = [], start
    for x_t in x.unbind(0):
        y = torch.add(x_t, y, alpha=decay)
        steps.append(y)
    return torch.stack(steps)


class LI(Neuron):
    """Leaky-integrator readout: y[t] = lam y[t-1] + b x[t], out = y; never fires, slope b.

    ``decay_input`` sets b = 1 - lam, else b = 1.

    >>> li = LI(tau=2.0)
    >>> li.scan(torch.ones(2, 1, 1), li.start(torch.zeros(1, 1))).out.flatten().tolist()
    [1.0, 1.5]
    """

    def __init__(self, tau: float | None = None, *, decay: float | None = None, decay_input: bool = False):
        super().__init__()
        self._decay = leak(2.0 if tau is None and decay is None else tau, decay)
        self.gain = 1 - self._decay if decay_input else 1.0

    @property
    def decay(self) -> float:
        """See `Neuron.decay`."""
        return self._decay

    @property
    def spiking(self) -> bool:
        """See `Neuron.spiking`."""
        return False

    def start(self, like: Tensor) -> State:
        """See `Neuron.start`."""
        return (torch.zeros_like(like),)

    @torch.no_grad()
    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        """See `Neuron.scan`."""
        y = leaky_scan(x * self.gain, state[0], self._decay)
        return Firing(y, torch.full_like(y, self.gain), (y[-1].clone(),), lambda: y)

    def unroll(self, x: Tensor, state: State, draw: Draw = undrawn) -> tuple[Tensor, State, Tensor]:
        """See `Neuron.unroll`."""
        y = _filter(x * self.gain, state[0], self._decay)
        return y, (y[-1],), y.detach()

    def leaves(self, like: Tensor, through_time: bool) -> int:
        """See `Neuron.leaves`: what is sent is the potential."""
        return 1 if through_time else 2

    def parameter_grads(self, credit: Tensor, firing: Firing) -> dict[str, Tensor]:
        """None: a leaky integrator declares no parameters."""
        return {}

    def after_reset(self, firing: Firing) -> Tensor:
        """The potential itself: nothing resets it."""
        return firing.potential


class CubaLIF(Neuron):
    """Current-based LIF: a synaptic current I[t] = alpha I[t-1] + x[t] charges an affine ``membrane``.

    Eligibility traces see the membrane's leak alone; the current's memory is treated as instantaneous credit.
    """

    def __init__(self, membrane: Affine, current_decay: float = 0.5):
        super().__init__()
        self.membrane, self.current_decay = membrane, leak(None, current_decay)

    @property
    def decay(self) -> float:
        """See `Neuron.decay`."""
        return self.membrane.decay

    @property
    def level(self) -> Tensor | float:
        """See `Neuron.level`."""
        return self.membrane.level

    @property
    def spiking(self) -> bool:
        """See `Neuron.spiking`."""
        return True

    @property
    def exact_zeros(self) -> bool:
        """See `Neuron.exact_zeros`."""
        return self.membrane.exact_zeros

    def start(self, like: Tensor) -> State:
        """See `Neuron.start`: the current, then the membrane."""
        return (torch.zeros_like(like), *self.membrane.start(like))

    @torch.no_grad()
    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        """See `Neuron.scan`."""
        current = leaky_scan(x, state[0], self.current_decay)
        firing = self.membrane.scan(current, state[1:], draw)
        return replace(firing, state=(current[-1].clone(), *firing.state))

    def unroll(self, x: Tensor, state: State, draw: Draw = undrawn) -> tuple[Tensor, State, Tensor]:
        """See `Neuron.unroll`."""
        current = _filter(x, state[0], self.current_decay)
        out, membrane, potential = self.membrane.unroll(current, state[1:], draw)
        return out, (current[-1], *membrane), potential

    def leaves(self, like: Tensor, through_time: bool) -> int:
        """See `Neuron.leaves`: the membrane's, and the current that drove it."""
        return self.membrane.leaves(like, through_time) + 1

    def parameter_grads(self, credit: Tensor, firing: Firing) -> dict[str, Tensor]:
        """The membrane's declared parameters."""
        grads = self.membrane.parameter_grads(credit, firing)
        return {f"membrane.{name}": grad for name, grad in grads.items()}

    def active(self) -> float | None:
        """See `Neuron.active`."""
        return self.membrane.active()

    def after_reset(self, firing: Firing) -> Tensor:
        """The membrane potential after its reset."""
        return self.membrane.after_reset(firing)
