"""Glue of our own, where torch has none: addition, scaling, learned shifts, copies, stochastic depth, delay."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, prelu

from onward.core.errors import ConfigError, TopologyMismatch


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


class Fitted(nn.Module, ABC):
    """Glue with parameters of its own, which rules teach as they do those of normalisation layers."""


class Shift(Fitted):
    """x + b_c, a learned offset for each channel (dimension 1 of ``[B, C, ...]``), 0 at first.

    In front of neurons with threshold theta it makes s = H(U - theta + b_c) (RSign of ReActNet, Liu et al. 2020).

    >>> shift = Shift(3)
    >>> bool((shift(torch.ones(2, 3, 4)) == 1).all())
    True
    """

    def __init__(self, channels: int):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x + b."""
        return x + per_channel(self.offset, x)

    def extra_repr(self) -> str:
        """The number of channels."""
        return f"{len(self.offset)}"


class RPReLU(Fitted):
    """y = PReLU_c(x - gamma_c) + zeta_c: a shift, a slope for what is negative, a shift, all learned (Liu et al. 2020).

    For each channel (dimension 1); shifts start at 0, slopes at ``slope``. With slope 1 and no shifts it is the
    identity.

    >>> RPReLU(1)(torch.tensor([[-1.0], [1.0]])).flatten().tolist()
    [-0.25, 1.0]
    """

    def __init__(self, channels: int, slope: float = 0.25):
        super().__init__()
        self.before, self.after = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), slope))

    def forward(self, x: Tensor) -> Tensor:
        """PReLU(x - gamma) + zeta."""
        return prelu(x - per_channel(self.before, x), self.slope) + per_channel(self.after, x)

    def extra_repr(self) -> str:
        """The number of channels."""
        return f"{len(self.slope)}"


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """``values`` ``[C]`` so that they broadcast to ``like`` ``[B, C, ...]``."""
    return values.view(-1, *[1] * (like.dim() - 2))


class Tile(nn.Module):
    """``times`` copies of all channels, one behind the other (dimension 1): a shortcut to a wider layer.

    >>> Tile(2)(torch.tensor([[1.0, 2.0]])).tolist()
    [[1.0, 2.0, 1.0, 2.0]]
    """

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """x, x, ..., x."""
        return x.repeat(1, self.times, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        """The number of copies."""
        return f"{self.times}"


class GroupMean(nn.Module):
    """The mean over ``groups`` equal groups of channels: a shortcut to a narrower layer, which undoes `Tile`.

    >>> GroupMean(2)(torch.tensor([[1.0, 2.0, 3.0, 6.0]])).tolist()
    [[2.0, 4.0]]
    """

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(x_1 + ... + x_g) / g."""
        return x.unflatten(1, (self.groups, -1)).mean(1)

    def extra_repr(self) -> str:
        """The number of groups."""
        return f"{self.groups}"


class DropPath(nn.Module):
    """A whole branch left out with probability p, else divided by 1 - p: stochastic depth (Huang et al. 2016).

    One number a sample and sequence. At the end of the body of a residual block it leaves x or x + body(x) / (1 - p),
    so that the mean is x + body(x), which is what evaluation computes. Raises `ConfigError` for no such p.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"a branch was to be left out with probability {p}; expected 0 <= p < 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x times 0 or 1 / (1 - p), as torch draws it; networks draw as they do for dropout, by sample."""
        return x * dropout(x.new_ones(len(x), *mask_size(self, x.shape[1:])), self.p, self.training)

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p:g}"


def mask_size(module: nn.Module, features: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a sample's dropout mask: one factor a number, a channel (`nn.Dropout2d`), or for all of it."""
    if isinstance(module, nn.Dropout):
        return features
    return (1 if isinstance(module, DropPath) else features[0], *[1] * (len(features) - 1))


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
