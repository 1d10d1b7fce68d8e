"""The affine spiking neuron: one recurrence whose parameter sets are IF, LIF and their published variants.

    H[t] = a V[t-1] + b x[t] + c          charge
    s[t] = [H[t] >= theta]                fire (or > theta)
    V[t] = R(H[t], s[t])                  reset: H - r s (soft), or (1 - s) H + v s (hard)
    out  = h s[t]

a leak, b input gain, c drift towards rest, theta threshold, h spike height. The slope handed to learning
rules is ds/dx = b h psi(H - theta). Through time, d H[t+1] / d H[t] = a (1 - r psi) for a soft reset, or a when
the reset is detached from the graph (Xiao et al. 2022; Meng et al. 2023; Fang et al. 2023).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onward.core.errors import ConfigError
from onward.core.neuron import Draw, Firing, Neuron, RateLaw, State, undrawn
from onward.kernels.fire import ABOVE, NO_SLOPE, Recurrence, fire, membrane, served
from onward.kernels.fused import fuses, fusible
from onward.surrogates import Sigmoid, Surrogate


class Reset(ABC):
    """What a spike does to the membrane potential."""

    @abstractmethod
    def __call__(self, h: Tensor, s: Tensor, threshold: Tensor | float) -> Tensor:
        """V from H and s."""

    @abstractmethod
    def slopes(self, h: Tensor, s: Tensor, threshold: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        """dV/dH at fixed s, and dV/ds at fixed H."""

    @abstractmethod
    def threshold_slope(self, s: Tensor) -> Tensor | float:
        """dV/d threshold at fixed H and s."""

    @abstractmethod
    def charge(self, threshold: Tensor | float) -> Tensor | float | None:
        """The charge that a spike takes, whatever the potential; None where it takes all, or nothing."""

    @abstractmethod
    def after_spike(self, threshold: float) -> tuple[bool, float]:
        """What a spike does to V: (True, the value it takes) or (False, the amount it loses)."""


@dataclass(frozen=True)
class SoftReset(Reset):
    """V = H - scale * theta * s. ``scale`` 1 conserves charge, 1/leak is the reset that comes one step late, 0 none."""

    scale: float = 1.0

    def __call__(self, h: Tensor, s: Tensor, threshold: Tensor | float) -> Tensor:
        """See `Reset.__call__`."""
        if isinstance(threshold, Tensor):
            return h - (self.scale * threshold) * s
        return torch.sub(h, s, alpha=self.scale * threshold)

    def slopes(self, h: Tensor, s: Tensor, threshold: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        """See `Reset.slopes`."""
        return 1.0, -self.scale * threshold

    def threshold_slope(self, s: Tensor) -> Tensor | float:
        """See `Reset.threshold_slope`."""
        return -self.scale * s

    def charge(self, threshold: Tensor | float) -> Tensor | float | None:
        """See `Reset.charge`."""
        return self.scale * threshold if self.scale else None

    def after_spike(self, threshold: float) -> tuple[bool, float]:
        """See `Reset.after_spike`."""
        return False, self.scale * threshold


@dataclass(frozen=True)
class HardReset(Reset):
    """V = (1 - s) H + s * to."""

    to: float = 0.0

    def __call__(self, h: Tensor, s: Tensor, threshold: Tensor | float) -> Tensor:
        """See `Reset.__call__`."""
        return (1 - s) * h + s * self.to

    def slopes(self, h: Tensor, s: Tensor, threshold: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        """See `Reset.slopes`."""
        return 1 - s, self.to - h

    def threshold_slope(self, s: Tensor) -> Tensor | float:
        """See `Reset.threshold_slope`."""
        return 0.0

    def charge(self, threshold: Tensor | float) -> Tensor | float | None:
        """See `Reset.charge`."""
        return None

    def after_spike(self, threshold: float) -> tuple[bool, float]:
        """See `Reset.after_spike`."""
        return True, self.to


class Affine(Neuron):
    """The recurrence above; use `IF` and `LIF` unless you need every knob.

    ``ties_fire`` decides H(0); ``initial`` is V[-1]; ``detach_reset`` matters to BPTT alone. With
    ``learn_threshold`` the threshold is a parameter (one number a layer). Cost: one pass over the drive where the
    compiled loop serves, else four passes a step.
    """

    level_share: float = 1.0
    """The firing level as a share of the threshold."""
    height_share: float = 0.0
    """The spike's height as a share of the threshold; 0 where it does not depend on it."""

    def __init__(
        self,
        decay: float,
        gain: float = 1.0,
        drift: float = 0.0,
        threshold: float = 1.0,
        height: float = 1.0,
        reset: Reset | None = None,
        initial: float = 0.0,
        ties_fire: bool = True,
        surrogate: Surrogate | None = None,
        detach_reset: bool = True,
        learn_threshold: bool = False,
    ):
        super().__init__()
        if threshold <= 0:
            raise ConfigError(f"a threshold of {threshold} was given; expected a positive number")
        self._decay, self.gain, self.drift, self._height = leak(None, decay), gain, drift, height
        self.threshold = nn.Parameter(torch.tensor(float(threshold))) if learn_threshold else float(threshold)
        self.reset = reset or SoftReset()
        self.initial, self.ties_fire, self.detach_reset = initial, ties_fire, detach_reset
        self.surrogate = surrogate or Sigmoid()

    @property
    def decay(self) -> float:
        """See `Neuron.decay`."""
        return self._decay

    @property
    def spiking(self) -> bool:
        """See `Neuron.spiking`."""
        return True

    @property
    def level(self) -> Tensor | float:
        """See `Neuron.level`."""
        return self.threshold if self.level_share == 1 else self.level_share * self.threshold

    @property
    def height(self) -> Tensor | float:
        """What a spike sends."""
        return self._height if self.height_share == 0 else self.height_share * self.threshold

    @property
    def rate_law(self) -> RateLaw | None:
        """See `Neuron.rate_law`: a soft reset takes the charge r, a hard one forgets what is left of it."""
        lost = self.reset.charge(self.threshold)
        if lost is None:
            return None
        return RateLaw(self._decay, self.gain / lost, self.drift / lost, self.height)

    @property
    def exact_zeros(self) -> bool:
        """See `Neuron.exact_zeros`."""
        return self.surrogate.exact_zeros

    def start(self, like: Tensor) -> State:
        """See `Neuron.start`."""
        return (torch.full_like(like, self.initial),)

    @torch.no_grad()
    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        """See `Neuron.scan`."""
        psi = self.surrogate.bound(draw)
        fired = fire(x, state[0], self.recurrence, psi.shape)
        if fired is not None:
            out, slope, v = fired
            found = self._scaled_slope(psi(slope)) if psi.shape is ABOVE else slope
            return Firing(out, found, (v,), lambda: self.membrane(x, state[0])[0])
        h, s, v = self.membrane(x, state[0])
        return Firing(self.sent(s), self._scaled_slope(psi(h - self.level)), (v,), lambda: h)

    def _scaled_slope(self, psi: Tensor) -> Tensor:
        """b h psi, in place."""
        scale = self.gain * self.height
        return psi if scale == 1 else psi.mul_(scale)

    @torch.no_grad()
    def simulate(self, x: Tensor, state: State) -> Firing:
        """See `Neuron.simulate`."""
        fired = fire(x, state[0], self.recurrence, NO_SLOPE)
        if fired is not None:
            return Firing(fired[0], x.new_empty(0), (fired[2],), lambda: self.membrane(x, state[0])[0])
        h, s, v = self.membrane(x, state[0])
        return Firing(self.sent(s), x.new_empty(0), (v,), lambda: h)

    def unroll(self, x: Tensor, state: State, draw: Draw = undrawn) -> tuple[Tensor, State, Tensor]:
        """See `Neuron.unroll`."""
        threshold = torch.as_tensor(self.threshold, dtype=x.dtype, device=x.device)
        out, v, h = _ThroughTime.apply(x, state[0], threshold, self, self.surrogate.bound(draw))
        return out, (v,), h

    def leaves(self, like: Tensor, through_time: bool) -> int:
        """See `Neuron.leaves`: the compiled loop recalls the potential from the drive, which is there anyway."""
        return 2 if through_time or served(like, self.surrogate.shape) else 3

    def active(self) -> float | None:
        """See `Neuron.active`."""
        return self.surrogate.active()

    def parameter_grads(self, credit: Tensor, firing: Firing) -> dict[str, Tensor]:
        """d loss / d theta = -sum credit * slope / b (spikes come later), plus what higher spikes do, where learned."""
        if not isinstance(self.threshold, nn.Parameter):
            return {}
        grad = -(credit * firing.slope).sum() * (self.level_share / self.gain)
        if self.height_share:
            grad = grad + (credit * (firing.out / self.threshold)).sum()
        return {"threshold": grad}

    def after_reset(self, firing: Firing) -> Tensor:
        """See `Neuron.after_reset`."""
        return self.reset(firing.potential, firing.out / self.height, self.threshold)

    @property
    def recurrence(self) -> Recurrence:
        """The neuron as the numbers that compiled loops take."""
        level, height = _number(self.level), _number(self.height)
        lost = self.reset.after_spike(_number(self.threshold))
        return Recurrence(self._decay, self.gain, self.drift, level, *lost, height, strict=not self.ties_fire)

    def membrane(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """H and s over the chunk ``[K, B, ...]``, and the last V."""
        if fuses() and not isinstance(self.threshold, nn.Parameter):
            return _fused_membrane(x, v, self.recurrence)
        h = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        s = torch.empty_like(h)
        for t in range(len(x)):
            self.charge(x[t], v, out=h[t])
            self.fire(h[t], self.level, out=s[t])
            v = self.reset(h[t], s[t], self.threshold)
        return h, s, v

    def charge(self, x: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
        """H = a V + b x + c."""
        drive = x if self.gain == 1 else x * self.gain
        h = torch.add(drive, v, alpha=self._decay, out=out)
        return h.add_(self.drift) if self.drift else h

    def fire(self, h: Tensor, threshold: Tensor | float, out: Tensor) -> None:
        """Writes 1 where the membrane potential reaches (or exceeds) the threshold, else 0."""
        compare = torch.ge if self.ties_fire else torch.gt
        compare(h, threshold, out=out)

    def sent(self, s: Tensor) -> Tensor:
        """What the spikes ``s`` send."""
        return s if isinstance(self.height, float) and self.height == 1 else s * self.height

    def extra_repr(self) -> str:
        """The parameters that differ from an IF neuron's."""
        return f"decay={self._decay:.4g}, threshold={_number(self.threshold):.4g}, reset={self.reset}, {self.surrogate}"


class _ThroughTime(torch.autograd.Function):
    """The affine recurrence with its exact surrogate gradient back through the chunk."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, threshold: Tensor, neuron: Affine, psi: Surrogate
    ) -> tuple[Tensor, Tensor, Tensor]:
        h, s, v = neuron.membrane(x, v)
        ctx.save_for_backward(h, s, threshold)
        ctx.save_for_forward(h, s, threshold)
        ctx.neuron, ctx.psi = neuron, psi
        ctx.mark_non_differentiable(h)
        ctx.set_materialize_grads(True)
        return neuron.sent(s), v, h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        g_out, g_v = grads[0], grads[1]
        h, s, threshold = ctx.saved_tensors
        n: Affine = ctx.neuron
        psi = ctx.psi(h - n.level_share * threshold)
        g_h, g_v, g_threshold = _fused_back(g_out, g_v, h, s, psi, threshold, n)
        return g_h * n.gain, g_v, g_threshold, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor, None]:
        (x_dot, v_dot, threshold_dot), (h, s, threshold), n = tangents[:3], ctx.saved_tensors, ctx.neuron
        psi = ctx.psi(h - n.level_share * threshold)
        out_dot, v_dot = _along(x_dot, v_dot, threshold_dot, h, s, psi, threshold, n)
        return out_dot, v_dot, None


def _along(
    x_dot: Tensor,
    v_dot: Tensor,
    threshold_dot: Tensor,
    h: Tensor,
    s: Tensor,
    psi: Tensor,
    threshold: Tensor,
    n: Affine,
) -> tuple[Tensor, Tensor]:
    """How ``out`` and the last V move with the drive, the V before the chunk, and the threshold."""
    found = []
    for t in range(len(h)):
        through_h, through_s = n.reset.slopes(h[t], s[t], threshold)
        h_dot = n._decay * v_dot + n.gain * x_dot[t]
        s_dot = psi[t] * (h_dot - n.level_share * threshold_dot)
        v_dot = through_h * h_dot + n.reset.threshold_slope(s[t]) * threshold_dot
        if not n.detach_reset:
            v_dot = v_dot + through_s * s_dot
        found.append(n.height * s_dot + n.height_share * threshold_dot * s[t])
    return torch.stack(found), v_dot


def _back(
    g_out: Tensor, g_v: Tensor, h: Tensor, s: Tensor, psi: Tensor, threshold: Tensor, n: Affine
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at H, at the V before the chunk and at the threshold, from those at ``out`` and at the last V."""
    found, g_threshold = [], torch.zeros_like(threshold)
    for t in reversed(range(len(h))):
        through_h, through_s = n.reset.slopes(h[t], s[t], threshold)
        g_s = g_out[t] * n.height if n.detach_reset else g_out[t] * n.height + g_v * through_s
        found.append(psi[t] * g_s + g_v * through_h)
        direct = n.height_share * (g_out[t] * s[t]) - n.level_share * (psi[t] * g_s)
        g_threshold = g_threshold + (g_v * n.reset.threshold_slope(s[t]) + direct).sum()
        g_v = n._decay * found[-1]
    return torch.stack(found[::-1]), g_v, g_threshold


_fused_membrane, _fused_back = fusible(membrane), fusible(_back)


def _number(x: Tensor | float) -> float:
    return float(x.detach()) if isinstance(x, Tensor) else x


def leak(tau: float | None, decay: float | None) -> float:
    """The leak per step: ``decay`` itself, or 1 - 1/tau (tau in steps); give one of the two."""
    if (tau is None) == (decay is None):
        raise ConfigError(f"give either tau or decay, not tau={tau} and decay={decay}")
    if tau is None:
        assert decay is not None
        if not 0 <= decay <= 1:
            raise ConfigError(f"a leak of {decay} per step was given; expected 0 <= decay <= 1 (1 keeps everything)")
        return decay
    if tau < 1:
        raise ConfigError(f"a time constant of {tau} steps was given; expected tau >= 1 (decay = 1 - 1/tau)")
    return 1 - 1 / tau


def LIF(
    tau: float | None = None,
    *,
    decay: float | None = None,
    threshold: float = 1.0,
    reset: Reset | None = None,
    decay_input: bool = False,
    initial: float = 0.0,
    ties_fire: bool = True,
    surrogate: Surrogate | None = None,
    detach_reset: bool = True,
    learn_threshold: bool = False,
) -> Affine:
    """Leaky integrate-and-fire: H = lam V + x, lam = 1 - 1/tau (default tau 2); soft reset by the threshold.

    ``decay_input`` multiplies the drive by 1/tau. A hard reset to v leaks towards v: c = (1 - lam) v.

    >>> lif = LIF(tau=2.0)
    >>> firing = lif.scan(torch.full((4, 1, 1), 0.6), lif.start(torch.zeros(1, 1)))
    >>> firing.out.flatten().tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    lam = leak(2.0 if tau is None and decay is None else tau, decay)
    rest = reset.to if isinstance(reset, HardReset) else 0.0
    return Affine(
        lam,
        gain=1 - lam if decay_input else 1.0,
        drift=(1 - lam) * rest,
        threshold=threshold,
        reset=reset,
        initial=initial,
        ties_fire=ties_fire,
        surrogate=surrogate,
        detach_reset=detach_reset,
        learn_threshold=learn_threshold,
    )


def IF(
    *,
    threshold: float = 1.0,
    reset: Reset | None = None,
    initial: float = 0.0,
    ties_fire: bool = True,
    surrogate: Surrogate | None = None,
    detach_reset: bool = True,
    learn_threshold: bool = False,
) -> Affine:
    """Integrate-and-fire: H = V + x, no leak."""
    return Affine(
        1.0,
        threshold=threshold,
        reset=reset,
        initial=initial,
        ties_fire=ties_fire,
        surrogate=surrogate,
        detach_reset=detach_reset,
        learn_threshold=learn_threshold,
    )
