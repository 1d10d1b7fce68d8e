"""Synapses as the linear maps that they are, and the norms of these maps."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onward.core.errors import ShapeError
from onward.core.interpret import evaluating
from onward.core.synapse import VjpOps, effective


class Map(ABC):
    """A linear map that a weight stands for; ``start`` is an output to begin a power iteration with."""

    start: Tensor

    @abstractmethod
    def __call__(self, weight: Tensor, v: Tensor) -> Tensor:
        """W v."""

    @abstractmethod
    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        """W^T u."""

    def iterate(self, weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """One power iteration: v = W^T u and u = W v, of length 1."""
        v = _unit(self.adjoint(weight, u))
        return _unit(self(weight, v)), v


class Reshaped(Map):
    """The matrix ``[dim 0, rest]``, whatever the synapse does with it: the published choice.

    For a convolution it is not the norm of the operator, which can be larger by the root of the kernel's size.
    """

    def __init__(self, weight: Tensor):
        self.start = _noise(weight, len(weight))

    def __call__(self, weight: Tensor, v: Tensor) -> Tensor:
        """See `Map.__call__`."""
        return weight.flatten(1) @ v

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        """See `Map.adjoint`."""
        return u @ weight.flatten(1)


class Operator(Map):
    """What the synapse does to one sample of shape ``features``: geometry, strides and padding included.

    Raises `ShapeError` where the synapse cannot read such a sample.
    """

    def __init__(self, synapse: nn.Module, weight: Tensor, features: tuple[int, ...]):
        self._synapse, self._ops = synapse, VjpOps()
        self._like = torch.zeros(1, *features, dtype=weight.dtype, device=weight.device)
        self._others = {
            name: torch.zeros_like(p) for name, p in synapse.named_parameters(recurse=False) if name == "bias"
        }
        try:
            self.start = _noise(weight, *self(weight, self._like).shape)
        except RuntimeError as error:
            raise ShapeError(
                f"{type(synapse).__name__} with weights {list(weight.shape)} cannot read features {list(features)} "
                f"({error})"
            ) from None

    def __call__(self, weight: Tensor, v: Tensor) -> Tensor:
        """See `Map.__call__`."""
        return self._ops.apply(self._synapse, self._params(weight), v)

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        """See `Map.adjoint`."""
        like = self._like.to(weight)
        return self._ops.transpose(self._synapse, self._params(weight), u, like)

    def _params(self, weight: Tensor) -> dict[str, Tensor]:
        return {"weight": weight, **{name: zero.to(weight) for name, zero in self._others.items()}}


@torch.no_grad()
def operator_norm(synapse: nn.Module, features: tuple[int, ...], tolerance: float = 1e-4, most: int = 200) -> float:
    """The largest factor by which ``synapse`` (its bias left out) lengthens an input of shape ``features``.

    By power iteration, until the norm moves by less than ``tolerance`` of itself; costs two products an iteration.

    >>> layer = nn.Linear(3, 3)
    >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0, 0.5])))
    >>> round(operator_norm(layer, (3,)), 2)
    2.0
    """
    with evaluating(synapse):
        weight = effective(synapse)["weight"].detach()
    operator, norm = Operator(synapse, weight, features), 0.0
    u = operator.start
    for _ in range(most):
        v = _unit(operator.adjoint(weight, u))
        u = operator(weight, v)
        found = float(u.norm())
        if abs(found - norm) <= tolerance * found:
            return found
        norm = found
    return norm


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.flatten(), dim=0).view_as(x)


def _noise(like: Tensor, *shape: int) -> Tensor:
    """A unit vector that is the same in every process, drawn apart from torch's own generator."""
    drawn = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return _unit(drawn.to(like))
