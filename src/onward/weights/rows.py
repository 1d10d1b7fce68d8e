"""A weight as a matrix with one row for every output channel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from onward.core.errors import UnsupportedModule
from onward.weights.operator import CONVOLUTIONS


class Rows(ABC):
    """How the weight of a synapse becomes a matrix ``[C, n]``, C its output channels and n the fan-in, and back."""

    @abstractmethod
    def of(self, weight: Tensor) -> Tensor:
        """The matrix."""

    @abstractmethod
    def back(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The weight of that ``shape`` whose matrix is ``rows``."""


@dataclass(frozen=True)
class Leading(Rows):
    """Output channels are the first dimension: nn.Linear and nn.Conv*, in any number of groups."""

    def of(self, weight: Tensor) -> Tensor:
        """See `Rows.of`."""
        return weight.flatten(1)

    def back(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See `Rows.back`."""
        return rows.reshape(shape)


@dataclass(frozen=True)
class Transposed(Rows):
    """Output channels are the second dimension, of each group of inputs for itself: nn.ConvTranspose*."""

    groups: int = 1

    def of(self, weight: Tensor) -> Tensor:
        """See `Rows.of`."""
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(2).flatten(0, 1)

    def back(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See `Rows.back`."""
        inputs, outputs, *kernel = shape
        apart = rows.reshape(self.groups, outputs, inputs // self.groups, *kernel)
        return apart.transpose(1, 2).reshape(shape)


def rows_of(module: nn.Module) -> Rows:
    """The rows of a linear layer or a convolution; raises `UnsupportedModule` for any other module.

    >>> rows_of(nn.Linear(3, 2)), rows_of(nn.ConvTranspose2d(4, 6, 3, groups=2))
    (Leading(), Transposed(groups=2))
    """
    known: Any = module
    if isinstance(module, _ConvTransposeNd):
        return Transposed(known.groups)
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        return Leading()
    raise UnsupportedModule(
        f"{parametrize.type_before_parametrizations(module).__name__} has no weight with output channels that are "
        "known here; expected nn.Linear, nn.Conv* or nn.ConvTranspose*"
    )
