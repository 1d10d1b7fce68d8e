"""A network of firing rates: what spiking layers are on average, and rules that learn from it.

Unrolling a neuron that loses a fixed charge at every spike gives, for the weighted mean over time
x^ = sum_t w_t x[t] / sum_t w_t with w_t = leak^(T-t) (leak 1: the plain mean),

    out^ = top * (slope * x^ + offset) - residual,   |residual| <= what the membrane holds / sum_t w_t

and out^ lies between 0 and top. Without the residual a layer is a clamp (`onward.core.neuron.RateLaw`), and the network
of clamps at the measured rates is what is differentiated by rules that never differentiate a spike.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onward.core.draws import Draws
from onward.core.errors import ObjectiveMismatch, TopologyMismatch
from onward.core.graph import Kind, Node
from onward.core.interpret import Forward, Interpreter, run_walk, shapes
from onward.core.network import Network
from onward.core.neuron import RateLaw
from onward.core.norms import Norms, PerStep, channels, moments
from onward.core.objective import Objective
from onward.core.products import rowwise, through
from onward.core.rule import Holds, LearningRule, Lesson
from onward.core.sequence import Sequence
from onward.core.signal import Carry, Signal, dense
from onward.core.trace import ones_trace
from onward.kernels.rows import SparseRows
from onward.kernels.scan import leaky_sum

EVIDENCE = "evidence"
MASK = 0.25
"""A byte a number to say where a clamp passes gradients, in float32 numbers."""


@dataclass(frozen=True)
class Keeps:
    """What a rule keeps beside the walk through the network of rates until its last deposit, for plans of memory.

    In steps of what a node sends: ``means`` by node index, and of every neuron its ``clamp``. ``vectors``, each as
    large as the states of all closing delays, are held while a solver works; it works on a walk of its own where there
    is a ``second`` one.
    """

    means: Mapping[int, int]
    clamp: float = 1 + MASK
    vectors: int = 0
    second: bool = False


class Sums:
    """Weighted and plain sums over a sequence of what some nodes send; they wait in the carry."""

    def __init__(self, carry: Carry, leak: float, steps: int):
        self.held, self.leak = carry.sums, leak
        self.weight, self.steps = ones_trace(steps - 1, steps, leak)[0], steps

    def add(self, node: Node, chunk: Tensor) -> None:
        """Adds a chunk ``[K, B, ...]`` of what ``node`` sends."""
        x = chunk.to(torch.promote_types(chunk.dtype, torch.float32))
        for name, leak in self._kinds(node):
            self.held[name] = leaky_sum(x, self.held.get(name), leak)

    def mean(self, node: Node) -> Signal:
        """The weighted mean ``[1, B, ...]`` of what the node sent, and (as clean) the plain mean."""
        (weighted, _), *others = self._kinds(node)
        sent = self.held[weighted][None] / self.weight
        clean = self.held[others[0][0]][None] / self.steps if others else sent
        return Signal(sent, clean)

    def count(self, node: Node) -> Tensor:
        """How often each neuron of the node fired, ``[1, B, ...]``."""
        module: Any = node.module
        total = self.held[self._kinds(node)[-1][0]][None]
        return total / (rate_law(node).top if module.spiking else 1.0)

    def _kinds(self, node: Node) -> list[tuple[str, float]]:
        weighted = [(f"weighted {node.index}", self.leak)]
        return weighted if self.leak == 1 else [*weighted, (f"plain {node.index}", 1.0)]


class SteadyNorms(Interpreter):
    """Normalisation that moves no statistics and is the same at every step, training or not.

    Behind a neuron it uses the running statistics; that of the input uses those of the batch (``scales``), which come
    from the mean input.
    """

    scales: Mapping[int, tuple[Tensor, Tensor]]

    def norm(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.norm`."""
        if node.index not in self.scales:
            return signal.map(lambda x: rowwise(lambda rows: _running(node.module, rows), x))
        scale, shift = self.scales[node.index]
        return self.at_rest(node, signal, lambda x: torch.addcmul(shift, x, scale))


