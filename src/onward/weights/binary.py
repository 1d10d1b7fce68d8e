"""Weights of one bit: the sign of a latent real weight, times one scale an output channel.

    w^b = alpha_c sgn(w),   sgn(0) = +1,   alpha_c = ||w_c||_1 / n        c an output channel, n its fan-in
    dL/dw = dL/dw^b 1{|w| <= 1}                                           the clipped straight-through estimator

alpha_c is a constant to the gradient, and does not multiply it. It minimises ||w_c - alpha sgn(w_c)||. Sources:
Rastegari et al. 2016 (XNOR-Net); Liu et al. 2018 (Bi-Real), 2020 (ReActNet).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.utils import parametrize

from onward.core.errors import ConfigError, UnsupportedModule
from onward.core.synapse import effective
from onward.weights.restricted import Frobenius, Spectral
from onward.weights.rows import Rows, rows_of

RANGE = 1.0
"""Beyond this, the clipped estimator passes no gradient to a latent weight."""


class ChannelScale(nn.Module, ABC):
    """The scale alpha ``[C, 1]`` of latent ``rows`` ``[C, n]``."""

    @abstractmethod
    def forward(self, rows: Tensor) -> Tensor:
        """The scale."""

    def restart(self, rows: Tensor) -> None:
        """Starts anew, from latent weights that came from elsewhere."""


class MeanMagnitude(ChannelScale):
    """alpha_c = ||w_c||_1 / n, a constant to the gradient: the least-squares optimum."""

    def forward(self, rows: Tensor) -> Tensor:
        """See `ChannelScale.forward`."""
        return _constant(rows).abs().mean(1, keepdim=True)


class Learned(ChannelScale):
    """alpha_c is a parameter that starts at ||w_c||_1 / n; dL/dalpha_c = sum_i dL/dw^b_ci sgn(w_ci)."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.alpha = nn.Parameter(MeanMagnitude()(rows)[:, 0].clone())

    def forward(self, rows: Tensor) -> Tensor:
        """See `ChannelScale.forward`."""
        return self.alpha[:, None]

    @torch.no_grad()
    def restart(self, rows: Tensor) -> None:
        """See `ChannelScale.restart`."""
        self.alpha.copy_(MeanMagnitude()(rows)[:, 0])


class Unscaled(ChannelScale):
    """alpha = 1: for weights in front of batch normalisation, which takes a scale away up to its epsilon."""

    def forward(self, rows: Tensor) -> Tensor:
        """See `ChannelScale.forward`."""
        return rows.new_ones(len(rows), 1)


class Estimator(ABC):
    """What the derivative of a sign is taken to be."""

    @abstractmethod
    def slope(self, rows: Tensor, scale: Tensor) -> Tensor:
        """dL/dw over dL/dw^b, of shape ``[C, n]`` or one that broadcasts to it."""


@dataclass(frozen=True)
class Clipped(Estimator):
    """1{|w| <= 1}: latent weights beyond are left where they are."""

    def slope(self, rows: Tensor, scale: Tensor) -> Tensor:
        """See `Estimator.slope`; truth values."""
        return rows.abs() <= RANGE


@dataclass(frozen=True)
class Straight(Estimator):
    """1 everywhere."""

    def slope(self, rows: Tensor, scale: Tensor) -> Tensor:
        """See `Estimator.slope`."""
        return torch.ones_like(scale)


@dataclass(frozen=True)
class MagnitudeAware(Estimator):
    """``inner`` times alpha_c (Bi-Real)."""

    inner: Estimator

    def slope(self, rows: Tensor, scale: Tensor) -> Tensor:
        """See `Estimator.slope`."""
        return self.inner.slope(rows, scale) * scale


