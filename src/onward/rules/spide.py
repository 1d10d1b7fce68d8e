"""Spike-based implicit differentiation: the equilibrium and its gradient are both found by spiking.

    stage 1  the network runs for T steps; rates a, masks m = 1[0 < a < 1] by counting spikes
    stage 2  ternary couples run for T_b steps on the transposed connections, D_b = V_b - u_rest,b:
             u += S dL/da + sum over readers k of gain_k W_k^T (m_k r_k),  q = 1[u >= V_b] - 1[u <= -V_b],
             r = D_b q,  u -= r,  then u *= leak;   beta = mean of r -> (I - J^T)^-1 S dL/da while |beta| <= D_b
    update   dL/dW = delta a^T / S,  delta = gain m beta

Both stages keep sums alone: memory O(n), whatever T and T_b are. Costs T steps of the network and T_b local
vector-Jacobian products of every layer, up to the next spike and no further; only values of {-1, 0, 1} D_b travel. S
brings errors into the range that couples can tell, V_b / T_b to D_b. Serves networks with any number of cycles, or
none, whose neurons have a rate law. Source: Xiao et al. 2023 (Neural Networks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from onward.core.backprop import deposit_all
from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.core.interpret import run_walk
from onward.core.network import Network
from onward.core.norms import Norms
from onward.core.rates import Keeps, RateRule, RateWalk, Sums, leaf, rate_laws
from onward.core.registry import Choice
from onward.core.rule import Lesson, Traits
from onward.core.signal import Signal, dense
from onward.core.trace import ones_trace
from onward.kernels.couples import Law, Memory, couple
from onward.rules.registry import rules

AC_PJ = 0.9
"""Energy of one accumulation at 45 nm, in picojoules (a customary figure)."""
MOST_SATURATED, MOST_SILENT = 0.01, 0.999
Currents = dict[int, Tensor]
"""Currents ``[1, B, ...]`` into neurons and closing delays, by node index."""


class SPIDE(RateRule):
    """Spike-based implicit differentiation; see the module's docstring.

    ``scale`` S, ``steps`` T_b; couples fire at ``threshold`` V_b, rest at ``rest`` and keep ``leak`` of their potential
    a step (a leak leaves an error that no T_b removes). `metrics` are of the last mini-batch: firing rates of both
    stages, synaptic operations a sample and what they cost in nanojoules, the largest shares of saturated and of silent
    couples in a layer.
    """

    def __init__(
        self,
        scale: float = 100.0,
        steps: int = 100,
        threshold: float = 0.5,
        rest: float | None = None,
        leak: float = 1.0,
        input_mean: str = "weighted",
    ):
        super().__init__()
        self.scale, self.steps = scale, steps
        self.law = Law(leak, threshold, threshold - (-threshold if rest is None else rest))
        self.input_mean = input_mean
        self._found: dict[str, float] = {}
        self._cautions: list[str] = []

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return Traits(
            backward="none", memory="O(1)", per_step_error=False, weight_transport=True, stochastic=False, rate=True
        )

    def finish(self, lesson: Lesson) -> None:
        """See `LearningRule.finish`."""
        walk, errors = self._walk(lesson), self.errors(lesson)
        couples = self.spike_back(walk, errors * self.scale)
        with torch.enable_grad():
            rates = [walk.clamp(node) for node in lesson.net.neurons]
        betas = [layer.beta() / self.scale for layer in couples.values()]
        deposit_all(lesson, [walk.record], [walk.record.out, *rates], [errors, *betas])
        self._note(lesson, walk, couples)

    def metrics(self) -> dict[str, float]:
        """See `LearningRule.metrics`."""
        return self._found

    def warnings(self) -> list[str]:
        """See `LearningRule.warnings`."""
        return self._cautions

    def keeps(self, net: Network) -> Keeps:
        """See `RateRule.keeps`: mean, start of a graph and count; couples (3), masks (2), clamp and beta."""
        means = {**{node.index: 3 for node in net.neurons}, **{node.index: 2 for node in net.closing}}
        return Keeps(means, clamp=7)

    def inputs(self, lesson: Lesson) -> Signal:
        """See `RateRule.inputs`; with ``input_mean`` plain, deposits see what they see in the published code."""
        mean = super().inputs(lesson)
        return mean if self.input_mean == "weighted" else Signal(mean.sent, lesson.x.mean()[None])

    def spike_back(self, walk: CutWalk, errors: Tensor) -> dict[int, Couples]:
        """Stage 2: the couples of every neuron after T_b steps of the constant ``errors`` at the output."""
        given = walk.pull(walk.record.out, errors)
        couples = {node.index: Couples(walk, node, self) for node in walk.net.neurons}
        arriving: Currents = {}
        for _ in range(self.steps):
            arriving = self._step_back(walk, couples, given, arriving)
        return couples

    def _step_back(self, walk: CutWalk, couples: dict[int, Couples], given: Currents, arriving: Currents) -> Currents:
        """One step, from the last layer to the first; returns what cycles will bring in the next one."""
        returning: Currents = {}
        for index in reversed(couples):
            current = _plus(given.get(index), arriving.pop(index, None))
            if current is None:
                continue
            sent = couples[index].spike(current)
            for source, back in walk.pull(walk.record.inputs[index], sent).items():
                into = returning if source in walk.ahead else arriving
                into[source] = _plus(into.get(source), back)
        for source, back in returning.items():
            for index, current in walk.pull(walk.ahead[source], back).items():
                arriving[index] = _plus(arriving.get(index), current)
        return arriving

    def _walk(self, lesson: Lesson) -> CutWalk:
        """The network of rates, cut at every neuron and every closing delay."""
        measured = self.measured(lesson, [*lesson.net.neurons, *lesson.net.closing])
        with torch.enable_grad():
            walk = CutWalk(lesson, self.sums(lesson), measured, self.norms)
            run_walk(walk, self.inputs(lesson))
        return walk

    def _note(self, lesson: Lesson, walk: CutWalk, couples: dict[int, Couples]) -> None:
        """What the log and the user should know."""
        ahead = {i: float(walk.counts[i].mean()) / lesson.context.steps for i in couples}
        back = {i: layer.rate for i, layer in couples.items()}
        sizes = {i: layer.mask[0, 0].numel() for i, layer in couples.items()}
        operations = [
            _operations(walk, ahead, lesson.context.steps, lambda net, node: net.sender(node)),
            _operations(walk, back, self.steps, lambda net, node: net.reader(node) if net.sender(node) else None),
        ]
        self._found = {
            "forward_rate": sum(ahead[i] * sizes[i] for i in ahead) / max(1, sum(sizes.values())),
            "backward_rate": sum(back[i] * sizes[i] for i in back) / max(1, sum(sizes.values())),
            "forward_operations": operations[0],
            "backward_operations": operations[1],
            "energy_nj": sum(operations) * AC_PJ / 1000,
            "saturated": max((layer.saturated() for layer in couples.values()), default=0.0),
            "silent": max((layer.silent() for layer in couples.values()), default=0.0),
        }
        self._cautions = [text for i in couples for text in self._alarms(lesson.net.nodes[i], couples[i])]

    def _alarms(self, node: Node, layer: Couples) -> Iterator[str]:
        """Errors that the couples of a layer cannot tell."""
        if (share := layer.saturated()) > MOST_SATURATED:
            yield (
                f"{share:.0%} of the backward couples of {node.name} are saturated (|beta| = {self.law.charge:g}): "
                f"gradients are cut off there; lower --rule.scale, now {self.scale:g}, such as to {self.scale / 3:.3g}"
            )
        if (share := layer.silent()) > MOST_SILENT:
            yield (
                f"the backward couples of {node.name} are silent ({share:.1%} never fire): it learns next to nothing; "
                f"raise --rule.scale, now {self.scale:g}, such as to {self.scale * 3:.3g}, or --rule.steps"
            )


class CutWalk(RateWalk):
    """The network of rates in pieces: each neuron, and each closing delay, starts a graph of its own."""

    def __init__(self, lesson: Lesson, sums: Sums, measured: Mapping[int, Signal], norms: Norms):
        self.leaves = {index: leaf(signal) for index, signal in measured.items()}
        self.counts = {node.index: sums.count(node) for node in lesson.net.neurons}
        self.steps = lesson.context.steps
        super().__init__(lesson, rate_laws(lesson.net), {}, self.leaves, norms)
        self._reached: dict[int, list[int]] = {}

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """Notes its drive; what was measured goes on."""
        self.record.inputs[node.index] = dense(signal.sent)
        return self.leaves[node.index]

    def between(self, node: Node) -> Tensor:
        """m: 1 where a neuron fired, but not at every step."""
        count = self.counts[node.index]
        return ((count > 0.5) & (count < self.steps - 0.5)).to(self.record.inputs[node.index].dtype)

    def gain(self, node: Node) -> Tensor | float:
        """d mean output / d mean drive between the bounds."""
        gain = self.laws[node.index].gain
        return gain.detach() if isinstance(gain, Tensor) else gain

    def clamp(self, node: Node) -> Tensor:
        """The clamp of a neuron's drive, with bounds by the count."""
        drive, between = self.record.inputs[node.index], self.between(node)
        above = (self.counts[node.index] > self.steps / 2).to(drive.dtype) * (1 - between)
        return self.laws[node.index].inside(drive, between, above)

    def pull(self, head: Tensor, credit: Tensor) -> Currents:
        """The credit at ``head`` taken back to the neurons and closing delays that it reads."""
        reached = self._reached.get(id(head), list(self.leaves))
        starts = [dense(self.leaves[index].sent) for index in reached]
        if not starts or not head.requires_grad:
            return {}
        found = torch.autograd.grad(head, starts, credit, retain_graph=True, allow_unused=True)
        currents = {index: grad for index, grad in zip(reached, found, strict=True) if grad is not None}
        self._reached[id(head)] = list(currents)
        return currents


