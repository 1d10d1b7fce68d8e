"""Differentiation on spike representation: a spiking layer is differentiated as the clamp that it is on average.

    forward   o^ = sum_t w_t o[t] / sum_t w_t,  w_t = leak^(T-t),  o^ = clamp(slope I^, 0, top) + O(1/T)
    backward  G = sum_t dL/do[t],  dL/dI[t] = slope M G / T at every t,  M = 1 where I^ lies between the bounds, else 0
              dL/dV = sum of G where I^ lies above (neurons whose spikes are V high, `onward.neurons.Graded`)

No spike is differentiated, and nothing runs back through time. Where all glue is linear, the rule keeps two sums a
layer, memory O(n) whatever T is, and goes back once through the network of rates; normalisation over the sequence
(and other glue) makes it keep the sequence, O(T n). Serves feed-forward networks of neurons with a rate law.
Source: Meng et al. 2022 (CVPR).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from onward.core.backprop import Recorded, Tape, deposit_all
from onward.core.draws import Draws
from onward.core.errors import TopologyMismatch
from onward.core.graph import Kind, Node
from onward.core.interpret import LINEAR_GLUE, run_walk
from onward.core.network import Network
from onward.core.neuron import RateLaw
from onward.core.norms import PerSequence
from onward.core.rates import Keeps, RateRule, RateWalk, rate_laws, shares
from onward.core.registry import Choice
from onward.core.rule import Lesson, Traits
from onward.core.sequence import Sequence
from onward.core.signal import Signal, dense
from onward.kernels.rows import SparseRows
from onward.kernels.scan import weighted_sum
from onward.rules.registry import rules


class DSR(RateRule):
    """Differentiation on spike representation; see the module's docstring.

    ``spread`` is how a gradient is laid back over time: *even*, as published, meets plain mean rates, *weighted* the
    weighted means that the clamp is about (the same for neurons without leak). ``collapse`` is G: the exact *sum*, or
    as published the *weighted* T sum_t w_t g[t] / sum_t w_t, too large by T sum w^2 / (sum w)^2 at the output.
    """

    def __init__(self, spread: str = "even", collapse: str = "sum"):
        super().__init__(PerSequence())
        self.spread, self.collapse = spread, collapse

    @property
    def traits(self) -> Traits:
        """See `LearningRule.traits`."""
        return Traits(
            backward="step", memory="O(1)", per_step_error=False, weight_transport=True, stochastic=False, rate=True
        )

    def whole(self, net: Network) -> bool:
        """See `LearningRule.whole`: where means do not pass through glue, or the gain at the output is asked for."""
        bent = [node for node in net.of(Kind.GLUE) if not isinstance(node.module, LINEAR_GLUE)]
        glue = [*net.of(Kind.NORM), *net.of(Kind.JOIN), *bent]
        return bool(glue) or self.collapse == "weighted"

    def allocate(self, net: Network, sample: Sequence, draws: Draws) -> None:
        """See `LearningRule.allocate`; raises `TopologyMismatch` for cycles."""
        super().allocate(net, sample, draws)
        if net.cyclic:
            raise TopologyMismatch(
                "the network hears its own past, and dsr differentiates feed-forward networks; use rule 'ide' or "
                "'spide', which differentiate the equilibrium of a cycle"
            )

    def step(self, lesson: Lesson, x: Tensor | SparseRows) -> Tensor:
        """See `LearningRule.step`."""
        if not self.whole(lesson.net):
            return super().step(lesson, x)
        with torch.enable_grad():
            walk = WholeSequence(lesson, self)
            out = run_walk(walk, x)
        lesson.saw(walk.record)
        self.gather(lesson, out.detach())
        lesson.carry = Tape(**vars(lesson.carry), records=[walk.record])
        return out.detach()

    def finish(self, lesson: Lesson) -> None:
        """See `LearningRule.finish`."""
        if isinstance(lesson.carry, Tape):
            (record,) = lesson.carry.records
            weights = shares(lesson.context.steps, self.leak, record.out)
            return deposit_all(lesson, [record], [record.out], [self.errors(lesson) * weights])
        net = lesson.net
        with torch.enable_grad():
            walk = RateWalk(lesson, rate_laws(net), self.measured(lesson, net.neurons), {})
            run_walk(walk, self.inputs(lesson))
        deposit_all(lesson, [walk.record], [walk.record.out], [self.errors(lesson)])
        return None

    def keeps(self, net: Network) -> Keeps:
        """See `RateRule.keeps`: plain means too, where gradients are laid evenly and steps weigh differently."""
        plain = self.spread == "even" and self.leak != 1
        return Keeps({node.index: 1 + plain for node in net.neurons})

    def seen(self, mean: Signal) -> Signal:
        """See `RateRule.seen`."""
        return mean if self.spread == "even" else super().seen(mean)


class WholeSequence(Recorded):
    """The whole sequence as one chunk in one graph, in which a neuron is the clamp of its mean drive."""

    def __init__(self, lesson: Lesson, rule: DSR):
        super().__init__(lesson, rule.norms)
        self.laws = rate_laws(lesson.net)
        self.averaged = Averaged(lesson.context.steps, rule.leak, rule.spread, rule.collapse)

    def neuron(self, node: Node, signal: Signal) -> Signal:
        """Fires, and hangs the spikes on the clamp of the mean drive."""
        module: Any = node.module
        drive = dense(signal.sent)
        firing = module.simulate(drive.detach(), self.carry.states.get(node.index) or module.start(drive[0]))
        self.carry.states[node.index] = firing.state
        self.record.inputs[node.index], self.record.firings[node.index] = drive, firing
        out = self.averaged(self.laws[node.index], drive, firing.out)
        return Signal(out, out)


class Averaged:
    """Spikes as a function of the drive ``[T, B, ...]`` that autograd can follow: through their means over time."""

    def __init__(self, steps: int, leak: float, spread: str = "even", collapse: str = "sum"):
        self.weights = shares(steps, leak).flatten().tolist()
        self.laid = self.weights if spread == "weighted" else [1 / steps] * steps
        self.collapsed = [steps * w for w in self.weights] if collapse == "weighted" else [1.0] * steps

    def __call__(self, law: RateLaw, drive: Tensor, spikes: Tensor) -> Tensor:
        """The spikes; gradients are collapsed over time, pass the clamp, and are laid over time again."""
        return _Spikes.apply(law(_Mean.apply(drive, self.weights, self.laid)), spikes, self.collapsed)


class _Mean(torch.autograd.Function):
    """sum_t weights[t] x[t]; its gradient is laid back over time by other shares."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: list[float], laid: list[float]) -> Tensor:
        ctx.laid = laid
        return weighted_sum(x, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        share = grads[0].new_tensor(ctx.laid)
        return grads[0] * share.view(-1, *[1] * grads[0].dim()), None, None


class _Spikes(torch.autograd.Function):
    """The spikes in the place of their mean; gradients are collapsed over time."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, spikes: Tensor, collapsed: list[float]) -> Tensor:
        ctx.collapsed = collapsed
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return weighted_sum(grads[0], ctx.collapsed), None, None


class DSROptions(Choice):
    """Options of DSR."""

    spread: Literal["even", "weighted"] = Field(
        "even", description="how gradients are laid over time: evenly, as published, or as the mean weighs its steps"
    )
    collapse: Literal["sum", "weighted"] = Field(
        "sum", description="gradients over time: their sum, or the published weighted mean, which gains at the output"
    )


rules.register(
    "dsr",
    DSROptions,
    lambda choice: DSR(choice.spread, choice.collapse),
    "differentiation on spike representation: layers are differentiated as the clamps they are on average",
    brings={
        "neuron": "dsr-if",
        "objective": {"name": "readout", "reduce": "weighted"},
        "train": {"steps": 20},
    },
    facts={"paper": "Meng et al. 2022", "published": "equations, code, results", "inferred": "none"},
)
