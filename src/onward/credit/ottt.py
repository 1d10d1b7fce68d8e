"""Online training through time (Xiao et al. 2022): an eligibility trace of the presynaptic spikes.

    a[t] = lam a[t-1] + s[t],    dW[t] = delta[t] a[t]^T

*exact*: lam is the receiving neuron's leak; inputs and biases are traced too, and a memoryless readout is not. Equal
to BPTT with a detached soft reset for the last hidden layer and the readout, for any T.
*reference* does what the authors' code does: lam is the sending neuron's leak; the first layer uses the current
input, the readout a trace, the bias none. Memory O(n) a sample, independent of T.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from pydantic import Field
from torch import Tensor

from onward.core.graph import Node
from onward.core.network import Network
from onward.core.registry import Choice
from onward.core.signal import Carry, Context
from onward.core.trace import Presynaptic, ones_trace, trace
from onward.credit.base import Fidelity, Temporal, temporals
from onward.kernels.rows import SparseRows


def neuron_decay(node: Node | None) -> float:
    """The leak of a neuron; 0 where there is none."""
    module: Any = None if node is None else node.module
    return 0.0 if module is None else module.decay


class Eligibility(ABC):
    """Which memory a presynaptic factor decays with."""

    @abstractmethod
    def weight(self, net: Network, node: Node) -> float:
        """The decay of a synapse's trace."""

    @abstractmethod
    def bias(self, net: Network, node: Node) -> float:
        """The decay of the bias's trace."""

    @abstractmethod
    def toward_output(self, net: Network, node: Node) -> float:
        """The decay of a neuron's trace for a connection straight to the output."""


class Exact(Eligibility):
    """The receiving membrane's leak, for weights and biases alike."""

    def weight(self, net: Network, node: Node) -> float:
        """See `Eligibility.weight`."""
        return neuron_decay(net.reader(node))

    def bias(self, net: Network, node: Node) -> float:
        """See `Eligibility.bias`."""
        return neuron_decay(net.reader(node))

    def toward_output(self, net: Network, node: Node) -> float:
        """See `Eligibility.toward_output`: the memory of the readout."""
        return self.weight(net, net.synapses[-1])


class Reference(Eligibility):
    """The sending neuron's leak; none for the network's input, none for biases."""

    def weight(self, net: Network, node: Node) -> float:
        """See `Eligibility.weight`."""
        return neuron_decay(net.sender(node))

    def bias(self, net: Network, node: Node) -> float:
        """See `Eligibility.bias`."""
        return 0.0

    def toward_output(self, net: Network, node: Node) -> float:
        """See `Eligibility.toward_output`."""
        return neuron_decay(node)


class OTTT(Temporal):
    """Traces; see the module's docstring."""

    def __init__(self, eligibility: Eligibility):
        self.eligibility = eligibility

    def runs(self, start: int, stop: int, context: Context) -> Iterator[tuple[int, int, bool]]:
        """All steps take part."""
        yield start, stop, True

    def gain(self, steps: int) -> float:
        """1."""
        return 1.0

    def pre(self, net: Network, node: Node, x: Tensor | SparseRows, carry: Carry, more: bool) -> Presynaptic:
        """See `Temporal.pre`."""
        return trace(x, self.eligibility.weight(net, node), carry, f"synapse {node.index}", more)

    def bias_gain(self, net: Network, node: Node, start: int, steps: int) -> list[float] | None:
        """See `Temporal.bias_gain`."""
        decay = self.eligibility.bias(net, node)
        return ones_trace(start, start + steps, decay) if decay else None

    def toward_output(self, net: Network, node: Node, x: Tensor, carry: Carry) -> Presynaptic:
        """See `Temporal.toward_output`."""
        return trace(x, self.eligibility.toward_output(net, node), carry, f"neuron {node.index}")

    def traces(self, net: Network, node: Node) -> bool:
        """See `Temporal.traces`."""
        return self.eligibility.weight(net, node) != 0


class OTTTOptions(Choice):
    """Options of OTTT's temporal credit."""

    fidelity: Fidelity = Field("exact", description="exact: the mathematics; reference: what the authors' code does")


_ELIGIBILITY: dict[str, Eligibility] = {"exact": Exact(), "reference": Reference()}
temporals.register(
    "ottt",
    OTTTOptions,
    lambda choice: OTTT(_ELIGIBILITY[choice.fidelity]),
    "eligibility trace of presynaptic spikes, decaying with the membrane",
    facts={"paper": "Xiao et al. 2022", "published": "equations and code", "inferred": "none"},
)
