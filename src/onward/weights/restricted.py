"""Weights within a norm: what keeps the feedback of a network contractive, so that its rates settle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core.errors import ConfigError
from onward.core.registry import Choice, Registry
from onward.weights.operator import Map, Operator, Reshaped

WARM_UP = 10
"""Power iterations before the first use."""


class Spectral(nn.Module):
    """W = clamp(gain, -to, to) W~ / sigma(W~), sigma the spectral norm of ``linear`` (Xiao et al. 2021).

    One learned gain, at first sigma of the initial weight; beyond ``to`` it has no gradient. sigma = u^T W~ v comes
    from one power iteration every time the weight is read in training; u and v, kept as buffers, are constants to the
    gradient, and do not move in evaluation. Not torch's own spectral_norm, which knows matrices only. Raises
    `ConfigError` for weights that are all zero.
    """

    def __init__(self, weight: Tensor, linear: Map, to: float = 1.0):
        super().__init__()
        _check(weight)
        self.to_, self.linear = to, linear
        with torch.no_grad():
            u, v = linear.iterate(weight, linear.start)
            for _ in range(WARM_UP - 1):
                u, v = linear.iterate(weight, u)
            gain = (u * linear(weight, v)).sum()
        self.gain = nn.Parameter(gain)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight."""
        if self.training:
            with torch.no_grad():
                self.u, self.v = self.linear.iterate(weight, self.u)
        sigma = (self.u * self.linear(weight, self.v)).sum()
        return self.gain.clamp(-self.to_, self.to_) * weight / sigma

    def extra_repr(self) -> str:
        """The bound."""
        return f"to={self.to_:g}"


class Frobenius(nn.Module):
    """W = W~ min(phi, to) / phi, phi = ||W~||_F, a constant to the gradient (Xiao et al. 2023).

    phi bounds the spectral norm of a matrix. The published code estimates it by `probed_norm`. Raises `ConfigError` for
    weights that are all zero.
    """

    def __init__(self, weight: Tensor, to: float = 2.0):
        super().__init__()
        _check(weight)
        self.to_ = to

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight."""
        return shortened(weight, weight.detach().norm(), self.to_)

    def extra_repr(self) -> str:
        """The bound."""
        return f"to={self.to_:g}"


def shortened(weight: Tensor, phi: Tensor, to: float) -> Tensor:
    """``weight``, whose norm is ``phi``, shortened to a norm of ``to`` where it is longer."""
    return weight * (phi.clamp(max=to) / phi)


def probed_norm(weight: Tensor, probes: Tensor) -> Tensor:
    """sqrt(mean_k |v_k^T W|^2) for ``probes`` v ``[k, dim 0]``: an estimate of ||W||_F that spikes can make.

    Its square has the mean ||W||_F^2 where probes are drawn from N(0, 1).
    """
    return (probes @ weight.flatten(1)).square().sum(1).mean().sqrt()


def _check(weight: Tensor) -> None:
    if not weight.any():
        raise ConfigError(
            f"weights of shape {list(weight.shape)} are all zero and have no norm to restrict; start from others, "
            "or choose the restriction 'none'"
        )


class Restriction(ABC):
    """A way to keep the weights of a synapse within a norm."""

    @abstractmethod
    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """Restricts the weight of ``synapse``, which reads samples of shape ``features``, in place; returns it."""


class Unrestricted(Restriction):
    """Weights as they are."""

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """See `Restriction.apply`."""
        return synapse


class ByOperator(Restriction):
    """`Spectral` by what the synapse does to its input."""

    def __init__(self, to: float):
        self.to_ = to

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """See `Restriction.apply`."""
        weight = synapse.get_parameter("weight")
        return _restricted(synapse, Spectral(weight, Operator(synapse, weight, features), self.to_))


class ByMatrix(Restriction):
    """`Spectral` by the reshaped weight."""

    def __init__(self, to: float):
        self.to_ = to

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """See `Restriction.apply`."""
        weight = synapse.get_parameter("weight")
        return _restricted(synapse, Spectral(weight, Reshaped(weight), self.to_))


class ByLength(Restriction):
    """`Frobenius`."""

    def __init__(self, to: float):
        self.to_ = to

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """See `Restriction.apply`."""
        return _restricted(synapse, Frobenius(synapse.get_parameter("weight"), self.to_))


def _restricted(synapse: nn.Module, how: nn.Module) -> nn.Module:
    parametrize.register_parametrization(synapse, "weight", how)
    return synapse


class SpectralOptions(Choice):
    """Options of a restricted spectral norm."""

    to: float = Field(1.0, gt=0, description="largest spectral norm of the weights")


class FrobeniusOptions(Choice):
    """Options of a restricted Frobenius norm."""

    to: float = Field(2.0, gt=0, description="largest Frobenius norm of the weights")


restrictions: Registry[Restriction] = Registry("restriction")
restrictions.register("none", Choice, lambda choice: Unrestricted(), "weights as they are")
restrictions.register(
    "spectral", SpectralOptions, lambda choice: ByOperator(choice.to), "spectral norm of what the synapse does"
)
restrictions.register(
    "reshaped",
    SpectralOptions,
    lambda choice: ByMatrix(choice.to),
    "spectral norm of the weights as a matrix: as published, too small for convolutions",
)
restrictions.register("frobenius", FrobeniusOptions, lambda choice: ByLength(choice.to), "root of the sum of squares")

RestrictionChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(restrictions.parse)]
