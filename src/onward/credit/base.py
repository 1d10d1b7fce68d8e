"""The three axes of the credit grid, as an online rule sees them.

*Temporal* credit decides the presynaptic factor (what a synapse remembers of its input), *spatial* credit the
postsynaptic one (how an error reaches a layer), *local* credit adds to it from readouts of the layer itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Size, Tensor, nn

from onward.core.draws import Draws, KeyedDraws
from onward.core.graph import Node
from onward.core.group import Share
from onward.core.interpret import Record
from onward.core.network import Network
from onward.core.objective import Objective
from onward.core.products import through
from onward.core.registry import Choice, Registry
from onward.core.rule import Holds
from onward.core.signal import Carry, Context, Signal
from onward.core.sink import Sink
from onward.core.synapse import Params
from onward.core.trace import Presynaptic
from onward.kernels.feedback import Feedback
from onward.kernels.rows import SparseRows

Credit = Tensor | Feedback
"""What reaches a layer's spikes: ``[K, B, *features]``, or the factors of it."""


@dataclass(frozen=True)
class Port:
    """A place where an error enters: the network's output, or a local readout that teaches the layers below.

    ``width`` m is its number of outputs, ``below`` the hidden neurons it teaches.
    """

    key: str
    width: int
    below: tuple[Node, ...]


@dataclass(frozen=True)
class Head:
    """A port during one chunk: outputs ``out`` ``[K, B, m]``, ``error`` e = dL/d out, ``losses`` ``[K, B]`` of samples.

    ``source`` is the tensor in the record's graph that the error enters at, ``seed`` the credit there. Errors and
    losses are those of ``lag`` steps before. ``y`` are the targets of the mini-batch.
    """

    port: Port
    out: Tensor
    error: Tensor
    losses: Tensor
    source: Tensor
    seed: Tensor
    y: Tensor
    lag: int = 0


class Temporal(ABC):
    """Decides *pre*: what of a synapse's past input takes part."""

    stochastic: bool = False
    partial: bool = False
    """Whether some steps take no part in credit."""

    def check(self, steps: int) -> None:
        """Raises `TopologyMismatch` when sequences of ``steps`` cannot be served."""
        for _ in self.runs(0, steps, Context(KeyedDraws(0), torch.zeros(1, dtype=torch.int64), 0, steps, Share(1))):
            pass

    @abstractmethod
    def runs(self, start: int, stop: int, context: Context) -> Iterator[tuple[int, int, bool]]:
        """Splits steps ``start`` to ``stop - 1`` into runs ``(first, last + 1, whether they take part in credit)``."""

    @abstractmethod
    def gain(self, steps: int) -> float:
        """What multiplies the error of a step that takes part, in a sequence of ``steps``."""

    @abstractmethod
    def pre(self, net: Network, node: Node, x: Tensor | SparseRows, carry: Carry, more: bool) -> Presynaptic:
        """The presynaptic factor of synapse ``node`` for its input ``x`` ``[K, B, ...]``; do ``more`` chunks follow?"""

    @abstractmethod
    def bias_gain(self, net: Network, node: Node, start: int, steps: int) -> list[float] | None:
        """What multiplies post for the bias at each of ``steps`` steps, ``start`` steps after it began; None for 1."""

    @abstractmethod
    def toward_output(self, net: Network, node: Node, x: Tensor, carry: Carry) -> Presynaptic:
        """The presynaptic factor of a neuron ``node`` for a connection straight to the output."""

    def traces(self, net: Network, node: Node) -> bool:
        """Whether `pre` of synapse ``node`` is a trace, for which the carry keeps a step of the input."""
        return True


