"""What a learning rule is to the engine, and what it claims about itself."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from onward.core.draws import Draws
from onward.core.errors import NonFiniteError, NotBound, ObjectiveMismatch, ShapeError, TopologyMismatch
from onward.core.interpret import Record
from onward.core.network import Network
from onward.core.objective import Objective
from onward.core.sequence import Sequence
from onward.core.signal import Carry, Context
from onward.core.sink import Sink
from onward.kernels.rows import SparseRows


@dataclass(frozen=True)
class Traits:
    """Claims, each checked by a test.

    ``backward`` how far autograd reaches: not across a spike, within a step, through time. ``memory`` in the number
    of steps. ``per_step_error`` whether the rule needs e[t] while the sequence runs. ``weight_transport`` whether
    errors travel through the transposed weights. ``stochastic`` whether it draws numbers. ``perturbs`` whether
    training outputs differ from the network's own. ``max_chunk`` the longest chunk it can take; ``updates`` when the
    optimiser steps. ``rate`` whether it learns from the mean output of a sequence alone. ``from_loss`` whether weights
    are tried out, and no synapse is told an error of its own. ``recalls`` whether what is tried depends on the update
    before, so that mini-batches of one update do not hear of each other. ``inner`` whether it learns from what an
    objective asks of hidden layers, too.
    """

    backward: Literal["none", "step", "time"]
    memory: Literal["O(1)", "O(T)"]
    per_step_error: bool
    weight_transport: bool
    stochastic: bool
    perturbs: bool = False
    max_chunk: int | None = None
    updates: Literal["sequence", "step"] = "sequence"
    rate: bool = False
    from_loss: bool = False
    recalls: bool = False
    inner: bool = False


@dataclass(frozen=True)
class Holds:
    """What a rule keeps of a chunk beside drives, spikes and slopes, for plans of memory.

    At every hidden layer: ``noise`` draws, each a step in size (``sent``: they travel on with the spikes); ``drives``
    integrated in place of the layer's own, and dense ``credits`` at its spikes, each a chunk in size. At synapses: the
    inputs ``traced`` from chunk to chunk, each a step in size. In bytes: ``sums`` over the sequence that wait in the
    carry, and what was ``read`` out of buffers for the sequence. ``passes`` are held at the same time. ``eligible``
    lists the synapses with a number for each of their weights and each sample, once for each such number.
    """

    noise: int = 0
    sent: bool = False
    drives: int = 0
    credits: int = 0
    traced: frozenset[int] = frozenset()
    sums: int = 0
    read: int = 0
    passes: int = 1
    eligible: tuple[int, ...] = ()


@dataclass
class Lesson:
    """All that one mini-batch brings to a rule: inputs ``x``, labels ``y``; ``carry`` lives as long as the sequence.

    ``trouble`` is the first NaN or infinity met where several processes share the mini-batch.
    """

    net: Network
    objective: Objective
    x: Sequence
    y: Tensor
    sink: Sink
    context: Context
    carry: Carry = field(default_factory=Carry)
    trouble: NonFiniteError | None = None

    def saw(self, record: Record) -> None:
        """Checks a chunk that was run, and shows it to the watcher."""
        self.check(record)
        if self.context.watch is not None:
            self.context.watch(record)

    def check(self, record: Record) -> None:
        """Checks a chunk that was run."""
        if record.start == 0:  # the same for all chunks, and looking at labels waits for the device
            self.objective.check(record.out, self.y)
        try:
            record.check_finite()
        except NonFiniteError as error:
            if self.context.share.group.size == 1:
                raise
            self.trouble = self.trouble or error  # the others wait for this process in the next sum


def check_input(x: object) -> None:
    """Raises `ShapeError` for anything but a sequence, such as a plain tensor."""
    if not isinstance(x, Sequence):
        raise ShapeError(
            f"a {type(x).__name__} was given as input; expected a sequence: onward.Static(x, steps) for still samples "
            "[batch, ...], onward.Frames(x) for [time, batch, ...]"
        )


class LearningRule(nn.Module, ABC):
    """Turns a sequence into deposits.

    Buffers (feedback matrices, statistics) live as long as the rule; its parameters are learned tensors that join
    the optimiser and the checkpoint. What belongs to one sequence is in the carry.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bound: weakref.ref[Network] | None = None
        self.features: tuple[int, ...] = ()

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What the rule claims."""

    def bind(self, net: Network, objective: Objective, sample: Sequence, draws: Draws) -> None:
        """Checks that rule, network and objective fit, and allocates what the rule keeps.

        ``sample`` is a mini-batch (or one sample) as training will see it. Raises `ObjectiveMismatch` or
        `TopologyMismatch` with the way out.
        """
        check_input(sample)
        if self.traits.per_step_error and not objective.per_step:
            raise ObjectiveMismatch(
                "this rule needs an error at every step (trait per_step_error), and a readout objective has one at the "
                "end only; choose objective 'per-step' or 'tet', or rule 'bptt'"
            )
        if self.traits.rate and objective.reduce.decay is None:
            raise ObjectiveMismatch(
                "this rule learns from the mean output of a sequence, and the largest output was chosen; set "
                "objective.reduce to 'weighted' or 'mean'"
            )
        if self.traits.rate and objective.per_step:
            raise ObjectiveMismatch(
                "this rule learns from the mean output of a sequence, and this objective looks at every step; choose "
                "--objective readout --objective.reduce weighted"
            )
        if not net.synapses:
            raise TopologyMismatch("the network has no weights to learn; expected a synapse such as nn.Linear")
        self.allocate(net, sample, draws)
        self._bound, self.features = weakref.ref(net), sample.features

    def bound_to(self, net: Network) -> bool:
        """Whether it was bound to this network."""
        return self._bound is not None and self._bound() is net

    def check(self, net: Network, x: Sequence, chunk: int) -> None:
        """Raises `NotBound`, `ShapeError` or `TopologyMismatch` when a sequence does not fit what was bound."""
        if not self.bound_to(net):
            raise NotBound(
                f"{type(self).__name__} is not bound to this network; call rule.bind(net, objective, sample, draws)"
            )
        if x.features != self.features:
            raise ShapeError(
                f"inputs with features {list(x.features)} were given; the rule was bound to {list(self.features)}"
            )
        limit = self.traits.max_chunk
        if limit is not None and chunk > limit:
            raise TopologyMismatch(
                f"{type(self).__name__} with these options needs chunks of {limit} step; {chunk} were given"
            )

    @abstractmethod
    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """Creates buffers and learned tensors in the shapes of ``net`` on ``sample``."""

    @abstractmethod
    def begin(self, lesson: Lesson) -> None:
        """A sequence starts."""

    @abstractmethod
    def step(self, lesson: Lesson, x: Tensor | SparseRows) -> Tensor:
        """One chunk ``x`` ``[K, B, ...]``: makes deposits, returns the outputs ``[K, B, m]``, detached."""

    @abstractmethod
    def finish(self, lesson: Lesson) -> None:
        """The sequence ended."""

    def runs(self, start: int, stop: int, context: Context) -> Iterator[tuple[int, int, bool]]:
        """The runs ``(first, last + 1, whether they take part in credit)`` that a chunk is worked through in."""
        yield start, stop, True

    def whole(self, net: Network) -> bool:
        """Whether a chunk must be the whole sequence."""
        return False

    def holds(self, net: Network, steps: range) -> Holds:
        """What is kept of a chunk of ``steps``: by default what the traits say, generously."""
        perturbs, stops_at_spikes = self.traits.perturbs, self.traits.backward == "none"
        traced = [] if self.traits.backward == "time" else [node.index for node in net.synapses]
        noise = len(steps) if perturbs else 0
        return Holds(noise, perturbs, credits=int(stops_at_spikes), traced=frozenset(traced))

    def files(self) -> dict[str, Path]:
        """Files that its options name, by option: a run records what they hold."""
        return {}

    def direct_feedback(self) -> dict[int, Tensor]:
        """The matrices ``[n, m]`` that take errors at the output straight to hidden neurons, by node index."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Numbers worth a line in the log."""
        return {}

    def warnings(self) -> list[str]:
        """What a user should know, in plain words."""
        return []
