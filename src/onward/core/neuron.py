"""What a neuron is to the engine: a recurrence over time with a local slope."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from onward.core.draws import Law
from onward.core.errors import ConfigError

State = tuple[Tensor, ...]


class Draw(Protocol):
    """Where a neuron gets its random numbers from; the same arguments give the same numbers."""

    def __call__(self, law: Law, part: str, like: Tensor, start: int = 0) -> Tensor:
        """A number for every element of ``like`` ``[k, B, ...]``: steps ``start`` and after of the chunk at hand."""
        ...


def undrawn(*_: Any, **__: Any) -> Tensor:
    """For neurons outside of any training; raises `ConfigError`."""
    raise ConfigError(
        "this neuron's surrogate draws random numbers, and nobody said from where; train it by a rule, or give `scan` "
        "and `unroll` a draw"
    )


def _unseen(law: Law, part: str, like: Tensor, start: int = 0) -> Tensor:  # noqa: ARG001
    """For slopes that nobody looks at."""
    return torch.zeros_like(like)


@dataclass(frozen=True)
class Firing:
    """What a neuron did during a chunk of K steps.

    ``out`` ``[K, B, ...]`` is what it sends; ``slope`` d out / d drive with the past held fixed (surrogate where
    the derivative does not exist); ``state`` what it hands to the next chunk; ``recall`` works out the potential.
    """

    out: Tensor
    slope: Tensor
    state: State
    recall: Callable[[], Tensor]

    @cached_property
    def potential(self) -> Tensor:
        """The membrane potential ``[K, B, ...]`` after charging, before the reset; worked out when first looked at."""
        return self.recall()


@dataclass(frozen=True)
class RateLaw:
    """The mean output as a function of the mean drive x^: top * clamp(slope * x^ + offset, 0, 1).

    Means over time in which a step weighs ``leak`` times what the next one does. ``closed`` says whether the bounds
    themselves pass gradients. The numbers may be tensors in a graph.
    """

    leak: float
    slope: Tensor | float
    offset: Tensor | float = 0.0
    top: Tensor | float = 1.0
    closed: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """The mean output, as a function that autograd can follow."""
        return self.top * _Saturate.apply(x * self.slope + self.offset, self.closed)

    def inside(self, x: Tensor, between: Tensor, above: Tensor) -> Tensor:
        """The same where it is known, by 0 and 1, which means lie between the bounds and which above."""
        return self.top * (between * (x * self.slope + self.offset) + above)

    @property
    def gain(self) -> Tensor | float:
        """d mean output / d mean drive between the bounds."""
        return self.top * self.slope


class _Saturate(torch.autograd.Function):
    """clamp(x, 0, 1), with a say in what happens on the bounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, closed: bool) -> Tensor:
        ctx.save_for_backward((x >= 0) & (x <= 1) if closed else (x > 0) & (x < 1))
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


@dataclass(frozen=True)
class Adaptation:
    """How spikes z raise their own neuron's threshold by ``strength`` A: A[t+1] = ``decay`` A[t] + z[t].

    ``scale`` is the slope d out / d drive over dz / dH, the derivative at the threshold.
    """

    strength: float
    decay: float
    scale: Tensor | float = 1.0


class Neuron(nn.Module, ABC):
    """A layer of neurons. It holds no state: membranes travel in the carry of the sequence."""

    noise: float = 0.0
    """Standard deviation of normal noise on what is sent, while it is trained; see `Interpreter.disturbed`."""

    @property
    @abstractmethod
    def decay(self) -> float:
        """Membrane leak per step, which is also the decay of eligibility traces towards it."""

    @property
    @abstractmethod
    def spiking(self) -> bool:
        """Whether ``out`` is a spike train (and hence cuts what back-propagates without surrogates)."""

    @property
    def rate_law(self) -> RateLaw | None:
        """Its rate at rest in a steady drive; None where a spike does not cost a fixed charge."""
        return None

    @property
    def adapts(self) -> Adaptation | None:
        """How its spikes raise its threshold; None where they do not."""
        return None

    @property
    def level(self) -> Tensor | float | None:
        """The membrane potential at which it fires; None where there is no such thing, or it moves."""
        return None

    @property
    def exact_zeros(self) -> bool:
        """Whether many slopes may be exactly 0, so that products may leave zeros out."""
        return False

    @abstractmethod
    def start(self, like: Tensor) -> State:
        """The state before the first step; ``like`` is one step's drive ``[B, ...]``."""

    @abstractmethod
    def scan(self, x: Tensor, state: State, draw: Draw = undrawn) -> Firing:
        """Runs over the chunk ``x`` ``[K, B, ...]`` without recording a graph; memory O(K)."""

    def simulate(self, x: Tensor, state: State) -> Firing:
        """As `scan`, where nobody asks for the slope."""
        return self.scan(x, state, _unseen)

    @abstractmethod
    def unroll(self, x: Tensor, state: State, draw: Draw = undrawn) -> tuple[Tensor, State, Tensor]:
        """Runs over the chunk as a function that autograd can follow back through time.

        Returns what is sent, the new state, and the (detached) potential before the reset. Memory O(K).
        """

    def leaves(self, like: Tensor, through_time: bool) -> int:
        """For plans of memory: how many tensors of the size of the chunk ``like`` `scan` (or `unroll`) leaves behind.

        Spikes, slope, and what the potential is recalled from; or spikes, and what the gradient needs.
        """
        return 3

    @abstractmethod
    def parameter_grads(self, credit: Tensor, firing: Firing) -> dict[str, Tensor]:
        """Gradients of declared parameters within each step, given ``credit`` = d loss / d out ``[K, B, ...]``."""

    def active(self) -> float | None:
        """The share of slopes that were not zero since this was last asked; None where it is not counted."""
        return None

    @abstractmethod
    def after_reset(self, firing: Firing) -> Tensor:
        """The membrane potential after the reset, ``[K, B, ...]``, for observers."""
