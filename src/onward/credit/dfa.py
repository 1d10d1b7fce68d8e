"""Direct feedback: g^l[t] = B^l e[t], B^l ``[n_l, m]``.

*DFA* (Nokland 2016): B fixed, N(0, 1/m) times ``scale``. *DKP* (after Kolen & Pollack 1994): B learned with the
presynaptic factor of a connection straight to the output,

    dL/dB^l = sum_t a^l[t] e[t]^T,

by the optimiser that trains W; with weight decay, W^N - B^T of the last hidden layer shrinks by (1 - eta wd) an
update. No transposed weights, no sequential backward pass. Memory and work O(n m) a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import sqrt

import torch
from pydantic import Field
from torch import Size, Tensor, nn

from onward.core.draws import Draws, Gaussian, Key
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.network import Network
from onward.core.registry import Choice
from onward.core.rule import Holds
from onward.core.signal import dense
from onward.core.sink import Sink
from onward.core.trace import Presynaptic
from onward.credit.base import Credit, Head, Port, Quiet, spatials
from onward.kernels.feedback import Feedback


def random_feedback(node: Node, size: Size, port: Port, draws: Draws, scale: float) -> Tensor:
    """N(0, scale^2 / m) entries ``[n, m]``, keyed by neuron and port."""
    key = Key("feedback", f"{node.name} < {port.key}", 0)
    one = torch.zeros(1, dtype=torch.int64)
    b = draws.draw(Gaussian(), key, one, torch.arange(size.numel()), (port.width,), torch.zeros(()))[0]
    return b * (scale / sqrt(port.width))


def slot(node: Node, port: Port) -> str:
    """The attribute that holds the feedback from ``port`` to ``node``."""
    return f"b{node.index}_{port.key}".replace(".", "_")


class DirectFeedback(Quiet, ABC):
    """A matrix from each port to each hidden neuron below it."""

    stochastic = True

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """Draws B."""
        for port in ports:
            for node in port.below:
                self.keep(slot(node, port), random_feedback(node, sizes[node.index], port, draws, self.scale))

    def holds(self, net: Network, steps: range) -> Holds:
        """Nothing: credit stays factored until it meets a slope."""
        return Holds()

    @abstractmethod
    def keep(self, name: str, b: Tensor) -> None:
        """Holds a feedback matrix."""

    def credit(self, record: Record, head: Head) -> dict[int, Credit]:
        """g = B e."""
        return {index: Feedback(head.error, b.to(head.error)) for index, b in self.direct_feedback(head.port).items()}

    def direct_feedback(self, port: Port) -> dict[int, Tensor]:
        """See `Spatial.direct_feedback`."""
        return {node.index: getattr(self, slot(node, port)).detach() for node in port.below}


class DFA(DirectFeedback):
    """Fixed feedback."""

    def keep(self, name: str, b: Tensor) -> None:
        """See `DirectFeedback.keep`."""
        self.register_buffer(name, b)


class DKP(DirectFeedback):
    """Feedback learned like the readout's weights."""

    def keep(self, name: str, b: Tensor) -> None:
        """See `DirectFeedback.keep`."""
        self.register_parameter(name, nn.Parameter(b))

    def learn(self, record: Record, heads: list[Head], trace: Callable[[Node], Presynaptic], sink: Sink) -> None:
        """Deposits traces times errors."""
        for node in dict.fromkeys(node for head in heads for node in head.port.below):
            a = dense(trace(node)).flatten(2).flatten(0, 1)
            for head in heads:
                if node in head.port.below:
                    sink.add(self.get_parameter(slot(node, head.port)), a.T @ head.error.flatten(0, 1).to(a))


class DirectFeedbackOptions(Choice):
    """Options of direct feedback."""

    scale: float = Field(0.5, gt=0, description="standard deviation of B's entries, times sqrt(m)")


spatials.register(
    "dfa",
    DirectFeedbackOptions,
    lambda choice: DFA(choice.scale),
    "direct feedback through fixed random matrices",
    facts={
        "paper": "Nokland 2016",
        "published": "equation",
        "inferred": "scale of B",
        "equation": "g^l[t] = B^l e[t],    B^l random and fixed",
    },
)
spatials.register(
    "dkp",
    DirectFeedbackOptions,
    lambda choice: DKP(choice.scale),
    "direct feedback through matrices learned like the readout",
    facts={
        "paper": "Kolen & Pollack 1994; Webster et al. 2020",
        "published": "idea",
        "inferred": "update of B",
        "equation": "g^l[t] = B^l e[t],    dL/dB^l = sum_t a^l[t] e[t]^T",
    },
)
