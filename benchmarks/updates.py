"""An update that is learned again and again: what benchmarks of time and memory take turns with."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from benchmarks.peers.protocol import peak_bytes
from onward.train import Parts

MIB = 2**20


@dataclass
class Update:
    """The first mini-batch of ``parts``, learned by the rule called ``label``."""

    label: str
    parts: Parts
    seconds: list[float] = field(default_factory=list)

    def learn(self) -> None:
        """Gradients, and no step of the optimiser."""
        self.parts.run(self.parts.loader.batch((0, 0)), 0)
        self.parts.sink.flush()
        self.parts.net.zero_grad(set_to_none=True)

    def turn(self) -> None:
        """A timed update."""
        begun = perf_counter()
        self.learn()
        self.seconds.append(perf_counter() - begun)

    def peak(self) -> float:
        """MiB that an update holds at most beyond what was held before; another one, which sets up, comes first."""
        self.learn()
        return peak_bytes(self.learn) / MIB

    @property
    def milliseconds(self) -> float:
        """The median of its turns."""
        return 1000 * median(self.seconds)


def take_turns(updates: list[Update], turns: int) -> None:
    """All of them, one after the other, ``turns`` times: a busy spell of the machine hits all alike."""
    for _ in range(turns):
        for update in updates:
            update.turn()