class Simulation(SteadyNorms, Forward):
    """Runs the network as it is, outside any graph, and sums what the neurons and closing delays in ``summed`` send."""

    def __init__(
        self, lesson: Lesson, sums: Sums, summed: Collection[Node], scales: Mapping[int, tuple[Tensor, Tensor]]
    ):
        super().__init__(lesson.net, lesson.carry, lesson.context, lesson.sink.params)
        self.sums, self.summed, self.scales = sums, summed, scales

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.neuron`."""
        sent = super().neuron(node, signal)
        if node in self.summed:
            self.sums.add(node, dense(sent.sent))
        return sent

    def delay(self, node: Node, *signals: Signal | None) -> Signal | None:
        """See `Interpreter.delay`."""
        if node in self.summed and signals and signals[0] is not None:
            self.sums.add(node, dense(signals[0].sent))
        return super().delay(node, *signals)


def _running(module: Any, rows: Tensor) -> Tensor:
    """Batch normalisation by the running statistics, whatever mode the module is in."""
    return torch.nn.functional.batch_norm(
        rows, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps
    )


class InputScales(Forward):
    """Finds, for every normalisation in front of all neurons, its scale and shift on the mean input of a batch."""

    def __init__(self, lesson: Lesson):
        super().__init__(lesson.net, Carry(masks=lesson.carry.masks), lesson.context, lesson.sink.params)
        self.found: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, x: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """The scales on the mean input ``x`` ``[B, ...]``."""
        values: dict[int, Signal | None] = {0: Signal(x[None], x[None])}
        for node in self.net.nodes[1:]:
            known = node.kind is not Kind.NEURON and not self.net.closes_cycle(node)
            values[node.index] = self(node, *(values[i] for i in node.inputs)) if known else None
        return self.found

    def norm(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.norm`."""
        module: Any = node.module
        if not module.training:
            return super().norm(node, signal)
        x = dense(signal.sent)
        mean, variance, _ = moments(channels(x), self.context.share.norms)
        scale = (variance[0] + module.eps).rsqrt() * (1.0 if module.weight is None else module.weight.detach())
        shift = -mean[0] * scale + (0.0 if module.bias is None else module.bias.detach())
        shape = (-1, *[1] * (x.dim() - 3))
        self.found[node.index] = scale.view(shape), shift.view(shape)
        return signal.map(lambda x: torch.addcmul(self.found[node.index][1], x, self.found[node.index][0]))


class RateWalk(Interpreter):
    """One step through the network of rates, in one graph; ``handed`` is what closing delays hand on.

    Neurons in ``measured`` send what was measured, and pass its gradient on to their clamp; the others send the value
    of their clamp. Afterwards ``mapped`` has the values of all clamps, ``ahead`` what each closing delay receives.
    """

    def __init__(
        self,
        lesson: Lesson,
        laws: Mapping[int, RateLaw],
        measured: Mapping[int, Signal],
        handed: Mapping[int, Signal],
        norms: Norms | None = None,
    ):
        carry = Carry(masks=lesson.carry.masks)
        super().__init__(lesson.net, carry, lesson.context, norms)
        self.params, self.laws, self.measured, self.handed = lesson.sink.params, laws, measured, handed
        self.mapped: dict[int, Tensor] = {}
        self.ahead: dict[int, Tensor] = {}

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """The drive of the mean input; deposits will see the clean one."""
        params, x = self.params(node), dense(signal.sent)
        out = through(node.module, params, params, x, x.detach())
        if not out.requires_grad:
            out.requires_grad_()
        pre = signal.sent if self.net.exposed(node) else signal.clean
        self.record.pres[node.index], self.record.drives[node.index] = dense(pre).detach(), out
        return Signal(out, out)

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """The clamp."""
        drive = dense(signal.sent)
        self.record.inputs[node.index] = drive
        mapped = self.mapped[node.index] = self.laws[node.index](drive)
        if node.index not in self.measured:
            return Signal(mapped, mapped)
        sent, clean = self.measured[node.index]
        return Signal(_Standing.apply(mapped, dense(sent)), clean)

    def norm(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.norm`; what it sends is the same for all."""
        return super().norm(node, Signal(signal.sent, dense(signal.sent)))

    def delay(self, node: Node, *signals: Signal | None) -> Signal | None:
        """Rates stand still: a delay changes nothing but where a cycle begins."""
        if not self.net.closes_cycle(node):
            return signals[0]
        if not signals:
            return self.handed[node.index]
        assert signals[0] is not None
        self.ahead[node.index] = dense(signals[0].sent)
        return None


