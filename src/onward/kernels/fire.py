"""A layer of affine neurons over a chunk of time: charge, fire, reset and slope in one pass.

H[t] = a V[t-1] + b x[t] + c;    s[t] = [H[t] >= theta];    V[t] = H - r s  (soft)  or  (1 - s) H + r s  (hard)
out = h s,    slope = b h psi(H - theta)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from onward.kernels.compiled import Kernel
from onward.kernels.host import fills

SHAPES = {"sigmoid": 0, "triangle": 1, "rectangle": 2, "none": 3, "above": 4}
"""What the loop leaves as slope: a surrogate that it knows by name, nothing, or H - theta for one that it does not."""


class Recurrence(NamedTuple):
    """The numbers of an affine neuron; ``hard`` says whether a spike sets V to ``amount`` or subtracts it.

    ``strict``: a potential equal to the threshold does not fire.
    """

    decay: float
    gain: float
    drift: float
    threshold: float
    hard: bool
    amount: float
    height: float
    strict: bool = False


class Shape(NamedTuple):
    """A surrogate derivative by name, with its one number."""

    name: str
    number: float


NO_SLOPE, ABOVE = Shape("none", 0.0), Shape("above", 0.0)


def membrane(x: Tensor, v: Tensor, law: Recurrence) -> tuple[Tensor, Tensor, Tensor]:
    """H and s of the chunk ``x`` ``[K, ...]`` from the membrane ``v``, and V after it: the plain twin."""
    potentials, spikes = [], []
    for x_t in x.unbind(0):
        h = torch.add(x_t * law.gain, v, alpha=law.decay) + law.drift
        s = (h > law.threshold if law.strict else h >= law.threshold).to(h.dtype)
        v = (1 - s) * h + s * law.amount if law.hard else h - law.amount * s
        potentials.append(h)
        spikes.append(s)
    return torch.stack(potentials), torch.stack(spikes), v


def fire(x: Tensor, v: Tensor, law: Recurrence, shape: Shape) -> tuple[Tensor, Tensor, Tensor] | None:
    """``out``, ``slope`` and V after the chunk ``x`` ``[K, ...]``; None where the compiled loop does not serve.

    With `NO_SLOPE`, ``slope`` is a second name of ``out``; with `ABOVE` it is H - theta.
    ``x`` may be a frame seen K times. Memory of a step must be dense, in the same layout as ``v``.
    """
    if not served(x, shape) or not FIRE.serves(x, v) or not _dense(x, v):
        return None
    stride = x.stride(0)
    flat = x.as_strided((v.numel() if stride == 0 else x.numel(),), (1,))
    strides = (v.numel(), *v.stride())
    out = torch.empty_strided(x.shape, strides, dtype=x.dtype)
    slope = out if shape is NO_SLOPE else torch.empty_strided(x.shape, strides, dtype=x.dtype)
    after = v.clone()
    rows, (first, second, last) = (len(x), v.numel()), (out, slope, after)
    FIRE(
        flat,
        stride,
        last.as_strided((v.numel(),), (1,)),
        first.as_strided(rows, (v.numel(), 1)),
        second.as_strided(rows, (v.numel(), 1)),
        *_numbers(law, shape),
    )
    return out, slope, after


def served(x: Tensor, shape: Shape) -> bool:
    """Whether the compiled loop takes chunks such as ``x`` and this surrogate."""
    return shape.name in SHAPES and FIRE.serves(x)


def _numbers(law: Recurrence, shape: Shape) -> tuple:
    """The loop's arguments after its arrays."""
    decay, gain, drift, threshold, hard, amount, height, strict = law
    single = [np.float32(number) for number in (decay, gain, drift, threshold)]
    level = np.nextafter(single[-1], np.float32(np.inf)) if strict else single[-1]
    return (*single, level, hard, np.float32(amount), np.float32(height), SHAPES[shape.name], np.float32(shape.number))


def _dense(x: Tensor, v: Tensor) -> bool:
    """Whether every step of ``x`` fills its memory without gaps, in the layout of ``v``, one step after the other."""
    if x.shape[1:] != v.shape or x.stride()[1:] != v.stride() or x.stride(0) not in (0, v.numel()):
        return False
    return fills(v)


def _agrees() -> bool:
    x = torch.linspace(-3, 3, 5 * 3001).view(3001, 5).T.contiguous()
    for hard, name in ((False, "sigmoid"), (True, "triangle"), (False, "rectangle")):
        law = Recurrence(0.5, 0.8, 0.1, 1.0, hard, 0.9, 2.0)
        found = fire(x, torch.zeros(3001), law, Shape(name, 2.0))
        h, s, _ = membrane(x, torch.zeros(3001), law)
        away = (h - law.threshold).abs() > 1e-5  # rounding may decide a tie
        if found is None or not torch.equal(found[0][away], 2 * s[away]):
            return False
        if not torch.allclose(found[1], 1.6 * _slope(name, h - law.threshold), atol=2e-6):
            return False
    return True


def _slope(name: str, u: Tensor) -> Tensor:
    """psi(u) for a number of 2."""
    if name == "sigmoid":
        s = (2 * u).sigmoid()
        return 2 * s * (1 - s)
    return (2 - 4 * u.abs()).clamp_min(0) if name == "triangle" else (u.abs() <= 1).float() / 2


FIRE = Kernel("fire", _agrees, least=4096)
