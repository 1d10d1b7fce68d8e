"""Where an estimator in the space of weights should look: directions that are learned, or follow earlier steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onward.core.errors import ConfigError
from onward.optim.cell import Coordinatewise
from onward.optim.features import State

PENALTY = 0.005
DEPENDENT = 1e-3


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
        return scaled(1 + out, len(out)), self.penalty * out.square().sum()


def scaled(spread: Tensor, count: int) -> Tensor:
    """``spread`` with the norm of ``count`` ones."""
    return spread * (count**0.5 / spread.norm())


@dataclass(frozen=True)
class Guided:
    """sqrt(alpha) e + sqrt(1 - alpha) Q e', rescaled to the norm of e (Maheswaranathan et al. 2019; Ruan et al. 2020).

    The columns of Q are an orthonormal basis of earlier estimates and updates; ``alpha`` 1 ignores them. Of k of them
    in P dimensions, Q takes the share (1 - alpha) k / (alpha P + (1 - alpha) k) of the squared length. Time O(P k).

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
        rows = torch.cat([guides, normal[None]])
        wide = rows.double()
        return self.factors(wide @ wide.T, inside.double()).to(rows) @ rows

    def factors(self, products: Tensor, inside: Tensor) -> Tensor:
        """What guides and, last, normal numbers are multiplied by ``[k + 1]``; of them, ``products`` ``[k + 1, k + 1]``
        are the inner products.
        """
        basis, factors = orthonormal(products[:-1, :-1]), products.new_zeros(len(products))
        factors[-1] = 1
        if not len(basis):
            return factors
        factors[-1] = self.alpha**0.5
        factors[:-1] = (1 - self.alpha) ** 0.5 * (inside[: len(basis)] @ basis)
        return factors * (products[-1, -1] / (factors @ products @ factors)).sqrt()


def orthonormal(products: Tensor) -> Tensor:
    """Coefficients ``[r, k]`` of an orthonormal basis in vectors whose inner products ``[k, k]`` are given.

    Vectors that depend on those before them, but for a thousandth of their length, are left out: that is rounding.

    >>> orthonormal(torch.tensor([[4.0, 8.0], [8.0, 16.0]])).tolist()
    [[0.5, 0.0]]
    """
    basis = products.new_empty(0, len(products))
    for own in torch.eye(len(products)).to(products):
        rest = own
        for _ in range(2):  # once more, against rounding
            rest = rest - (basis @ products @ rest) @ basis
        square = rest @ products @ rest
        if square > DEPENDENT**2 * (own @ products @ own):
            basis = torch.cat([basis, (rest / square.sqrt())[None]])
    return basis
