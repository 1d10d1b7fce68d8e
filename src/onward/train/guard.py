"""What to do about NaN and infinity in a mini-batch, and about a learned optimiser that diverges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from onward.core.errors import Divergence
from onward.train.parts import Parts

MOST_IN_A_ROW = 10
"""Mini-batches left out one after the other before training gives up."""


class Guard(ABC):
    """Stands by every mini-batch; ``tell`` hears what was done, in words."""

    def __init__(self, parts: Parts, tell: Callable[[str], None]):
        self.parts, self.tell = parts, tell

    @abstractmethod
    def before(self) -> None:
        """A mini-batch is about to be learned."""

    @abstractmethod
    def mend(self, error: Divergence) -> bool:
        """Undoes what the mini-batch did; True to learn it again, False to leave it out. Raises ``error`` if neither
        helps."""

    @abstractmethod
    def after(self) -> None:
        """The mini-batch was learned."""


class Stop(Guard):
    """Nothing is mended. Costs nothing."""

    def before(self) -> None:
        """See `Guard.before`."""

    def mend(self, error: Divergence) -> bool:
        """See `Guard.mend`."""
        raise error

    def after(self) -> None:
        """See `Guard.after`."""


class Undoing(Guard):
    """Keeps a copy of all statistics (feedback matrices, running means, subspaces): one pass over them a mini-batch.

    Weights need none: a gradient that is not finite is never applied, nor is an update that diverges.
    """

    def __init__(self, parts: Parts, tell: Callable[[str], None]):
        super().__init__(parts, tell)
        self._kept: list[tuple[Tensor, Tensor]] = []

    def before(self) -> None:
        """See `Guard.before`."""
        buffers = [b for module in self._modules() for b in module.buffers()]
        self._kept = [(buffer, buffer.clone()) for buffer in buffers]

    def _modules(self) -> tuple[nn.Module, ...]:
        return self.parts.net, self.parts.rule, self.parts.trained.transform

    def undo(self, error: Divergence) -> None:
        """As it was before the mini-batch; raises ``error`` where weights are no longer finite."""
        for buffer, kept in self._kept:
            buffer.copy_(kept)
        self.parts.updater.discard()
        if not self.parts.trained.finite():
            raise error


class Skip(Undoing):
    """Leaves the mini-batch out; gives up after `MOST_IN_A_ROW` of them."""

    def __init__(self, parts: Parts, tell: Callable[[str], None]):
        super().__init__(parts, tell)
        self.in_a_row = 0

    def mend(self, error: Divergence) -> bool:
        """See `Guard.mend`."""
        self.undo(error)
        self.in_a_row += 1
        if self.in_a_row > MOST_IN_A_ROW:
            raise error
        self.tell(f"a mini-batch was left out: {error}")
        return False

    def after(self) -> None:
        """See `Guard.after`."""
        self.in_a_row = 0


class FullPrecision(Undoing):
    """Learns the mini-batch, and all after it, with products in full precision."""

    def mend(self, error: Divergence) -> bool:
        """See `Guard.mend`."""
        self.undo(error)
        if self.parts.grads.products is None:
            raise error
        self.parts.grads.products = None
        self.tell(f"products are computed in float32 from here on: {error}")
        return True

    def after(self) -> None:
        """See `Guard.after`."""


GUARDS: dict[str, type[Guard]] = {"stop": Stop, "skip": Skip, "f32": FullPrecision}
