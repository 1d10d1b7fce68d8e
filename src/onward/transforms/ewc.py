"""Elastic weight consolidation: weights that mattered to earlier tasks are pulled back to where those left them.

    G <- G + strength F (W - W*)        F = sum over earlier tasks of the mean of G^2 over the task's last pass

W* are the weights at the end of the last task: one anchor for all earlier ones (online EWC). F is taken from the rule's
own mini-batch gradients, whose squares are about 1 / batch size of those of single samples where the mean gradient is
small; ``strength`` makes up for it. A baseline for projections, which forbid what this makes dear. Time: one pass over
the weights an update. Memory: three numbers a weight. Source: Kirkpatrick et al. 2017; online: Schwarz et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from onward.core.draws import Draws
from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.core.network import Network
from onward.core.registry import Choice
from onward.core.rule import LearningRule
from onward.core.sink import Sink
from onward.core.synapse import effective
from onward.transforms.base import Transform
from onward.transforms.registry import transforms


class Anchor(nn.Module):
    """Where one weight should stay, and how much each of its numbers matters."""

    place: Tensor
    matters: Tensor
    squares: Tensor
    passed: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        for name in ("place", "matters", "squares"):
            self.register_buffer(name, torch.zeros_like(weight))
        self.register_buffer("passed", weight.new_zeros(()))

    def restart(self) -> None:
        """A pass starts: what earlier ones of the task told is void, weights have moved since."""
        self.squares.zero_()
        self.passed.zero_()

    def see(self, grad: Tensor) -> None:
        """A mini-batch's gradient."""
        self.squares.addcmul_(grad, grad)
        self.passed += 1

    def settle(self, weight: Tensor) -> None:
        """The task ended with this weight."""
        self.matters.add_(self.squares / self.passed.clamp_min(1))
        self.place.copy_(weight)


class State(nn.Module):
    """What must survive a checkpoint: whether a task goes on, and the anchors."""

    within: Tensor

    def __init__(self, nodes: list[Node]):
        super().__init__()
        weights = {f"synapse{node.index}": effective(node.module)["weight"].detach() for node in nodes}
        self.register_buffer("within", torch.zeros((), dtype=torch.bool, device=next(iter(weights.values())).device))
        self.anchors = nn.ModuleDict({name: Anchor(weight) for name, weight in weights.items()})

    def of(self, node: Node) -> Any:
        """The anchor of a synapse."""
        return self.anchors[f"synapse{node.index}"]


class EWC(Transform):
    """See the module's docstring. Raises `ConfigError` for rules that try weights out and deposit nothing.

    >>> from onward.core import GradSink
    >>> from onward.rules import rules
    >>> net = Network(nn.Sequential(nn.Linear(2, 1, bias=False)))
    >>> ewc = EWC(net, GradSink(net), rules.build("bptt"), strength=2.0)
    >>> ewc.begin_task(0)
    >>> ewc.deposit(net.synapses[0], torch.ones(1, 1, 2), torch.ones(1, 1, 1))
    >>> ewc.flush()
    >>> ewc.end_task()
    >>> ewc.state.of(net.synapses[0]).matters
    tensor([[1., 1.]])
    """

    def __init__(self, net: Network, inner: Sink, rule: LearningRule, strength: float):
        super().__init__(inner)
        if rule.traits.from_loss:
            raise ConfigError(
                "transform ewc needs the gradient of each weight, and this rule deposits none; choose one that does, "
                "such as bptt or opzo"
            )
        self.strength = strength
        self.nodes = [node for node in net.synapses if "weight" in effective(node.module)]
        self.state = State(self.nodes)
        self.modules = self.state
        for node in self.nodes:
            inner.revise(node, self._pulling(node))

    def begin_task(self, number: int) -> None:
        """See `Transform.begin_task`."""
        self.state.within.fill_(True)

    def begin_pass(self) -> None:
        """See `Transform.begin_pass`."""
        for node in self.nodes:
            self.state.of(node).restart()

    @torch.no_grad()
    def end_task(self) -> None:
        """See `Transform.end_task`."""
        for node in self.nodes:
            self.state.of(node).settle(effective(node.module)["weight"])
        self.state.within.fill_(False)

    def _pulling(self, node: Node) -> Callable[[dict[str, Tensor]], None]:
        anchor = self.state.of(node)

        @torch.no_grad()
        def change(grads: dict[str, Tensor]) -> None:
            if self.state.within:
                anchor.see(grads["weight"])
                away = effective(node.module)["weight"] - anchor.place
                grads["weight"].addcmul_(anchor.matters, away, value=self.strength)

        return change


class EWCOptions(Choice):
    """Options of elastic weight consolidation."""

    strength: float = Field(
        100.0, ge=0, description="of the pull towards earlier weights; too much of it, for the rate, diverges"
    )


def _build(choice: Any, net: Network, inner: Sink, rule: LearningRule, draws: Draws, tasks: int) -> Transform:  # noqa: ARG001
    return EWC(net, inner, rule, choice.strength)


transforms.register(
    "ewc",
    EWCOptions,
    _build,
    "elastic weight consolidation: weights that mattered are pulled back to where earlier tasks left them",
    facts={"paper": "Kirkpatrick et al. 2017", "published": "equations", "inferred": "strength"},
)