class Couples:
    """A layer of ternary couples: two neurons with mirrored currents that reset each other act as one signed one."""

    def __init__(self, walk: CutWalk, node: Node, rule: SPIDE):
        self.mask, self.gain, self.law, self.steps = walk.between(node), walk.gain(node), rule.law, rule.steps
        self.memory = Memory(*(torch.zeros_like(self.mask) for _ in range(3)))
        self.started = False

    def spike(self, current: Tensor) -> Tensor:
        """What the layer below hears of one step: r, masked, and in the units of the drive."""
        if not self.started:  # in the layout of the currents, which convolutions choose
            self.started, self.mask = True, torch.empty_like(current).copy_(self.mask)
            self.memory = Memory(*(torch.zeros_like(current) for _ in range(3)))
        return couple(current, self.memory, self.law, self.mask, self.gain)

    def beta(self) -> Tensor:
        """The mean of r."""
        return self.memory.total / ones_trace(self.steps - 1, self.steps, self.law.leak)[0]

    @property
    def rate(self) -> float:
        """Firings a couple and step."""
        return float(self.memory.fired.mean()) / self.steps

    def saturated(self) -> float:
        """The share of active neurons whose couples fired at every step but the first."""
        return self._share(self.memory.fired >= self.steps - 1)

    def silent(self) -> float:
        """The share of active neurons whose couples never fired."""
        return self._share(self.memory.fired == 0)

    def _share(self, which: Tensor) -> float:
        return float((which * self.mask).sum() / self.mask.sum().clamp_min(1))


