"""Where errors enter a network, and which networks they reach every layer of."""

from __future__ import annotations

from torch import Size

from onward.core.errors import TopologyMismatch
from onward.core.network import Network
from onward.credit.base import Port

OUTPUT = "output"
NOWHERE = Port(OUTPUT, 0, ())
"""The output of a network that is not known yet."""


def output_port(net: Network, sizes: dict[int, Size]) -> Port:
    """The network's output, of which ``sizes`` (as from `shapes`) tell; raises `TopologyMismatch` for maps."""
    if len(sizes[-1]) != 1:
        raise TopologyMismatch(
            f"the network's output has features {list(sizes[-1])}; an online rule needs one number per class: "
            "end the network with nn.Flatten() and a linear readout"
        )
    return Port(OUTPUT, sizes[-1][0], tuple(net.hidden))


def check_paths(net: Network, crosses_spikes: bool) -> None:
    """Raises `TopologyMismatch` for networks whose layers no error of the same step can reach."""
    for node in net.synapses:
        if net.reader(node) is None and not net.exposed(node):
            raise TopologyMismatch(
                f"the drive of {node} passes a delay or another synapse before it reaches a neuron, and an online "
                "rule takes credit from the next neuron of the same step; put the Delay before the synapse, a "
                "neuron between the synapses, or use rule 'bptt'"
            )
    for node in net.hidden if crosses_spikes else []:
        if not net.reaches_output(node):
            raise TopologyMismatch(
                f"every way from {node} to the output passes a delay, and spatial back-propagation stays "
                "within a step; use direct feedback (spatial 'dfa', 'dkp', 'opzo'), or rule 'bptt'"
            )
