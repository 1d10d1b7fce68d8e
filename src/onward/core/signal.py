"""What travels between nodes, and what survives from one chunk of time to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from onward.core.draws import Draws
from onward.core.neuron import State


class Signal(NamedTuple):
    """``sent`` is what downstream sees; ``clean`` the same without injected noise, for traces and deposits.

    Both ``[K, B, ...]``; without noise they are the same object and nothing is paid.
    """

    sent: Tensor
    clean: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Signal:
        """``f`` on both, once if they are the same."""
        sent = f(self.sent)
        return Signal(sent, sent if self.clean is self.sent else f(self.clean))

    def plus(self, other: Signal) -> Signal:
        """The sum of two signals."""
        sent = self.sent + other.sent
        noiseless = self.clean is self.sent and other.clean is other.sent
        return Signal(sent, sent if noiseless else self.clean + other.clean)


@dataclass
class Carry:
    """Everything that lives as long as one sequence; memory O(1) in its length.

    ``states`` membranes by neuron; ``delays`` what waits in delay lines; ``masks`` dropout masks;
    ``traces`` eligibility traces, ``sums`` running sums, ``queues`` late errors by owner; ``step`` the next time step.
    """

    states: dict[int, State] = field(default_factory=dict)
    delays: dict[int, Signal] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)
    traces: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    queues: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def copy(self) -> Carry:
        """A branch: whatever replaces an entry in one of the two leaves the other alone."""
        return Carry(
            dict(self.states),
            dict(self.delays),
            dict(self.masks),
            dict(self.traces),
            dict(self.sums),
            dict(self.queues),
            self.step,
        )


@dataclass(frozen=True)
class Context:
    """What a mini-batch is called: its draws are keyed by ``sequence`` (a counter) and ``ids`` ``[B]``.

    ``steps`` is T, the length of the sequence; ``samples`` the size of the whole batch, over all processes;
    ``watch`` sees the record of every chunk.
    """

    draws: Draws
    ids: Tensor
    sequence: int
    steps: int
    samples: int
    watch: Callable[[Any], None] | None = None