def _plus(a: Tensor | None, b: Tensor | None) -> Any:
    return a if b is None else b if a is None else a + b


def _operations(
    walk: CutWalk, rates: Mapping[int, float], steps: int, spiking: Callable[[Network, Node], Node | None]
) -> float:
    """Synaptic operations a sample: one for each weight that a spike meets, of the neurons that ``spiking`` names."""
    total = 0.0
    for node in walk.net.synapses:
        neuron = spiking(walk.net, node)
        if neuron is not None:
            dense_products = products(node.module, dense(walk.record.pres[node.index]), walk.record.drives[node.index])
            total += dense_products * rates[neuron.index] * steps
    return total


def products(module: nn.Module, pre: Tensor, drive: Tensor) -> float:
    """Products of a synapse with dense input, a sample."""
    weight: Any = module.weight
    rows = pre if isinstance(module, _ConvTransposeNd) else drive
    return rows[0, 0].numel() * weight[0].numel()


class SPIDEOptions(Choice):
    """Options of SPIDE."""

    scale: float = Field(
        100.0, gt=0, description="S: factor on errors while they travel as spikes; gradients are not scaled"
    )
    steps: int = Field(100, ge=1, description="T_b: steps of the backward stage")
    threshold: float = Field(0.5, gt=0, description="V_b: threshold of the backward couples")
    rest: float | None = Field(None, description="resting potential of the backward couples; none: minus the threshold")
    leak: float = Field(1.0, gt=0, le=1, description="what the couples keep of their potential a step; 1 is exact")
    input_mean: Literal["weighted", "plain"] = Field(
        "weighted", description="mean of the input in deposits: as leaky neurons weigh it, or plain, as published"
    )

    @model_validator(mode="after")
    def _rests_below_threshold(self) -> Self:
        if self.rest is not None and self.rest >= self.threshold:
            raise ConfigError(
                f"the couples rest at {self.rest:g} and fire at {self.threshold:g}; a resting potential must lie below"
            )
        return self


rules.register(
    "spide",
    SPIDEOptions,
    lambda c: SPIDE(c.scale, c.steps, c.threshold, c.rest, c.leak, c.input_mean),
    "spike-based implicit differentiation: rates and their gradients are both found by spiking",
    brings={
        "neuron": {"name": "if", "reset": {"name": "soft", "rest": -1.0}},
        "objective": {"name": "readout", "reduce": "weighted"},
        "model": {
            "name": "feedback",
            "layers": "400",
            "back": "400",
            "norm": "none",
            "init": "kaiming",
            "back_scale": 0.1,
            "restriction": {"name": "frobenius", "to": 1.0},
        },
        "optim": {"name": "momentum", "lr": 0.05},
        "train": {"steps": 30},
    },
    facts={"paper": "Xiao et al. 2023", "published": "equations, code", "inferred": "accounting of energy"},
)
