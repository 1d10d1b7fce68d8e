"""Spatial back-propagation within each step: g^l[t] = (W^{l+1})^T delta^{l+1}[t].

Needs the transposed weights and layers in sequence; with OTTT's trace it is OTTT, with none it is SLTT. Memory
O(n) a sample and step of the chunk.
"""

from __future__ import annotations

from torch import Size

from onward.core.draws import Draws
from onward.core.interpret import Record
from onward.core.network import Network
from onward.core.registry import Choice
from onward.credit.base import Credit, Head, Port, Quiet, spatials


class BackPropagation(Quiet):
    """Errors cross spikes backwards, through surrogate slopes and transposed weights."""

    crosses_spikes = True
    weight_transport = True

    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """Nothing to keep."""

    def credit(self, record: Record, head: Head) -> dict[int, Credit]:
        """The graph brings everything."""
        return {}


spatials.register(
    "bp",
    Choice,
    lambda choice: BackPropagation(),
    "back-propagation within each step",
    facts={
        "paper": "Xiao et al. 2022; Meng et al. 2023",
        "published": "equations and code",
        "inferred": "none",
    },
)
