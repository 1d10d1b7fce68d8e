"""The subspace of a synapse's inputs that old tasks used: the rows of a lateral matrix H.

P x = H^T H x         what the rows hold of x
G - G H^T H           what a gradient leaves alone of them: (G - G H^T H) x = 0 for x in the span of orthonormal rows
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onward.core.draws import Draws, Gaussian, Key
from onward.core.errors import ShapeError


class Subspace(nn.Module):
    """Up to ``most`` rows H over ``width`` inputs: the first are *held* (fixed), the next are *new* (learned).

    All buffers have their final size from the start, so that a checkpoint of the same configuration fits. ``like``
    gives dtype and device.

    >>> space = Subspace(2, 3, torch.zeros(()))
    >>> space.grow(torch.tensor([[1.0, 0.0, 0.0]]))
    >>> space.merge()
    >>> space.remove_from(torch.ones(1, 3))
    tensor([[0., 1., 1.]])
    """

    rows: Tensor
    momentum: Tensor
    used: Tensor
    fixed: Tensor

    def __init__(self, most: int, width: int, like: Tensor):
        super().__init__()
        self.register_buffer("rows", like.new_zeros(most, width))
        self.register_buffer("momentum", like.new_zeros(most, width))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64, device=like.device))
        self.register_buffer("fixed", torch.zeros((), dtype=torch.int64, device=like.device))

    @property
    def all(self) -> Tensor:
        """All rows in use, held ones first; a view."""
        return self.rows[: int(self.used)]

    @property
    def held(self) -> Tensor:
        """The rows that are fixed; a view."""
        return self.rows[: int(self.fixed)]

    @property
    def new(self) -> Tensor:
        """The rows that learn; a view."""
        return self.rows[int(self.fixed) : int(self.used)]

    @property
    def velocity(self) -> Tensor:
        """The momentum of the rows that learn; a view."""
        return self.momentum[int(self.fixed) : int(self.used)]

    @property
    def free(self) -> int:
        """Directions that no row takes: what is left to learn in."""
        return self.rows.shape[1] - int(self.used)

    def project(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """P x of rows ``x`` ``[..., n]``; onto the held rows unless others are given."""
        h = self.held if onto is None else onto
        return (x @ h.T) @ h

    @torch.no_grad()
    def remove_from(self, gradient: Tensor) -> Tensor:
        """Takes what would act on the held rows out of a gradient ``[out, ...]``, in place; and returns it."""
        if int(self.fixed):
            gradient.sub_(self.project(gradient.flatten(1)).view(gradient.shape))
        return gradient

    @torch.no_grad()
    def grow(self, rows: Tensor) -> None:
        """Adds rows that learn, at rest; raises `ShapeError` where they do not fit."""
        first, most = int(self.used), len(self.rows)
        if first + len(rows) > most or rows.shape[1:] != self.rows.shape[1:]:
            raise ShapeError(
                f"rows of shape {list(rows.shape)} were added to a subspace that has {first} of at most {most} rows of "
                f"{self.rows.shape[1]}; plan for more rows when it is made"
            )
        self.rows[first : first + len(rows)] = rows
        self.momentum[first : first + len(rows)] = 0
        self.used.fill_(first + len(rows))

    def merge(self) -> None:
        """Fixes all rows."""
        self.fixed.copy_(self.used)

    @torch.no_grad()
    def orthonormalise(self) -> None:
        """Makes the new rows orthonormal, and orthogonal to the held ones, without changing the span of all."""
        if len(self.new):
            rest = (self.new - self.project(self.new)).double()
            self.new.copy_(_directed(rest))


@dataclass(frozen=True)
class Protected:
    """A weight whose response to old inputs is to stay."""

    name: str
    weight: nn.Parameter
    subspace: Subspace


def gram_error(h: Tensor) -> float:
    """max abs(H H^T - I): how far rows are from orthonormal."""
    return float((h @ h.T - torch.eye(len(h)).to(h)).abs().max()) if len(h) else 0.0


def orthonormal(count: int, width: int, draws: Draws, key: Key, like: Tensor) -> Tensor:
    """``count`` orthonormal rows ``[count, width]``, uniform over all directions."""
    one = torch.zeros(1, dtype=torch.int64)
    drawn = draws.draw(Gaussian(), key, torch.arange(count), one, (width,), torch.zeros((), dtype=torch.float64))
    return _directed(drawn[:, 0]).to(like)


def _directed(rows: Tensor) -> Tensor:
    """Orthonormal rows of the same span, each along the part of its own that is new."""
    q, r = torch.linalg.qr(rows.T)
    return (q * r.diagonal().sign()).T
