"""What a neuron is to the engine: a recurrence over time with a local slope."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

State = tuple[Tensor, ...]


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


class Neuron(nn.Module, ABC):
    """A layer of neurons. It holds no state: membranes travel in the carry of the sequence."""

    @property
    @abstractmethod
    def decay(self) -> float:
        """Membrane leak per step, which is also the decay of eligibility traces towards it."""

    @property
    @abstractmethod
    def spiking(self) -> bool:
        """Whether ``out`` is a spike train (and hence cuts what back-propagates without surrogates)."""

    @abstractmethod
    def start(self, like: Tensor) -> State:
        """The state before the first step; ``like`` is one step's drive ``[B, ...]``."""

    @abstractmethod
    def scan(self, x: Tensor, state: State) -> Firing:
        """Runs over the chunk ``x`` ``[K, B, ...]`` without recording a graph; memory O(K)."""

    @abstractmethod
    def unroll(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
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

    @abstractmethod
    def after_reset(self, firing: Firing) -> Tensor:
        """The membrane potential after the reset, ``[K, B, ...]``, for observers."""