class Spatial(nn.Module, ABC):
    """Decides *post*: how an error at a port becomes credit at a layer's spikes."""

    crosses_spikes: bool = False
    """Whether the graph goes on behind spikes."""
    layerwise: bool = False
    """Whether errors come down from layer to layer all the same."""
    weight_transport: bool = False
    stochastic: bool = False
    perturbs: bool = False
    max_chunk: int | None = None
    observes_first: bool = False
    """Whether `observe` comes before `credit` in a chunk, so that credit reads feedback just updated."""

    @abstractmethod
    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """Creates feedback matrices and the like; ``sizes`` are the shapes of the neurons' outputs."""

    @abstractmethod
    def begin(self, context: Context, sink: Sink) -> None:
        """A sequence starts."""

    @abstractmethod
    def connect(self, node: Node, params: Params, x: Tensor, rows: Tensor | SparseRows) -> Tensor:
        """See `onward.core.credit_walk.Links.connect`."""

    @abstractmethod
    def before(self, node: Node, drive: Tensor, record: Record) -> Tensor:
        """See `onward.core.credit_walk.Links.before`."""

    @abstractmethod
    def after(self, node: Node, spikes: Tensor, record: Record) -> Signal:
        """See `onward.core.credit_walk.Links.after`."""

    @abstractmethod
    def credit(self, record: Record, head: Head) -> dict[int, Credit]:
        """Credit at the spikes of the neurons below the head, beyond what the graph brings."""

    @abstractmethod
    def learn(self, record: Record, heads: list[Head], trace: Callable[[Node], Presynaptic], sink: Sink) -> None:
        """Learns feedback from the errors of steps that take part in credit.

        ``trace(node)`` is a hidden neuron's presynaptic factor towards the output.
        """

    @abstractmethod
    def observe(self, record: Record, heads: list[Head], carry: Carry, again: Callable[[], dict[str, Tensor]]) -> None:
        """Learns feedback from the outputs of any steps, after `credit` was read.

        ``again()`` runs the chunk once more from the state it started in and returns each port's outputs.
        """

    @abstractmethod
    def finish(self, carry: Carry, sink: Sink) -> None:
        """Updates feedback from a whole sequence (or from one step, when updates are online).

        Sums over the batch go through `Sink.total`, so that they are taken over all processes.
        """

    def holds(self, net: Network, steps: range) -> Holds:
        """See `LearningRule.holds`; traces and local credit are not counted here."""
        noise = len(steps) if self.perturbs else 0
        return Holds(noise, self.perturbs, credits=int(not self.crosses_spikes))

    def direct_feedback(self, port: Port) -> dict[int, Tensor]:
        """The matrices ``[n, m]`` that take errors at ``port`` straight to hidden neurons, by node index.

        Where positions of a map share a row, ``n`` is the number of channels.
        """
        return {}

    def metrics(self) -> dict[str, float]:
        """Numbers worth a line in the log."""
        return {}

    def cautions(self, net: Network, steps: int) -> list[str]:
        """What a user should know before training, in plain words."""
        return []

    def remarks(self) -> list[str]:
        """What a user should know while training, in plain words."""
        return []

    def teaches(self) -> bool:
        """Whether deposits are wanted now; False while feedback warms up with frozen weights."""
        return True


class Quiet(Spatial):
    """Defaults for spatial credit that injects no noise and learns no feedback."""

    def begin(self, context: Context, sink: Sink) -> None:
        """Nothing to prepare."""

    def connect(self, node: Node, params: Params, x: Tensor, rows: Tensor | SparseRows) -> Tensor:
        """The synapse as it is, and the same weights backwards."""
        return through(node.module, params, params, x, rows)

    def before(self, node: Node, drive: Tensor, record: Record) -> Tensor:
        """The drive as it is."""
        return drive

    def after(self, node: Node, spikes: Tensor, record: Record) -> Signal:
        """The spikes as they are."""
        return Signal(spikes, spikes)

    def learn(self, record: Record, heads: list[Head], trace: Callable[[Node], Presynaptic], sink: Sink) -> None:
        """Nothing is learned from errors."""

    def observe(self, record: Record, heads: list[Head], carry: Carry, again: Callable[[], dict[str, Tensor]]) -> None:
        """Nothing is learned from outputs."""

    def finish(self, carry: Carry, sink: Sink) -> None:
        """Nothing is pending."""


class Local(nn.Module, ABC):
    """Adds credit from readouts of the layers themselves."""

    stochastic: bool = False
    credits: int = 1
    """Tensors of credit at the spikes of a hidden layer that exist at the same time."""

    @abstractmethod
    def allocate(self, net: Network, sizes: dict[int, Size], classes: int, draws: Draws) -> list[Port]:
        """Creates the local readouts; returns the ports that teach layers below."""

    @abstractmethod
    def look(self, record: Record, y: Tensor, objective: Objective, sink: Sink) -> dict[int, Tensor]:
        """Local credit at each neuron's spikes; gradients of the readouts go to the sink."""

    @abstractmethod
    def heads(self, record: Record, y: Tensor, objective: Objective) -> list[Head]:
        """The ports of `allocate`, for this chunk."""


temporals: Registry[Temporal] = Registry("temporal credit")
spatials: Registry[Spatial] = Registry("spatial credit")
locals_: Registry[Local] = Registry("local credit")

TemporalChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(temporals.parse)]
SpatialChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(spatials.parse)]
LocalChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(locals_.parse)]

Fidelity = Literal["exact", "reference"]
