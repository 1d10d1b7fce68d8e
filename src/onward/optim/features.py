"""What a learned optimiser sees of a gradient: one row of numbers for each coordinate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from onward.core.registry import Choice, Registry

State = dict[str, Tensor]


class Features(ABC):
    """Turns the gradient ``[n]`` of one tensor into rows ``[n, width]``, which are constants to the optimiser.

    What it remembers of earlier gradients is in ``state``: tensors that are 0 at the start.
    """

    width: int
    linear = False
    """Whether rows are a linear, time-invariant function of the gradients so far."""

    @abstractmethod
    def rest(self, like: Tensor) -> State:
        """The memory at the start, for a gradient such as ``like`` ``[n]``."""

    @abstractmethod
    def __call__(self, g: Tensor, state: State) -> Tensor:
        """The rows; ``state`` moves on in place."""


class Raw(Features):
    """The gradient itself."""

    width, linear = 1, True

    def rest(self, like: Tensor) -> State:
        """See `Features.rest`."""
        return {}

    def __call__(self, g: Tensor, state: State) -> Tensor:
        """See `Features.__call__`."""
        return g[:, None]


@dataclass(frozen=True)
class SmoothLog(Features):
    """(max(ln(abs(g) + eps) / p, -1), clip(e^p g, -1, 1)): size and sign apart (Andrychowicz et al. 2016, their code).

    >>> SmoothLog(5.0)(torch.tensor([1.0, 0.0]), {}).round().tolist()
    [[0.0, 1.0], [-1.0, 0.0]]
    """

    p: float = 5.0
    eps: float = 1e-7
    width = 2

    def rest(self, like: Tensor) -> State:
        """See `Features.rest`."""
        return {}

    def __call__(self, g: Tensor, state: State) -> Tensor:
        """See `Features.__call__`."""
        size = (g.abs() + self.eps).log().div(self.p).clamp_min(-1)
        return torch.stack([size, (exp(self.p) * g).clamp(-1, 1)], dim=1)


@dataclass(frozen=True)
class BranchedLog(Features):
    """(ln(abs(g) + eps) / p, sign(g)) where abs(g) > e^-p, else (-1, e^p g) (Andrychowicz et al. 2016, the paper)."""

    p: float = 10.0
    eps: float = 0.0
    width = 2

    def rest(self, like: Tensor) -> State:
        """See `Features.rest`."""
        return {}

    def __call__(self, g: Tensor, state: State) -> Tensor:
        """See `Features.__call__`."""
        large = g.abs() > exp(-self.p)
        size = torch.where(large, (g.abs() + self.eps).log() / self.p, -torch.ones_like(g))
        return torch.stack([size, torch.where(large, g.sign(), exp(self.p) * g)], dim=1)


@dataclass(frozen=True)
class Normalised(Features):
    """g / (r + eps), with r^2 the running mean of the tensor's mean square gradient, without bias at the start.

    A gradient of another scale looks the same, so that a learned optimiser can move to another network.
    """

    decay: float = 0.99
    eps: float = 1e-12
    width = 1

    def rest(self, like: Tensor) -> State:
        """See `Features.rest`."""
        return {"square": like.new_zeros(()), "weight": like.new_zeros(())}

    def __call__(self, g: Tensor, state: State) -> Tensor:
        """See `Features.__call__`."""
        state["square"].lerp_(g.square().mean(), 1 - self.decay)
        state["weight"].lerp_(torch.ones_like(state["weight"]), 1 - self.decay)
        return (g / ((state["square"] / state["weight"]).sqrt() + self.eps))[:, None]


@dataclass(frozen=True)
class WithMomenta(Features):
    """Besides the gradient, running means of it at several decays, each seen as ``inner`` sees the gradient.

    Memory: one number a coordinate and decay.
    """

    inner: Features
    decays: tuple[float, ...]

    @property
    def width(self) -> int:  # type: ignore[override]
        """Those of the gradient, and of every mean."""
        return self.inner.width * (1 + len(self.decays))

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """As the inner features are."""
        return self.inner.linear

    def rest(self, like: Tensor) -> State:
        """See `Features.rest`."""
        means = like.new_zeros(len(self.decays), len(like))
        parts = range(1 + len(self.decays))
        return {"means": means, **{f"{k}.{i}": t for i in parts for k, t in self.inner.rest(like).items()}}

    def __call__(self, g: Tensor, state: State) -> Tensor:
        """See `Features.__call__`."""
        for number, decay in enumerate(self.decays):
            state["means"][number].lerp_(g, 1 - decay)
        return torch.cat([self._seen(i, part, state) for i, part in enumerate((g, *state["means"]))], dim=1)

    def _seen(self, number: int, part: Tensor, state: State) -> Tensor:
        own = {key.rpartition(".")[0]: t for key, t in state.items() if key.rpartition(".")[2] == str(number)}
        return self.inner(part, own)


class LogOptions(Choice):
    """Options of the logarithmic features."""

    p: float = Field(5.0, gt=0, le=50, description="the smallest gradient whose size is seen is e^-p")
    eps: float = Field(1e-7, ge=0, description="added to the size before its logarithm is taken")


class NormalisedOptions(Choice):
    """Options of normalised features."""

    decay: float = Field(0.99, ge=0, lt=1, description="what the mean square keeps per update")
    eps: float = Field(1e-12, gt=0, description="added to the root of the mean square")


def with_momenta(inner: Features, decays: Sequence[float]) -> Features:
    """``inner`` alone where there are no ``decays``."""
    return WithMomenta(inner, tuple(decays)) if decays else inner


def _smooth(choice: Any) -> Features:
    return SmoothLog(choice.p, choice.eps)


def _branched(choice: Any) -> Features:
    return BranchedLog(choice.p, choice.eps)


def _normalised(choice: Any) -> Features:
    return Normalised(choice.decay, choice.eps)


inputs: Registry[Features] = Registry("input")
inputs.register("raw", Choice, lambda choice: Raw(), "the gradient itself")
inputs.register("log", LogOptions, _smooth, "size and sign apart, smoothly (L2L, the code)")
inputs.register(
    "log-branched",
    LogOptions,
    _branched,
    "the same, in two branches (L2L, the paper)",
    defaults={"p": 10.0, "eps": 0.0},
)
inputs.register("normalised", NormalisedOptions, _normalised, "the gradient over its running root mean square")
