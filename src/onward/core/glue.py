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
