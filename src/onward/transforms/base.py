"""Transforms: sinks in front of another one that know about a sequence of tasks."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from onward.core.graph import Kind, Node
from onward.core.network import Network
from onward.core.sink import Forwarding, Sink
from onward.transforms.guard import Trusted, Updates


class Transform(Forwarding):
    """Passes everything on, and does nothing between tasks; see `onward.transforms.hlop` for one that does more.

    ``modules`` holds all that must survive a checkpoint, in its final size. The order of calls is ``begin_task(0)``,
    ``begin_pass()`` before every pass over the task's data, ``end_task()``, ``begin_task(1)``, ... Between ``end_task``
    and the next ``begin_task`` what is learned (replay, say) passes through untouched.
    """

    modules: nn.Module

    def __init__(self, inner: Sink):
        super().__init__(inner)
        self.modules = nn.Module()

    def begin_task(self, number: int) -> None:
        """A task starts; they are numbered from 0."""

    def begin_pass(self) -> None:
        """A pass over the task's data starts."""

    def end_task(self) -> None:
        """The task ended: what was learned of it is protected from here on."""

    def gathers(self, inputs: Callable[[Node], int]) -> int:
        """Bytes that are gathered while a sequence lasts, at most; ``inputs`` are how many a synapse gets in it."""
        return 0

    def metrics(self) -> dict[str, float]:
        """Numbers worth a line in the log."""
        return {}

    def warnings(self) -> list[str]:
        """What a user should know, in plain words."""
        return []

    def after_first(self, net: Network) -> dict[str, nn.Parameter]:
        """The parameters that must stay as they are once the first task ended, by name."""
        return unprojected(net)

    def guard(self, optimizer: Optimizer) -> Updates:
        """What to do around the steps of ``optimizer``; made anew with every optimiser, that is for every task.

        Raises `ConfigError` for an optimiser that would undo the protection.
        """
        return Trusted()


def unprojected(net: Network) -> dict[str, nn.Parameter]:
    """Everything that no projection protects: biases, and all of normalisation layers and neurons (thresholds)."""
    apart = {id(p) for node in (*net.fitted_glue, *net.neurons) for p in node.module.parameters()}
    return {name: p for name, p in net.named_parameters() if p.dim() <= 1 or id(p) in apart}


def freeze_after_first(net: Network, transform: Transform) -> None:
    """Fixes what must stay as it is after the first task; normalisation goes on with the statistics it has.

    Call it again after ``net.train()``, which would let statistics move.
    """
    for parameter in transform.after_first(net).values():
        parameter.requires_grad_(False)
    for node in net.of(Kind.NORM):
        node.module.eval()
