"""The adaptive LIF neuron: each spike raises the threshold, which then relaxes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from onward.core.neuron import Adaptation, Draw, Firing, Neuron, State, undrawn
from onward.neurons.affine import Affine, leak
from onward.surrogates import Surrogate


class AdaptiveLIF(Neuron):
    """Adaptive LIF (Bellec et al. 2018): theta[t] = theta + beta A[t], A[t] = rho A[t-1] + s[t-1].

    ``membrane`` is an affine neuron whose charge and reset are used; the reset amount is the base threshold.
    Rules with O(1) memory hold A fixed within a step, as they hold the past membrane.
    """

    def __init__(self, membrane: Affine, adaptation: float = 0.2, adaptation_decay: float = 0.9):
        super().__init__()
        self.membrane, self.adaptation = membrane, adaptation
        self.adaptation_decay = leak(None, adaptation_decay)

    @property
    def decay(self) -> float:
        """See `Neuron.decay`."""
        return self.membrane.decay

    @property
    def spiking(self) -> bool:
        """See `Neuron.spiking`."""
        return True

    @property
    def exact_zeros(self) -> bool:
        """See `Neuron.exact_zeros`."""
        return self.membrane.exact_zeros

    @property
    def adapts(self) -> Adaptation | None:
        """See `Neuron.adapts`."""
        return Adaptation(self.adaptation, self.adaptation_decay, self.membrane.gain * self.membrane.height)

    def start(self, like: Tensor) -> State:
        """See `Neuron.start`: the membrane, then the adaptation."""
        return (*self.membrane.start(like), torch.zeros_like(like))

    @torch.no_grad()
    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        """See `Neuron.scan`."""
        m, (v, a) = self.membrane, state
        h, s, above = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
        for t in range(len(x)):
            m.charge(x[t], v, out=h[t])
            torch.sub(h[t], m.threshold + self.adaptation * a, out=above[t])
            m.fire(above[t], 0.0, out=s[t])
            v = m.reset(h[t], s[t], m.threshold)
            a = self.adaptation_decay * a + s[t]
        slope = m.surrogate.bound(draw)(above) * (m.gain * m.height)
        return Firing(s * m.height, slope, (v, a), lambda: h)

    def unroll(self, x: Tensor, state: State, draw: Draw = undrawn) -> tuple[Tensor, State, Tensor]:
        """See `Neuron.unroll`."""
        m, (v, a) = self.membrane, state
        spikes, potentials = [], []
        for t, x_t in enumerate(x.unbind(0)):
            h = m.charge(x_t, v)
            psi = m.surrogate.bound(partial(draw, start=t))
            s = _Fire.apply(h - (m.threshold + self.adaptation * a), psi, m.ties_fire)
            v = m.reset(h, s.detach() if m.detach_reset else s, m.threshold)
            a = self.adaptation_decay * a + s
            spikes.append(s)
            potentials.append(h.detach())
        return torch.stack(spikes) * m.height, (v, a), torch.stack(potentials)

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


class _Fire(torch.autograd.Function):
    """The Heaviside step with a surrogate derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate, ties_fire: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.surrogate = surrogate
        return (x >= 0 if ties_fire else x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate(x[None])[0], None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return tangents[0] * ctx.surrogate(x[None])[0]
