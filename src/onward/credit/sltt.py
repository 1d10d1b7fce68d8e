"""Spatial learning through time (Meng et al. 2023): the current input alone, dW[t] = delta[t] s[t]^T.

OTTT with a trace decay of 0. No extra state; T spatial backward passes.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator

from torch import Tensor

from onward.core.graph import Node
from onward.core.network import Network
from onward.core.registry import Choice
from onward.core.signal import Carry, Context
from onward.core.trace import Presynaptic
from onward.credit.base import Temporal, temporals
from onward.kernels.rows import SparseRows


class Instantaneous(Temporal, ABC):
    """No memory: the presynaptic factor is the current input."""

    def pre(self, net: Network, node: Node, x: Tensor | SparseRows, carry: Carry, more: bool) -> Presynaptic:
        """The input itself."""
        return x

    def bias_gain(self, net: Network, node: Node, start: int, steps: int) -> list[float] | None:
        """Nothing replaces it."""
        return None

    def toward_output(self, net: Network, node: Node, x: Tensor, carry: Carry) -> Presynaptic:
        """The spikes themselves."""
        return x

    def traces(self, net: Network, node: Node) -> bool:
        """No."""
        return False


class SLTT(Instantaneous):
    """Instantaneous credit at every step."""

    def runs(self, start: int, stop: int, context: Context) -> Iterator[tuple[int, int, bool]]:
        """All steps take part."""
        yield start, stop, True

    def gain(self, steps: int) -> float:
        """1."""
        return 1.0


temporals.register(
    "sltt",
    Choice,
    lambda choice: SLTT(),
    "instantaneous: the current input, no trace",
    facts={"paper": "Meng et al. 2023", "published": "equations and code", "inferred": "none"},
)
