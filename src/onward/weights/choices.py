"""Restrictions of a synapse's weight, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core.errors import UnsupportedModule
from onward.core.registry import Choice, Registry
from onward.core.synapse import effective
from onward.weights.operator import Matrix, Operator, operator_of
from onward.weights.restricted import Frobenius, Spectral, require_elements


class Restriction(ABC):
    """What limits the weight of a synapse."""

    @abstractmethod
    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """Restricts the weight of ``synapse`` in place, and returns it.

        ``features``: the shape ``[C, *positions]`` of its input, without the batch. Raises `UnsupportedModule` for a
        synapse, `ShapeError` for features and `ConfigError` for weights that cannot be restricted.
        """


@dataclass(frozen=True)
class SpectralNorm(Restriction):
    """See `Spectral`; ``operator`` tells which map of a synapse is meant."""

    to: float
    operator: Callable[[nn.Module, tuple[int, ...]], Operator]

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """See `Restriction.apply`."""
        weight = _weight(synapse)
        return _parametrized(synapse, Spectral(weight, self.operator(synapse, features), self.to))


@dataclass(frozen=True)
class FrobeniusNorm(Restriction):
    """See `Frobenius`."""

    to: float

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """See `Restriction.apply`."""
        require_elements(_weight(synapse))
        return _parametrized(synapse, Frobenius(self.to))


class Unrestricted(Restriction):
    """The weight as it is."""

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """See `Restriction.apply`."""
        return synapse


def _weight(synapse: nn.Module) -> Tensor:
    weights = effective(synapse)
    if "weight" not in weights:
        raise UnsupportedModule(f"{type(synapse).__name__} has no weight to restrict; expected a synapse with one")
    return weights["weight"].detach()


def _parametrized(synapse: nn.Module, restriction: nn.Module) -> nn.Module:
    # unsafe leaves out a trial pass, which would be a power iteration too many
    parametrize.register_parametrization(synapse, "weight", restriction, unsafe=True)
    return synapse


class SpectralOptions(Choice):
    """Options of the restrictions of a spectral norm."""

    to: float = Field(1.0, gt=0, description="the largest spectral norm R of the weight")


class FrobeniusOptions(Choice):
    """Options of the restriction of the Frobenius norm."""

    to: float = Field(2.0, gt=0, description="the largest Frobenius norm R of the weight")


restrictions: Registry[Restriction] = Registry("norm")
restrictions.register(
    "spectral",
    SpectralOptions,
    lambda c: SpectralNorm(c.to, operator_of),
    "a learned spectral norm of at most R, of the synapse as it acts on its input",
)
restrictions.register(
    "reshaped",
    SpectralOptions,
    lambda c: SpectralNorm(c.to, lambda synapse, features: Matrix()),
    "a learned spectral norm of at most R, of the weight as a matrix (the authors'; not the norm of a convolution)",
)
restrictions.register(
    "frobenius",
    FrobeniusOptions,
    lambda c: FrobeniusNorm(c.to),
    "a Frobenius norm of at most R",
)
restrictions.register("none", Choice, lambda c: Unrestricted(), "the weight as it is")

RestrictionChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(restrictions.parse)]
