"""Where the synapses of a layer read, as lists that all kinds of layers share.

A synapse is a set of *taps*, each of which reads one place of the input for every position of the output: a linear
layer has one tap and one position, a 3 x 3 convolution nine taps.

Seen from the input, place q is read by tap k for one position, or for none. On a *grid* with room for what lies
beyond the border, that position is a fixed number of cells away:

    home of the position = cell of q + shift of k
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor

from onward.kernels.convolve import Geometry


@dataclass(frozen=True)
class Taps:
    """``table`` ``[positions, taps]``: the place that a tap reads for a position, -1 beyond the border.

    On the grid of ``total`` cells: ``cells`` ``[places]``, ``homes`` ``[positions]`` (-1 where no tap reads anything),
    ``shifts`` ``[taps]``.
    """

    table: Tensor
    cells: Tensor
    homes: Tensor
    shifts: Tensor
    total: int

    @property
    def places(self) -> int:
        """Places of the input map."""
        return len(self.cells)

    @property
    def positions(self) -> int:
        """Places of the output map."""
        return len(self.homes)


_ONE = torch.zeros(1, dtype=torch.int32)
LINEAR = Taps(_ONE[None], _ONE, _ONE, _ONE, 1)
"""One tap that reads the only place."""


@cache
def conv_taps(size: tuple[int, ...], kernel: tuple[int, ...], geometry: Geometry) -> Taps:
    """The taps of a convolution without groups over a map of ``size``."""
    axes, out = geometry.axes(size, kernel), geometry.size_after(size, kernel)
    starts = [torch.arange(m) * s - p for m, (_, _, s, p, _) in zip(out, axes, strict=True)]
    steps = [torch.arange(k) * d for _, k, _, _, d in axes]
    reach = [int(step[-1]) for step in steps]
    grid = tuple(n + r for n, r in zip(size, reach, strict=True))
    return Taps(
        table=_table([a[:, None] + b for a, b in zip(starts, steps, strict=True)], size),
        cells=_flat([torch.arange(n) for n in size], grid),
        homes=_flat([start + r for start, r in zip(starts, reach, strict=True)], grid),
        shifts=_flat([r - step for step, r in zip(steps, reach, strict=True)], grid),
        total=prod(grid),
    )


@cache
def adjoint_taps(size: tuple[int, ...], kernel: tuple[int, ...], geometry: Geometry) -> Taps:
    """The same for its adjoint, which reads places of the output for every position of a map of ``size``."""
    axes, out = geometry.axes(size, kernel), tuple(geometry.size_after(size, kernel))
    steps = [torch.arange(k) * d for _, k, _, _, d in axes]
    ahead = [torch.arange(n)[:, None] + p - step for (n, _, _, p, _), step in zip(axes, steps, strict=True)]
    starts = [torch.arange(m) * s for m, (_, _, s, _, _) in zip(out, axes, strict=True)]
    grid = tuple(max(n + p, int(a[-1] + b[-1]) + 1) for (n, _, _, p, _), a, b in zip(axes, starts, steps, strict=True))
    return Taps(
        table=_table(
            [torch.where(a % s == 0, a // s, -1) for a, (_, _, s, _, _) in zip(ahead, axes, strict=True)], out
        ),
        cells=_flat(starts, grid),
        homes=_flat([torch.arange(n) + p for n, _, _, p, _ in axes], grid),
        shifts=_flat(steps, grid),
        total=prod(grid),
    )


def _table(reads: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """``[positions, taps]`` from what is read along each axis ``[positions, taps]`` of a map of ``size``."""
    pairs = [n for read in reads for n in read.shape]  # positions_0, taps_0, positions_1, taps_1, ...
    order = [*range(0, len(pairs), 2), *range(1, len(pairs), 2)]
    flat = _flat([read.flatten() for read in reads], size).view(pairs).permute(order)
    return flat.reshape(prod(pairs[::2]), prod(pairs[1::2])).contiguous()


def _flat(coordinates: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """All combinations of an axis's ``coordinates`` each, as indices into a map of ``size``; -1 outside of it."""
    flat, inside = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    for at, n in zip(coordinates, size, strict=True):
        flat = (flat[:, None] * n + at).flatten()
        inside = (inside[:, None] & (at >= 0) & (at < n)).flatten()
    return torch.where(inside, flat, -1).to(torch.int32)
