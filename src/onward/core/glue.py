"""Glue of our own, where torch has none: addition, scaling, delay."""

from __future__ import annotations

from torch import Tensor, nn

from onward.core.errors import TopologyMismatch


class Add(nn.Module):
    """Sum of two signals."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b."""
        return a + b


class Scale(nn.Module):
    """Multiplication by a constant.

    >>> import torch
    >>> Scale(2.74)(torch.ones(1)).item() > 2.7
    True
    """

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """factor * x."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The factor."""
        return f"{self.factor:.4g}"


class Delay(nn.Module):
    """A feed-forward delay of ``steps`` time steps; zeros come first."""

    def __init__(self, steps: int = 1):
        super().__init__()
        if steps < 1:
            raise TopologyMismatch(f"a delay of {steps} steps was given; expected at least 1")
        self.steps = steps

    def extra_repr(self) -> str:
        """The number of steps."""
        return f"{self.steps}"


class Heads(nn.Module):
    """The outputs of one task, of ``classes`` each: ``x[..., task * classes : (task + 1) * classes]``.

    Stands behind a readout that serves several tasks; `turn` says whose turn it is. Readouts of the others get no
    gradient.
    """

    def __init__(self, tasks: int, classes: int):
        super().__init__()
        self.tasks, self.classes, self.task = tasks, classes, 0

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the task at hand."""
        return x[..., self.task * self.classes : (self.task + 1) * self.classes]

    def extra_repr(self) -> str:
        """How many tasks, of how many classes."""
        return f"{self.tasks} x {self.classes}"


def turn(net: nn.Module, task: int) -> None:
    """Every `Heads` in ``net`` answers for ``task``; a network without any is left as it is."""
    for module in net.modules():
        if isinstance(module, Heads):
            module.task = task