class Binary(nn.Module):
    """The parametrization w -> alpha_c sgn(w), see the module's docstring.

    ``rows`` say where output channels are. With ``centred`` the sign and the scale are those of w - mean(w_c), through
    which the gradient passes as well. Cost: one pass over the weight whenever it is read.
    """

    def __init__(
        self, rows: Rows, scale: ChannelScale | None = None, estimator: Estimator | None = None, centred: bool = False
    ):
        super().__init__()
        self.rows, self.scale, self.estimator = rows, scale or MeanMagnitude(), estimator or Clipped()
        self.centred = centred

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight."""
        rows = self.latent(weight)
        scale = self.scale(rows)
        slope = self.estimator.slope(_constant(rows), _constant(scale))
        return self.rows.back(_Signed.apply(rows, scale, slope), tuple(weight.shape))

    def latent(self, weight: Tensor) -> Tensor:
        """What signs are taken of, ``[C, n]``."""
        return latent_rows(self.rows, weight, self.centred)

    def extra_repr(self) -> str:
        """Rows, estimator and centring."""
        return f"{self.rows}, {self.estimator}" + (", centred" if self.centred else "")


def latent_rows(rows: Rows, weight: Tensor, centred: bool) -> Tensor:
    """The rows of ``weight``, each with a mean of 0 if they are ``centred``."""
    found = rows.of(weight)
    return found - found.mean(1, keepdim=True) if centred else found


class _Signed(torch.autograd.Function):
    """scale sgn(rows); the derivative in ``rows`` is ``slope``, that in ``scale`` the true one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
        positive = rows >= 0
        ctx.save_for_backward(positive, slope)
        ctx.save_for_forward(positive, slope)
        return torch.where(positive, scale, -scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        positive, slope = ctx.saved_tensors
        signed = torch.where(positive, grads[0], -grads[0]).sum(1, keepdim=True) if ctx.needs_input_grad[1] else None
        return grads[0] * slope, signed, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        positive, slope = ctx.saved_tensors
        rows, scale, _ = tangents
        signed = 0 if scale is None else torch.where(positive, scale, -scale)
        return signed if rows is None else rows * slope + signed  # type: ignore[return-value]


def _constant(x: Tensor) -> Tensor:
    """``x`` outside any graph; detached alone, it would keep its tangent in forward mode."""
    return unpack_dual(x).primal.detach()


def mean_magnitude(rows: Tensor) -> ChannelScale:  # noqa: ARG001
    """The scale of latent ``rows`` that follows them; see `MeanMagnitude`."""
    return MeanMagnitude()


def unscaled(rows: Tensor) -> ChannelScale:  # noqa: ARG001
    """No scale; see `Unscaled`."""
    return Unscaled()


@dataclass(frozen=True)
class Binarizer:
    """Makes weights binary; ``scale`` makes the scale of latent rows: `mean_magnitude`, `Learned` or `unscaled`."""

    scale: Callable[[Tensor], ChannelScale] = mean_magnitude
    estimator: Estimator = Clipped()
    centred: bool = False

    def apply(self, synapse: nn.Module) -> nn.Module:
        """Makes the weight of ``synapse`` binary in place, its present weight being the latent one; returns it.

        Raises `UnsupportedModule` where it has no output channels or is limited in its norm, `ConfigError` where it
        holds no number.
        """
        refuse_restricted(synapse)
        rows, weight = rows_of(synapse), effective(synapse)["weight"].detach()
        if not weight.numel():
            raise ConfigError(f"weights of shape {list(weight.shape)} hold no number, so they have no sign")
        scale = self.scale(latent_rows(rows, weight, self.centred))
        parametrize.register_parametrization(synapse, "weight", Binary(rows, scale, self.estimator, self.centred))
        return synapse


def binarize(synapse: nn.Module) -> nn.Module:
    """Makes the weight of ``synapse`` binary in place, and returns it; see `Binary`, and `Binarizer` for options.

    >>> weight = binarize(nn.Linear(8, 4)).weight.detach()
    >>> all(len(row.unique()) == 2 for row in weight), bool((weight[0].abs() == weight[0, 0].abs()).all())
    (True, True)
    """
    return Binarizer().apply(synapse)


def refuse_restricted(synapse: nn.Module) -> None:
    """Raises `UnsupportedModule` for a weight whose norm is restricted: signs would undo that."""
    if is_restricted(synapse):
        raise UnsupportedModule(
            "a weight of limited norm cannot be made binary, since its norm would be that of its signs; choose "
            "--model.restriction none, or keep this layer in full precision"
        )


def is_restricted(synapse: nn.Module) -> bool:
    """Whether the norm of the weight is limited."""
    return any(isinstance(part, Spectral | Frobenius) for part in parametrizations(synapse))


def parametrizations(synapse: nn.Module) -> list[nn.Module]:
    """What the weight of ``synapse`` is made by, the first applied first; empty for a plain weight."""
    held: Any = getattr(synapse, "parametrizations", {})
    return list(held["weight"]) if "weight" in held else []


def binary_of(synapse: nn.Module) -> Binary | None:
    """The parametrization that makes the weight of ``synapse`` binary; None where there is none."""
    return next((part for part in parametrizations(synapse) if isinstance(part, Binary)), None)


def latent_of(synapse: nn.Module) -> Tensor:
    """What the signs of a binary weight are taken of, ``[C, n]``; differentiable."""
    held: Any = synapse.parametrizations
    weight = held["weight"].original
    for part in parametrizations(synapse):
        if isinstance(part, Binary):
            return part.latent(weight)
        weight = part(weight)
    raise no_binary_weight(synapse)


def restart_scale(synapse: nn.Module) -> None:
    """Lets the scale of a binary weight start anew, after its latent weights came from elsewhere."""
    binary = binary_of(synapse)
    if binary is None:
        raise no_binary_weight(synapse)
    binary.scale.restart(latent_of(synapse))


def no_binary_weight(synapse: nn.Module) -> UnsupportedModule:
    """What to say of a synapse whose weight is no binary one."""
    kind = parametrize.type_before_parametrizations(synapse).__name__
    return UnsupportedModule(f"{kind} has no binary weight; make it one with onward.binarize")


def latents(net: nn.Module) -> Iterator[nn.Parameter]:
    """The stored weights behind all binary weights in ``net``, each once."""
    for module in net.modules():
        if binary_of(module) is not None:
            held: Any = module.parametrizations
            yield held["weight"].original
