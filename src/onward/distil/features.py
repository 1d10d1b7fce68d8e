"""Hidden layers that learn what a teacher's do: the mean activity of one against that of the other.

    L_l = (w / sites) mean_i (A m_l - g_l)_i^2,     m_l = (1/T) sum_t s_l[t]

g_l are the teacher's mean activations: a rectifier's, or a spiking layer's rates. A is a learned matrix over channels,
the same at every position, where the teacher has another number of them or always; else the identity. w is a weight,
and sites are the layers that are matched. The formula is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Size, Tensor, nn

from onward.core.draws import Draws, Gaussian, Key
from onward.core.errors import ShapeError
from onward.core.graph import Node
from onward.core.inner import Inner
from onward.core.interpret import Record, shapes
from onward.core.network import Network
from onward.core.sequence import Sequence
from onward.core.sink import Sink

Which = Literal["penultimate", "stages"]
Mapped = Literal["needed", "always"]


@dataclass(frozen=True)
class Site:
    """A layer of the student, the teacher's that it is matched with (node indices), and what the latter sends."""

    own: int
    other: int
    shape: tuple[int, ...]


class Maps(nn.Module):
    """The learned matrices A ``[C', C]``, by node index of the student's layer; identities have none."""

    def __init__(self, matrices: Mapping[int, Tensor]):
        super().__init__()
        self.matrices = nn.ParameterDict({str(site): nn.Parameter(matrix) for site, matrix in matrices.items()})

    def of(self, site: int) -> nn.Parameter | None:
        """The matrix of a layer; None for the identity."""
        return self.matrices.get(str(site))


class Matching(Inner):
    """The loss of a mini-batch, whose teacher's activations are ``targets`` ``[B, *features]`` by node index.

    >>> loss = Matching({3: torch.ones(1, 4)}, Maps({}), weight=2.0)
    >>> loss.loss(3, torch.zeros(1, 4)).tolist(), loss.gradient(3, torch.zeros(1, 4)).tolist()
    ([2.0], [[-1.0, -1.0, -1.0, -1.0]])
    """

    def __init__(self, targets: Mapping[int, Tensor], maps: Maps, weight: float):
        self.sites, self._targets, self._maps, self._share = tuple(targets), targets, maps, weight / len(targets)

    def loss(self, site: int, mean: Tensor) -> Tensor:
        """See `Inner.loss`."""
        return self._share * self._miss(site, mean).square().flatten(-2).mean(-1)

    def gradient(self, site: int, mean: Tensor) -> Tensor:
        """See `Inner.gradient`: (2 w / n) A^T (A m - g)."""
        miss, matrix = self._scaled_miss(site, mean), self._maps.of(site)
        return (miss if matrix is None else matrix.detach().to(miss).T @ miss).reshape(mean.shape)

    def fit(self, site: int, mean: Tensor, samples: int, sink: Sink) -> None:
        """See `Inner.fit`: (2 w / n) (A m - g) m^T."""
        matrix = self._maps.of(site)
        if matrix is not None:
            grad = torch.einsum("bop,bip->oi", self._scaled_miss(site, mean), self._channels(site, mean))
            sink.add(matrix, grad / samples)

    def _scaled_miss(self, site: int, mean: Tensor) -> Tensor:
        return self._miss(site, mean) * (2 * self._share / self._targets[site][0].numel())

    def _miss(self, site: int, mean: Tensor) -> Tensor:
        """A m - g, ``[..., B, C', positions]``."""
        x, matrix = self._channels(site, mean), self._maps.of(site)
        mapped = x if matrix is None else matrix.detach().to(x) @ x
        return mapped - self._channels(site, self._targets[site].to(x))

    def _channels(self, site: int, x: Tensor) -> Tensor:
        """``[..., B, C, *positions]`` as ``[..., B, C, P]``."""
        lead = x.dim() - self._targets[site].dim() + 1
        return x.reshape(*x.shape[:lead], x.shape[lead], -1)


@dataclass(frozen=True)
class Features:
    """Which layers are matched, what that weighs, and where matrices are learned."""

    which: Which = "penultimate"
    weight: float = 1.0
    mapped: Mapped = "needed"

    def pair(self, student: Network, teacher: Network, sample: Sequence, draws: Draws) -> tuple[list[Site], Maps]:
        """What is matched with what; raises `ShapeError` where layers cannot be paired."""
        own, others = (_named(net, self.which, sample, draws) for net in (student, teacher))
        if not own or len(own) != len(others):
            raise ShapeError(
                f"the teacher has {len(others)} {_WORDS[self.which]} and this network {len(own)}; expected as many: "
                "choose a teacher of the same --model, or --distil.features penultimate for networks with hidden layers"
            )
        sites, matrices = list[Site](), dict[int, Tensor]()
        for (node, shape), (other, target) in zip(own, others, strict=True):
            if len(shape) != len(target) or shape[1:] != target[1:]:
                raise ShapeError(
                    f"the teacher's layer {other.name} sends {list(target)} and {node.name} of this network "
                    f"{list(shape)}; expected the same sizes but for the number of channels, which comes first"
                )
            sites.append(Site(node.index, other.index, tuple(target)))
            if self.mapped == "always" or shape != target:
                matrices[node.index] = _start(node, target[0], shape[0], draws).to(next(student.parameters()))
        return sites, Maps(matrices)


class Listener:
    """Adds up what the teacher's layers send, chunk by chunk."""

    def __init__(self, sites: list[Site]):
        self._sites, self._sums = sites, dict[int, Tensor]()

    def __call__(self, record: Record) -> None:
        """Takes in a chunk."""
        for site in self._sites:
            sent = record.firings[site.other].out.sum(0)
            self._sums[site.own] = self._sums[site.own] + sent if site.own in self._sums else sent

    def means(self, steps: int) -> dict[int, Tensor]:
        """Mean activations ``[B, *features]``, by node index of the student's layer."""
        return {own: total / steps for own, total in self._sums.items()}


_WORDS = {"penultimate": "hidden layers in front of its readout", "stages": "stages"}


def _named(net: Network, which: Which, sample: Sequence, draws: Draws) -> list[tuple[Node, Size]]:
    """The layers in question, and what each sends: the last of all, or the last of every shape in a row."""
    sizes, hidden = shapes(net, sample, draws), net.hidden
    if which == "penultimate":
        return [(node, sizes[node.index]) for node in hidden[-1:]]
    ends = [n for n, after in pairwise(hidden) if sizes[n.index] != sizes[after.index]]
    return [(node, sizes[node.index]) for node in (*ends, *hidden[-1:])]


def _start(node: Node, rows: int, columns: int, draws: Draws) -> Tensor:
    """The identity where a matrix is square, else normal with variance 1 / columns."""
    if rows == columns:
        return torch.eye(rows)
    key, one = Key("feature map", node.name, 0), torch.zeros(1, dtype=torch.int64)
    return draws.draw(Gaussian(), key, one, torch.arange(rows), (columns,), torch.zeros(()))[0] / sqrt(columns)