class SteadyRateWalk(SteadyNorms, RateWalk):
    """The same with normalisation as the simulation has it."""

    def __init__(
        self,
        lesson: Lesson,
        laws: Mapping[int, RateLaw],
        measured: Mapping[int, Signal],
        handed: Mapping[int, Signal],
        scales: Mapping[int, tuple[Tensor, Tensor]],
    ):
        super().__init__(lesson, laws, measured, handed)
        self.scales = scales


class _Standing(torch.autograd.Function):
    """What was measured, in the place of what the clamp says; gradients go to the clamp."""

    @staticmethod
    def forward(ctx: Any, mapped: Tensor, measured: Tensor) -> Tensor:
        return measured.view_as(measured)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class RateRule(LearningRule):
    """Base of rules that let the network spike, keep nothing but sums, and learn from the rates at the end.

    Raises `TopologyMismatch` for neurons without a rate law or with different leaks, `ObjectiveMismatch` for an
    objective that weighs time otherwise than the neurons do.
    """

    def __init__(self, norms: Norms | None = None):
        super().__init__()
        self.norms = norms or PerStep()
        self.leak = 1.0

    def bind(self, net: Network, objective: Objective, sample: Sequence, draws: Draws) -> None:
        """See `LearningRule.bind`."""
        super().bind(net, objective, sample, draws)
        decay = objective.reduce.decay
        assert decay is not None  # `LearningRule.bind` refuses a readout without a mean
        if abs(decay - self.leak) > 1e-9:
            raise ObjectiveMismatch(
                f"the neurons keep {self.leak:.6g} of their potential a step, so that in their rates a step weighs "
                f"{self.leak:.6g} times the next one, but {decay} times in this objective; choose --objective readout "
                f"--objective.reduce weighted --objective.decay {self.leak:.6g}"
            )

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """See `LearningRule.allocate`."""
        shapes(net, sample, draws)
        for node in net.neurons:
            law = rate_law(node)
            if node is net.neurons[0]:
                self.leak = law.leak
            elif law.leak != self.leak:
                raise TopologyMismatch(
                    f"{node} keeps {law.leak:.6g} of its potential a step and {net.neurons[0]} {self.leak:.6g}; a rule "
                    "that learns from rates needs one leak for all neurons"
                )

    def begin(self, lesson: Lesson) -> None:
        """See `LearningRule.begin`."""

    def step(self, lesson: Lesson, x: Tensor | SparseRows) -> Tensor:
        """See `LearningRule.step`."""
        with torch.no_grad():
            walk = Simulation(lesson, self.sums(lesson), self.summed(lesson.net), self.scales(lesson))
            out = run_walk(walk, x)
        lesson.saw(walk.record)
        self.gather(lesson, out)
        return out

    @abstractmethod
    def finish(self, lesson: Lesson) -> None:
        """The sequence ended: the sums tell the rates."""

    def summed(self, net: Network) -> Collection[Node]:
        """The neurons and closing delays whose means the rule will ask for."""
        return [*net.neurons, *net.closing]

    def keeps(self, net: Network) -> Keeps:
        """What the rule keeps of the rates when the sequence has ended, for plans of memory."""
        return Keeps({node.index: 1 for node in self.summed(net)})

    def holds(self, net: Network, steps: range) -> Holds:
        """See `LearningRule.holds`: nothing."""
        return Holds()

    def sums(self, lesson: Lesson) -> Sums:
        """The sums over this sequence."""
        return Sums(lesson.carry, self.leak, lesson.context.steps)

    def gather(self, lesson: Lesson, out: Tensor) -> None:
        """Keeps what the error at the end is worked out from."""
        held = lesson.carry.sums
        held[EVIDENCE] = lesson.objective.reduce(held.get(EVIDENCE), out)

    def errors(self, lesson: Lesson) -> Tensor:
        """dL / d mean output, ``[1, B, m]``."""
        context = lesson.context
        evidence = lesson.carry.sums[EVIDENCE]
        return lesson.objective.rate_errors(evidence, lesson.y, context.steps, context.samples)[None]

    def inputs(self, lesson: Lesson) -> Signal:
        """The weighted mean of the input, ``[1, B, ...]``, and what deposits see of it."""
        sent = lesson.x.mean(self.leak)[None]
        return self.seen(Signal(sent, sent if self.leak == 1 else lesson.x.mean()[None]))

    def measured(self, lesson: Lesson, nodes: Iterable[Node]) -> dict[int, Signal]:
        """The mean that each node sent, and what deposits see of it."""
        sums, dtype = self.sums(lesson), lesson.carry.sums[EVIDENCE].dtype
        return {node.index: self.seen(sums.mean(node).map(lambda x: x.to(dtype))) for node in nodes}

    def seen(self, mean: Signal) -> Signal:
        """What drives and deposits see of a weighted mean (and its plain one): the weighted one, as the clamp does."""
        return Signal(mean.sent, dense(mean.sent))

    def scales(self, lesson: Lesson) -> dict[int, tuple[Tensor, Tensor]]:
        """Scale and shift of the input's normalisation, found once a sequence."""
        held, net = lesson.carry.sums, lesson.net
        norms = [node for node in net.of(Kind.NORM) if node.module.training and net.sender(node) is None]
        if norms and f"scale {norms[0].index}" not in held:
            for index, (scale, shift) in InputScales(lesson).of(lesson.x.mean(self.leak)).items():
                held[f"scale {index}"], held[f"shift {index}"] = scale, shift
        return {node.index: (held[f"scale {node.index}"], held[f"shift {node.index}"]) for node in norms}


