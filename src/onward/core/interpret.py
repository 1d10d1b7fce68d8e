"""Interpretations of a network: what to do at each node while a chunk of time walks through it.

`Interpreter` knows glue; its subclasses say what a synapse and a neuron do. `Forward` runs the network and
nothing else; `CreditWalk` keeps what O(1)-memory rules need to turn errors into deposits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onward.core.attention import HeadSums, TokenSums
from onward.core.draws import Draws, Gaussian, Keep, Key, Law
from onward.core.errors import NonFiniteError, ShapeError, TopologyMismatch
from onward.core.glue import GroupMean, Scale, Tile, mask_size
from onward.core.graph import Kind, Node
from onward.core.group import Share
from onward.core.network import Network
from onward.core.neuron import Draw, Firing
from onward.core.norms import Norms, PerStep
from onward.core.products import drive, rowwise, still
from onward.core.sequence import Sequence
from onward.core.signal import Carry, Chunk, Context, Noise, Signal, Still, dense
from onward.core.synapse import Params, effective
from onward.kernels.rows import SparseRows, sparse_rows
from onward.kernels.scan import seen, shift


def _unfit(node: Node, present: list[Signal], error: Exception) -> ShapeError:
    """What to say when a module cannot take its input: what came, and what is expected where the module tells."""
    module, dtype = node.module, present[0].sent.dtype
    came = " and ".join(f"{list(s.sent.shape[1:])}" for s in present)
    said = f"{node} ({type(module).__name__}) cannot take an input of shape {came} (batch first) and dtype {dtype}"
    weight = next(iter(module.parameters()), None)
    if weight is not None and weight.dtype is not dtype:
        return ShapeError(f"{said}: its weights are {weight.dtype}; convert the input with x.to({weight.dtype})")
    for count, noun in (("in_features", "features"), ("in_channels", "channels"), ("num_features", "channels")):
        if isinstance(expected := getattr(module, count, None), int):
            return ShapeError(f"{said}: expected {expected} {noun} ({error})")
    return ShapeError(f"{said}: {error}")


def noise_in_norm(node: Node) -> TopologyMismatch:
    """What to say of a normalisation that would see injected noise."""
    return TopologyMismatch(
        f"{node} normalises a signal that carries injected noise; put a synapse between the spiking layer and "
        "the normalisation, or choose noise before the neuron (position 'before')"
    )


class Record:
    """What a chunk left behind for the rule: everything by node index, memory O(chunk)."""

    def __init__(self, net: Network, context: Context, start: int):
        self.net, self.context, self.start = net, context, start
        self.pres: dict[int, Tensor | SparseRows] = {}
        self.drives: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        self.firings: dict[int, Firing] = {}
        self.spikes: dict[int, Tensor] = {}
        self.sent: dict[int, Chunk] = {}
        self.noise: dict[int, Noise] = {}
        self.out: Tensor = torch.empty(0)

    @property
    def steps(self) -> range:
        """The time steps of the chunk."""
        return range(self.start, self.start + len(self.out))

    def check_finite(self) -> None:
        """Raises `NonFiniteError` with layer and step. NaN and infinity persist in membranes, so one look suffices."""
        ends = [f.state[0].sum() for f in self.firings.values()] + [self.out.detach().sum()]
        if not torch.stack([e.float() for e in ends]).isfinite().all():
            self._locate()

    def _locate(self) -> None:
        named = [(f"layer {self.net.nodes[i].name}", f.potential) for i, f in self.firings.items()]
        named.append(("the output", self.out))
        for name, values in named:
            bad = (~values.detach().isfinite()).flatten(1).any(1).nonzero()
            if len(bad):
                raise NonFiniteError(f"the drive of {name}", self.start + int(bad[0]))


class Interpreter(ABC):
    """Glue, the same for everyone; `synapse` and `neuron` are left to say."""

    def __init__(self, net: Network, carry: Carry, context: Context, norms: Norms | None = None):
        self.net, self.carry, self.context, self.norms = net, carry, context, norms or PerStep()
        self.record = Record(net, context, carry.step)

    def __call__(self, node: Node, *signals: Signal | None) -> Signal | None:
        """Visits ``node``. None stands for a signal that is not there yet: a cycle's at the first step."""
        if node.kind is Kind.DELAY:
            return self.delay(node, *signals)
        present = [signal for signal in signals if signal is not None]
        if not present:
            return None
        try:
            return self._single(node, present[0]) if len(node.inputs) == 1 else self._several(node, present)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise _unfit(node, present, error) from error

    def _several(self, node: Node, present: list[Signal]) -> Signal | None:
        """A sum of what is there; anything else waits until all is."""
        if node.kind is Kind.ADD:
            return present[0].plus(present[1]) if len(present) == 2 else present[0]
        return self.join(node, present) if len(present) == len(node.inputs) else None

    def _single(self, node: Node, signal: Signal) -> Signal:
        match node.kind:
            case Kind.SYNAPSE:
                return self.synapse(node, signal)
            case Kind.NEURON:
                return self.neuron(node, signal)
            case Kind.DROPOUT:
                return self.dropout(node, signal)
            case Kind.NORM:
                return self.norm(node, signal)
        return self.glue(node, signal)

    def glue(self, node: Node, signal: Signal) -> Signal:
        """What has no state: reshaped events stay sparse, noise stays apart from spikes behind what is linear."""
        if isinstance(signal.sent, SparseRows) and _flattens(node.module):
            rows = signal.sent.flattened()
            return Signal(rows, rows)
        if isinstance(node.module, LINEAR_GLUE):
            return signal.through(lambda x: rowwise(node.module, x))
        return signal.map(lambda x: rowwise(node.module, x))

    def join(self, node: Node, signals: list[Signal]) -> Signal:
        """What several signals make together; with noise, what they send, and what they would send without."""
        sent = rowwise(node.module, *(dense(signal.sent) for signal in signals))
        if all(signal.clean is signal.sent for signal in signals):
            return Signal(sent, sent)
        return Signal(sent, rowwise(node.module, *(dense(signal.clean) for signal in signals)))

    @abstractmethod
    def synapse(self, node: Node, signal: Signal) -> Signal:
        """Weights applied."""

    @abstractmethod
    def neuron(self, node: Node, signal: Signal) -> Signal:
        """Membranes advanced."""

    def past(self, signal: Signal) -> Signal:
        """A signal on its way into a later step; O(1) rules cut the graph here."""
        return signal.detached()

    def delay(self, node: Node, *signals: Signal | None) -> Signal | None:
        """Sends what came ``steps`` earlier; in a cycle, sends first and receives at the end of the step."""
        if not signals:
            return self.carry.delays.get(node.index)
        if signals[0] is None:
            return None
        if not self.net.closes_cycle(node):
            return self._shift(node, self.past(signals[0]))
        self.carry.delays[node.index] = self.past(signals[0])
        return None

    def dropout(self, node: Node, signal: Signal) -> Signal:
        """One mask for the whole sequence."""
        module: Any = node.module
        if not module.training or module.p == 0:
            return signal
        if node.index not in self.carry.masks:
            size = mask_size(module, tuple(signal.sent.shape[2:]))
            key, ids = Key("dropout", node.name, self.context.sequence), self.context.ids
            like = dense(signal.sent).detach()
            mask = self.context.draws.draw(Keep(module.p), key, torch.zeros(1, dtype=torch.int64), ids, size, like)
            self.carry.masks[node.index] = mask
        return self.at_rest(node, signal, lambda x: x * self.carry.masks[node.index])

    def at_rest(self, node: Node, signal: Signal, linear: Callable[[Tensor], Tensor]) -> Signal:
        """``linear`` on a signal; of one frame seen many times, worked out once a sequence."""
        x = signal.sent
        if not isinstance(x, Tensor) or signal.clean is not x or not stands_still(x):
            return signal.through(linear)
        frame, known = x[:1], self.carry.still.get(node.index)
        if known is None or not known.serves(None, frame):
            known = self.carry.still[node.index] = Still(None, frame, frame._version, linear(frame))
        out = seen(known.drive[0], len(x))
        return Signal(out, out)

    def norm(self, node: Node, signal: Signal) -> Signal:
        """Normalises what is sent; raises `TopologyMismatch` for noise, which would move the statistics."""
        if not node.module.training:
            return signal.map(lambda x: rowwise(node.module, x))
        sent = self.norms(node.module, dense(signal.sent), self.context.steps, self.context.share.norms)
        if signal.clean is signal.sent:
            return Signal(sent, sent)
        raise noise_in_norm(node)

    def draw(self, node: Node) -> Draw:
        """Where the neurons of ``node`` get their random numbers from in this chunk."""
        context, first = self.context, self.carry.step

        def numbers(law: Law, part: str, like: Tensor, start: int = 0) -> Tensor:
            steps = torch.arange(first + start, first + start + len(like))
            key = Key(part, node.name, context.sequence)
            return context.draws.draw(law, key, steps, context.ids, tuple(like.shape[2:]), like)

        return numbers

    def disturbed(self, node: Node, out: Tensor) -> Tensor:
        """What the neurons of ``node`` send of ``out`` while they are trained: out + noise z, z ~ N(0, 1).

        Of its own for every neuron, step and sample; chunks and processes change none. Synapses and traces read
        the noisy signal, and no rule knows of it, unlike the perturbation that OPZO and single-point ZO learn from.
        """
        module: Any = node.module
        if not (module.training and module.noise):
            return out
        return out + module.noise * self.draw(node)(Gaussian(), "activity noise", out.detach())

    def still_drive(self, node: Node, params: Params, x: Tensor) -> Tensor:
        """The drive of one frame seen many times: worked out once a sequence, or once an update."""
        frame, known = x[:1], self.carry.still.get(node.index)
        if known is None or not known.serves(params, frame):
            known = Still(params, frame, frame._version, drive(node.module, params, frame))
            self.carry.still[node.index] = known
        return seen(known.drive[0], len(x))

    def _shift(self, node: Node, signal: Signal) -> Signal:
        module: Any = node.module
        silence = signal.map(lambda x: torch.zeros_like(x[:1]).repeat_interleave(module.steps, 0))
        waiting = self.carry.delays.get(node.index, silence)
        sent, next_sent = shift(dense(signal.sent), dense(waiting.sent))
        if signal.clean is signal.sent:
            self.carry.delays[node.index] = Signal(next_sent, next_sent)
            return Signal(sent, sent)
        clean, next_clean = shift(dense(signal.clean), dense(waiting.clean))
        self.carry.delays[node.index] = Signal(next_sent, next_clean)
        return Signal(sent, clean)


