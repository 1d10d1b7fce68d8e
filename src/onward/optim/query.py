"""Where an estimator in the space of weights should look: directions that are learned, or follow earlier steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onward.core.errors import ConfigError
from onward.optim.cell import Coordinatewise
from onward.optim.features import State

PENALTY = 0.005


class QueryRNN(nn.Module):
    """A second coordinatewise LSTM proposes the standard deviation of each coordinate's direction (Ruan et al. 2020).

        s = 1 + out(last estimate, last update);   std = s sqrt(P) / norm(s);   direction = abs(std) normal

    All coordinates of the network together are one call. Time and memory O(P hidden^2).

    >>> query, zeros = QueryRNN(), torch.zeros(4)
    >>> std, penalty = query(zeros, zeros, query.rest(zeros))
    >>> [round(value, 6) for value in std.tolist()], penalty.item()
    ([1.0, 1.0, 1.0, 1.0], 0.0)
    """

    def __init__(self, hidden: int = 10, penalty: float = PENALTY):
        super().__init__()
        self.core, self.penalty = Coordinatewise(2, hidden), penalty

    def rest(self, like: Tensor) -> State:
        """The states of coordinates such as ``like`` ``[P]`` at the start."""
        return self.core.rest(like)

    def forward(self, estimate: Tensor, update: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """``(std [P], penalty)`` after the last gradient ``estimate`` and ``update`` ``[P]``; replaces the states.

        ``penalty`` sum out^2, what a meta-objective adds at every step, is a number.
        """
        out, state["h"], state["c"] = self.core(torch.stack([estimate, update], dim=1), state["h"], state["c"])
        spread = 1 + out
        return spread * (len(out) ** 0.5 / spread.norm()), self.penalty * out.square().sum()


@dataclass(frozen=True)
class Guided:
    """sqrt(alpha) e + sqrt(1 - alpha) Q e', rescaled to the norm of e (Maheswaranathan et al. 2019).

    The columns of Q are an orthonormal basis of earlier estimates and updates; ``alpha`` 1 ignores them. Time O(P k).

    >>> guide = torch.tensor([[2.0, 0.0, 0.0]])
    >>> Guided(alpha=0.0)(torch.tensor([3.0, 0.0, 4.0]), torch.tensor([-1.0]), guide)
    tensor([-5.,  0.,  0.])
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha = {self.alpha} was given for guided directions; expected 0 to 1")

    def __call__(self, normal: Tensor, inside: Tensor, guides: Tensor) -> Tensor:
        """A direction ``[P]`` from normal numbers ``normal`` ``[P]`` and ``inside`` ``[k]``; ``guides`` are ``[k, P]``.

        Guides that are 0, or depend on those before them, span nothing; where all are 0, ``normal`` is the direction.
        """
        basis = orthonormal(guides)
        if not len(basis):
            return normal
        along = inside[: len(basis)] @ basis
        mixed = self.alpha**0.5 * normal + (1 - self.alpha) ** 0.5 * along
        return mixed * (normal.norm() / mixed.norm())


def orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis ``[r, P]`` of what ``rows`` ``[k, P]`` span; rows that depend on others are left out."""
    basis = rows.new_empty(0, rows.shape[1])
    for row in rows:
        rest = row
        for _ in range(2):  # once more, against rounding
            rest = rest - (basis @ rest) @ basis
        if rest.norm() > 1e-6 * row.norm():
            basis = torch.cat([basis, (rest / rest.norm())[None]])
    return basis
