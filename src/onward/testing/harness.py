"""Runs a rule on a mini-batch and returns all that can be observed: outputs, gradients, deposits, memories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from onward.core import CrossEntropy, Frames, GradSink, KeyedDraws, LearningRule, Network, PerStep
from onward.core.draws import Draws
from onward.core.graph import Node
from onward.core.group import Share
from onward.core.interpret import Record
from onward.core.objective import Objective, Readout, Weighted
from onward.core.probe import Run
from onward.core.rule import Lesson
from onward.core.run import run_sequence
from onward.core.sequence import Sequence
from onward.core.signal import Carry, Context, dense
from onward.core.sink import Forwarding, Sink
from onward.core.tangent import Along
from onward.core.trace import Postsynaptic, Presynaptic
from onward.rules import rules

OBJECTIVE = PerStep(CrossEntropy())


def suited(rule: LearningRule, net: Network) -> Objective:
    """The objective that the tests teach with: per step, or the weighted rate where the rule learns from rates."""
    modules: list[Any] = [node.module for node in net.neurons]
    laws = [module.rate_law for module in modules]
    return (
        Readout(CrossEntropy(), Weighted(laws[0].leak if laws and laws[0] else 1.0)) if rule.traits.rate else OBJECTIVE
    )


@dataclass
class Deposit:
    """One call of `Sink.deposit`, copied."""

    node: Node
    pre: Tensor
    post: Tensor
    bias_gain: list[float] | None


class Spy(Forwarding):
    """Notes every deposit and passes it on."""

    def __init__(self, inner: Sink):
        super().__init__(inner)
        self.deposits: list[Deposit] = []

    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """See `Sink.deposit`."""
        self.deposits.append(Deposit(node, dense(pre).clone(), dense(post).clone(), bias_gain))
        super().deposit(node, pre, post, bias_gain)


class ForcedError(Objective):
    """The given errors ``[1, B, m]`` at every step, whatever the network says: isolates how a rule uses them."""

    def __init__(self, errors: Tensor):
        self._errors, self.reduce = errors, OBJECTIVE.reduce

    @property
    def per_step(self) -> bool:
        """Yes."""
        return True

    def step_losses(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.step_losses`."""
        return self._errors.abs().sum(-1).expand(o.shape[:2]).to(o)

    def errors(self, o: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """The given ones."""
        return self._errors.expand(o.shape).to(o)

    def rate_errors(self, evidence: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """The given ones, small enough for signals of bounded range."""
        return 1e-3 * self._errors[0].expand(evidence.shape).to(evidence)

    def total(self, evidence: Tensor, running: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.total`."""
        return running.mean()


@dataclass
class Taught:
    """What one sequence did."""

    outs: Tensor
    loss: Tensor
    grads: dict[str, Tensor]
    deposits: list[Deposit]
    states: dict[str, tuple[Tensor, ...]]
    records: list[Record] = field(repr=False)

    def posts(self, name: str) -> Tensor:
        """All posts of one synapse, ``[T, B, ...]``."""
        return torch.cat([d.post for d in self.deposits if d.node.name == name])

    def pres(self, name: str) -> Tensor:
        """All pres of one synapse, ``[T, B, ...]``."""
        return torch.cat([d.pre for d in self.deposits if d.node.name == name])


def bound(
    rule: str | Mapping[str, Any] | LearningRule,
    net: Network,
    x: Tensor | Sequence,
    objective: Objective | None = None,
    draws: Draws | None = None,
) -> LearningRule:
    """A rule, built if need be, bound to ``net``."""
    built = rule if isinstance(rule, LearningRule) else rules.build(rule)
    built.bind(
        net, objective or suited(built, net), x if isinstance(x, Sequence) else Frames(x), draws or KeyedDraws(0)
    )
    return built


def teach(
    net: Network,
    rule: str | Mapping[str, Any] | LearningRule,
    x: Tensor | Sequence,
    y: Tensor,
    *,
    objective: Objective | None = None,
    draws: Draws | None = None,
    sequence: int = 0,
    **options: Any,
) -> Taught:
    """One sequence; a rule given by name is built and bound first. Gradients start from nothing."""
    x, draws = x if isinstance(x, Sequence) else Frames(x), draws or KeyedDraws(0)
    taught = rule if isinstance(rule, LearningRule) else bound(rule, net, x, objective, draws)
    clear(net, taught)
    objective = objective or suited(taught, net)
    sink, records = Spy(GradSink(net)), []
    outcome = run_sequence(
        net, taught, objective, x, y, sink, draws=draws, sequence=sequence, watch=records.append, **options
    )
    sink.flush()
    return Taught(
        torch.cat([record.out.detach() for record in records]),
        outcome.loss,
        gradients(net, taught),
        sink.deposits,
        {net.nodes[i].name: firing.state for i, firing in records[-1].firings.items()},
        records,
    )


def teach_in_parts(
    net: Network, rule: LearningRule, x: Tensor, y: Tensor, cuts: Iterable[int], *, seed: int = 0
) -> dict[str, Tensor]:
    """The gradients when the sequence is handed over piece by piece, only the carry surviving in between."""
    clear(net, rule)
    sink, context = GradSink(net), Context(KeyedDraws(seed), torch.arange(x.shape[1]), 0, len(x), Share(x.shape[1]))
    lesson = Lesson(net, suited(rule, net), Frames(x), y, sink, context)
    rule.begin(lesson)
    for start, stop in pairwise([0, *cuts, len(x)]):
        rule.step(lesson, x[start:stop])
        lesson = Lesson(net, suited(rule, net), Frames(x), y, sink, context, lesson.carry)
    rule.finish(lesson)
    sink.flush()
    return gradients(net, rule)


def clear(net: Network, rule: nn.Module) -> None:
    """Forgets all gradients."""
    for parameter in [*net.parameters(), *rule.parameters()]:
        parameter.grad = None


def gradients(net: nn.Module, rule: nn.Module) -> dict[str, Tensor]:
    """Gradients by name; those of the rule's own tensors start with ``rule.``."""
    named = [*net.named_parameters(), *((f"rule.{name}", p) for name, p in rule.named_parameters())]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def buffers(rule: nn.Module) -> dict[str, Tensor]:
    """A rule's floating-point buffers, copied."""
    return {name: b.clone() for name, b in rule.named_buffers() if b.is_floating_point()}


def assert_close(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-10) -> None:
    """Same names, and every tensor within ``rtol`` of the largest entry of its counterpart."""
    assert set(given) == set(expected)
    worst = {name: relative(given[name], expected[name]) for name in expected}
    assert all(error <= rtol for error in worst.values()), worst


def relative(given: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude, which is taken to be 1e-4 at least: for what cancels exactly."""
    assert given.shape == expected.shape, (given.shape, expected.shape)
    scale = expected.abs().max().clamp_min(1e-4)
    return float((given - expected).abs().max() / scale)


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are equal bit by bit."""
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def carried(carry: Carry) -> list[Tensor]:
    """Every tensor that a carry keeps from one chunk to the next, tapes included."""
    found: list[Tensor] = []
    _collect(vars(carry), found, set())
    return found


def _collect(value: Any, found: list[Tensor], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found, seen)
    elif isinstance(value, list | tuple | set):
        for item in value:
            _collect(item, found, seen)
    elif isinstance(value, Carry | Run | Along):
        _collect(vars(value), found, seen)
    elif isinstance(value, Record):
        for name, item in vars(value).items():
            if name not in ("net", "context"):
                _collect(item, found, seen)


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of distinct storages."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