LINEAR_GLUE = (
    nn.Flatten,
    nn.Unflatten,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    Scale,
    Tile,
    GroupMean,
    HeadSums,
    TokenSums,
)


def _flattens(module: nn.Module) -> bool:
    return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)


def nonzeros(clean: Tensor | SparseRows) -> Tensor | SparseRows:
    """What products read: the non-zeros alone, where they are few."""
    if isinstance(clean, SparseRows):
        return clean
    clean = clean.detach()
    if still(clean):
        return clean
    return sparse_rows(clean) or clean


def stands_still(x: Tensor) -> bool:
    """Whether ``x`` is a frame that `seen` shows, outside any graph, whose overwriting torch would notice."""
    return x.stride(0) == 0 and not x.requires_grad and not x.is_inference()


def trainable(nodes: Iterable[Node]) -> list[nn.Parameter]:
    """The parameters of ``nodes`` that are not frozen, each once although modules may stand in several places."""
    return list(dict.fromkeys(p for node in nodes for p in node.module.parameters() if p.requires_grad))


class Forward(Interpreter):
    """Runs the network and nothing else; ``watch`` sees every neuron's firing."""

    def __init__(
        self,
        net: Network,
        carry: Carry,
        context: Context,
        params: Callable[[Node], Params],
        norms: Norms | None = None,
    ):
        super().__init__(net, carry, context, norms)
        self.params = params

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.synapse`."""
        x = self._drive(node, self.params(node), signal.clean)
        return Signal(x, x)

    def _drive(self, node: Node, params: Params, clean: Tensor | SparseRows) -> Tensor:
        if isinstance(clean, Tensor) and stands_still(clean):
            return self.still_drive(node, params, clean)
        return drive(node.module, params, nonzeros(clean))

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.neuron`."""
        module: Any = node.module
        x = dense(signal.sent)
        firing = module.simulate(x, self.carry.states.get(node.index) or module.start(x[0]))
        self.carry.states[node.index] = firing.state
        self.record.firings[node.index] = firing
        out = self.disturbed(node, firing.out)
        return Signal(out, out)


@torch.no_grad()
def shapes(net: Network, sample: Sequence, draws: Draws) -> dict[int, torch.Size]:
    """Shapes ``[*features]`` of every neuron's output, and of the network's (key -1), from one step of ``sample``."""
    context = Context(draws, torch.arange(sample.batch), 0, 1, Share(sample.batch))
    walk = Forward(net, Carry(), context, lambda node: effective(node.module))
    with evaluating(net):
        out = run_walk(walk, sample.chunk(0, 1))
    found = {index: firing.out.shape[2:] for index, firing in walk.record.firings.items()}
    return {**found, -1: out.shape[2:]}


def run_walk(walk: Interpreter, x: Tensor | SparseRows | Signal) -> Tensor:
    """Walks one chunk through ``walk``'s network; the output is also in its record."""
    signal = x if isinstance(x, Signal) else Signal(x, x)
    out = dense(walk.net.walk(signal, walk).sent)
    walk.record.out = out
    walk.carry.step += len(out)
    return out


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode it was in, frozen normalisation layers too."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen_statistics(net: Network) -> Iterator[None]:
    """Running statistics of normalisation layers stay as they are while the network runs in training mode."""
    norms: list[Any] = [node.module for node in net.of(Kind.NORM)]
    tracking = [module.track_running_stats for module in norms]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module, tracks in zip(norms, tracking, strict=True):
            module.track_running_stats = tracks
