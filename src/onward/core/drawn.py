"""Gradients that are drawn anew in place of being stored: g = sum_i c_i z_i, numbers times directions.

A direction runs over all trainable parameters, in blocks of `BLOCK` elements whose noise is keyed by the parameter's
name, the mini-batch and the block: whoever needs z makes it again, and never holds more than a block of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onward.core.draws import Draws, Key, Law

BLOCK = 2**16
"""Elements of a parameter that are drawn together."""


class Direction(ABC):
    """A vector over all trainable parameters that can be made again, block by block."""

    @abstractmethod
    def block(self, name: str, number: int, values: Tensor) -> Tensor:
        """Its part at block ``number`` of the parameter ``name``; ``values`` ``[n]`` are the parameter's own there."""

    def moved(self, name: str, number: int, values: Tensor, *strengths: float) -> list[Tensor]:
        """values + strength z for each strength, rounded as the parameter is."""
        z = self.block(name, number, values)
        return [torch.add(values, z, alpha=strength).to(values.dtype) for strength in strengths]

    def parameter(self, parameter: nn.Parameter, name: str, strength: float) -> Tensor:
        """parameter + strength z, in a tensor of its own."""
        return assembled(parameter, lambda number, values: self.moved(name, number, values, strength)[0])


@dataclass(frozen=True)
class Ray(Direction):
    """Noise z, mean 0 and variance 1; ``purpose`` tells directions of the same mini-batch apart."""

    draws: Draws
    law: Law
    purpose: str
    sequence: int

    def block(self, name: str, number: int, values: Tensor) -> Tensor:
        """See `Direction.block`; at least float32."""
        key, like = Key(self.purpose, name, self.sequence), values.new_empty(0, dtype=wide(values.dtype))
        at = torch.tensor([number])
        return self.draws.draw(self.law, key, at, torch.zeros_like(at), (len(values),), like).view(-1)


@dataclass(frozen=True)
class Chord(Direction):
    """What two points on a ray really are apart, rounding included: (w(ahead) - w(behind)) / (ahead - behind)."""

    ray: Direction
    ahead: float
    behind: float = 0.0

    def block(self, name: str, number: int, values: Tensor) -> Tensor:
        """See `Direction.block`."""
        ahead, behind = self.ray.moved(name, number, values, self.ahead, self.behind)
        return ahead.to(wide(values.dtype)).sub_(behind).div_(self.ahead - self.behind)


class Term(NamedTuple):
    """A number times a direction."""

    coefficient: float
    direction: Direction


class Drawn:
    """The gradient sum_i c_i z_i of the parameters in ``names``; memory O(1).

    ``told`` are numbers of which every process knows its share; from their sum over all processes, ``weigh`` works
    out the terms. It is called once, and may raise.
    """

    def __init__(self, told: Tensor, weigh: Callable[[Tensor], list[Term]], names: Mapping[nn.Parameter, str]):
        self.told, self.names, self._weigh = told, names, weigh
        self.terms: list[Term] = []

    @classmethod
    def known(cls, terms: list[Term], names: Mapping[nn.Parameter, str]) -> Drawn:
        """A gradient whose terms are known already."""
        drawn = cls(torch.empty(0), lambda _: terms, names)
        drawn.settle()
        return drawn

    def settle(self) -> None:
        """Works out the terms, once ``told`` is the sum over all processes."""
        self.terms = self._weigh(self.told)

    def block(self, parameter: nn.Parameter, number: int, values: Tensor) -> Tensor:
        """The gradient at block ``number`` of a parameter, whose ``values`` there are given."""
        total = torch.zeros(len(values), dtype=wide(values.dtype), device=values.device)
        for coefficient, direction in self.terms:
            total.add_(direction.block(self.names[parameter], number, values), alpha=coefficient)
        return total

    @torch.no_grad()
    def store(self) -> None:
        """Adds the gradient to ``.grad``: as much memory as the parameters take."""
        for parameter in self.names:
            grad = assembled(parameter, partial(self.block, parameter))
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)


Take = Callable[[Drawn], None]
"""Who gets a gradient that is drawn."""


def names_of(net: nn.Module) -> dict[nn.Parameter, str]:
    """The parameters of ``net`` that are not frozen and their names, each once although several layers may share it."""
    return {parameter: name for name, parameter in net.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def descend(gradients: Sequence[Drawn], groups: Iterable[Mapping[str, Any]]) -> None:
    """w <- w - lr (g + weight_decay w), block by block, g the sum of ``gradients``; memory O(1).

    ``groups`` are those of a torch optimiser: ``params``, ``lr`` and ``weight_decay``.
    """
    for group in groups:
        for parameter in group["params"]:
            _descend(parameter, [g for g in gradients if parameter in g.names], group["lr"], group["weight_decay"])


def _descend(parameter: nn.Parameter, gradients: list[Drawn], lr: float, decay: float) -> None:
    flat = parameter.detach().reshape(-1)
    for number, values in enumerate(flat.split(BLOCK) if gradients else ()):
        change = gradients[0].block(parameter, number, values)
        for other in gradients[1:]:
            change.add_(other.block(parameter, number, values))
        values.add_(change.add_(values, alpha=decay), alpha=-lr)
    if flat.data_ptr() != parameter.data_ptr():  # not contiguous, so that the values were a copy
        parameter.copy_(flat.view_as(parameter))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are made in."""
    return torch.promote_types(dtype, torch.float32)


def assembled(parameter: Tensor, block: Callable[[int, Tensor], Tensor]) -> Tensor:
    """A tensor like ``parameter``, made block by block from its values ``[n]``."""
    out = torch.empty(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
    values = parameter.detach().reshape(-1).split(BLOCK)
    for number, (place, here) in enumerate(zip(out.split(BLOCK), values, strict=True)):
        place.copy_(block(number, here))
    return out.view(parameter.shape)
