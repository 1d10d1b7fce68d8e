"""What is remembered of the update before: the gradient estimate, and the weights that it was made at.

Two numbers a parameter. What has become of the weights since then is the last update, whatever optimiser made it.
Mini-batches that are under way see what was remembered when they began: where several of them come before one update,
each but the first to settle gets a copy of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor, nn

from onward.core.drawn import BLOCK, Direction, Drawn, Term

Names = Mapping[nn.Parameter, str]
"""Parameters that learn, and what they are called."""


class View:
    """What is remembered, as it was at some moment; tensors ``[P]`` of all parameters, which start at ``places``."""

    def __init__(self, estimate: Tensor, weights: Tensor, places: Mapping[str, int]):
        self.estimate, self.weights, self.places = estimate, weights, places

    def at(self, name: str, number: int, count: int) -> slice:
        """Where block ``number`` of a parameter lies, of ``count`` elements."""
        start = self.places[name] + number * BLOCK
        return slice(start, start + count)

    def guides(self, name: str, number: int, values: Tensor) -> Tensor:
        """The last estimate and the last update ``[2, n]`` of a block, whose ``values`` now are given."""
        here = self.at(name, number, len(values))
        return torch.stack([self.estimate[here], values.to(self.weights) - self.weights[here]])

    def keep(self) -> None:
        """Makes copies, so that what is remembered may change."""
        self.estimate, self.weights = self.estimate.clone(), self.weights.clone()


@dataclass(frozen=True)
class Estimate(Direction):
    """The gradient estimate that is remembered: a direction that was summed already."""

    view: View

    def block(self, name: str, number: int, values: Tensor) -> Tensor:
        """See `Direction.block`."""
        return self.view.estimate[self.view.at(name, number, len(values))]


class Recall(nn.Module):
    """Remembers an estimate and the weights that it was made at; an estimate of 0 at the start.

    In the dtype of the weights, float32 at least.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> recall = Recall({net.weight: "weight"})
    >>> recall.view().guides("weight", 0, net.weight.detach()[0] + 1)
    tensor([[0., 0.],
            [1., 1.]])
    """

    estimate: Tensor
    weights: Tensor

    def __init__(self, names: Names):
        super().__init__()
        flat = [parameter.detach().flatten() for parameter in names]
        device = flat[0].device if flat else None
        weights = torch.cat([torch.empty(0, device=device), *flat])
        self.register_buffer("weights", weights)
        self.register_buffer("estimate", torch.zeros_like(weights))
        starts = torch.tensor([0, *map(len, flat)]).cumsum(0).tolist()
        self.places = dict(zip(names.values(), starts, strict=False))
        self._views: WeakSet[View] = WeakSet()

    def view(self) -> View:
        """What is remembered now, whatever comes after."""
        view = View(self.estimate, self.weights, self.places)
        self._views.add(view)
        return view

    @torch.no_grad()
    def take(self, view: View, gradient: list[Term], names: Names) -> Term:
        """Remembers ``gradient``, whose directions look at ``view``, in its place; the same gradient, summed.

        Block by block, in place; parameters that do not learn any more are forgotten.
        """
        for other in set(self._views) - {view}:
            other.keep()
        drawn = Drawn.known(gradient, names)
        for parameter, number, values in blocks_of(names):
            here = view.at(names[parameter], number, len(values))
            self.estimate[here] = drawn.block(parameter, number, values)
            self.weights[here] = values.to(self.weights)
        return Term(1.0, Estimate(self.view()))


def blocks_of(names: Names) -> Iterator[tuple[nn.Parameter, int, Tensor]]:
    """Every block of every parameter, and its values."""
    for parameter in names:
        for number, values in enumerate(parameter.detach().reshape(-1).split(BLOCK)):
            yield parameter, number, values


def products(view: View, ray: Direction, names: Names) -> Tensor:
    """The inner products ``[3, 3]`` of last estimate, last update and ``ray``, in float64; memory of a few blocks."""
    total: Tensor | float = 0.0
    for parameter, number, values in blocks_of(names):
        guides = view.guides(names[parameter], number, values)
        rows = torch.cat([guides, ray.block(names[parameter], number, values)[None]]).double()
        total = total + rows @ rows.T
    return total if isinstance(total, Tensor) else torch.zeros(3, 3, dtype=torch.float64)