def rate_law(node: Node) -> RateLaw:
    """The rate law of a neuron; raises `TopologyMismatch` where it has none."""
    module: Any = node.module
    if module.rate_law is None:
        raise TopologyMismatch(
            f"{node} ({type(module).__name__}) has no rate that follows from its mean drive; a rule that learns from "
            "rates needs neurons that lose a fixed charge at every spike, such as --neuron if or lif with the soft "
            "reset; rule 'bptt' takes any neuron"
        )
    if module.noise:
        raise TopologyMismatch(
            f"{node} sends noise of {module.noise:g}, which a rule that learns from rates would not see; leave out "
            "--neuron.noise, or choose a rule that follows steps, such as 'ottt' or 'bptt'"
        )
    return module.rate_law


def rate_laws(net: Network) -> dict[int, RateLaw]:
    """The rate laws of all neurons; read anew for every gradient, since thresholds may be learned."""
    return {node.index: rate_law(node) for node in net.neurons}


def shares(steps: int, leak: float, like: Tensor | None = None) -> Tensor:
    """What each step weighs in the mean over a sequence, ``[T, 1, 1]``, adding up to 1."""
    weights = torch.tensor([leak ** (steps - 1 - t) for t in range(steps)], dtype=torch.float64)
    weights = (weights / weights.sum()).view(-1, 1, 1)
    return weights if like is None else weights.to(like)


def leaf(signal: Signal) -> Signal:
    """The signal as the start of a graph."""
    return Signal(dense(signal.sent).detach().clone().requires_grad_(), signal.clean)
