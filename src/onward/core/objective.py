"""What a run minimises, and how its outputs over time become a prediction.

*Per-step* objectives average a loss over the steps, L = (1/T) sum_t l(o[t], y): their error
e[t] = dL/do[t] is known while the sequence runs. *Readout* objectives reduce the outputs over time first,
L = l(R(o[1..T]), y), and are known at its end. Losses average over the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from onward.core.errors import ConfigError, ObjectiveMismatch, ShapeError
from onward.core.inner import Inner
from onward.core.registry import Choice, Registry
from onward.core.trace import ones_trace
from onward.kernels.scan import leaky_sum


class Loss(ABC):
    """A loss of outputs ``o`` ``[..., B, m]`` and integer labels ``y`` ``[B]``, one number for each sample."""

    @abstractmethod
    def __call__(self, o: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, ``[..., B]``."""

    @abstractmethod
    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        """d loss / d o of each sample, in closed form, ``[..., B, m]``."""


def _onehot(o: Tensor, y: Tensor) -> Tensor:
    return F.one_hot(y, o.shape[-1]).to(o.dtype).expand_as(o)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log softmax(o)_y; gradient softmax(o) - onehot(y)."""

    def __call__(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.__call__`."""
        return o.logsumexp(-1) - o.gather(-1, y.expand(o.shape[:-1])[..., None])[..., 0]

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.gradient`."""
        return o.softmax(-1) - _onehot(o, y)


@dataclass(frozen=True)
class MSE(Loss):
    """Mean over classes of (o - target)^2; the target is the one-hot label, or ``constant`` for every class."""

    constant: float | None = None

    def __call__(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.__call__`."""
        return (o - self._target(o, y)).square().mean(-1)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.gradient`."""
        return (o - self._target(o, y)) * (2 / o.shape[-1])

    def _target(self, o: Tensor, y: Tensor) -> Tensor:
        return _onehot(o, y) if self.constant is None else torch.full_like(o, self.constant)


@dataclass(frozen=True)
class Mixed(Loss):
    """(1 - kappa) a + kappa b: with cross-entropy and an MSE to a constant this is TET (Deng et al. 2022)."""

    a: Loss
    b: Loss
    kappa: float

    def __call__(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.__call__`."""
        return (1 - self.kappa) * self.a(o, y) + self.kappa * self.b(o, y)

    def gradient(self, o: Tensor, y: Tensor) -> Tensor:
        """See `Loss.gradient`."""
        return (1 - self.kappa) * self.a.gradient(o, y) + self.kappa * self.b.gradient(o, y)


class Reduce(ABC):
    """How outputs over time become one vector a sample, chunk by chunk; memory O(1)."""

    @abstractmethod
    def __call__(self, held: Tensor | None, o: Tensor) -> Tensor:
        """The reduction of what was ``held`` ``[B, m]`` and the chunk ``o`` ``[K, B, m]``."""

    @abstractmethod
    def finish(self, held: Tensor, steps: int) -> Tensor:
        """The reduction's value after all ``steps``."""

    @property
    def decay(self) -> float | None:
        """What a step weighs, as a share of the next one, where the value depends on a weighted mean alone."""
        return None

    def gain(self, steps: int) -> float:
        """d value / d weighted mean."""
        return 1.0


@dataclass(frozen=True)
class Sum(Reduce):
    """Sum over time: spike counts, or summed logits."""

    @property
    def decay(self) -> float | None:
        """1: all steps weigh the same."""
        return 1.0

    def __call__(self, held: Tensor | None, o: Tensor) -> Tensor:
        """See `Reduce.__call__`."""
        return o.sum(0) if held is None else held + o.sum(0)

    def gain(self, steps: int) -> float:
        """See `Reduce.gain`: a sum is ``steps`` means."""
        return float(steps)

    def finish(self, held: Tensor, steps: int) -> Tensor:
        """See `Reduce.finish`."""
        return held


@dataclass(frozen=True)
class Mean(Reduce):
    """Mean over time: firing rates."""

    def __call__(self, held: Tensor | None, o: Tensor) -> Tensor:
        """See `Reduce.__call__`."""
        return Sum()(held, o)

    def finish(self, held: Tensor, steps: int) -> Tensor:
        """See `Reduce.finish`."""
        return held / steps

    @property
    def decay(self) -> float | None:
        """1: all steps weigh the same."""
        return 1.0


@dataclass(frozen=True)
class Weighted(Reduce):
    """Mean over time that forgets: sum_t leak^(T-t) o[t] / sum_t leak^(T-t), the weighted rate of leaky neurons."""

    leak: float

    def __call__(self, held: Tensor | None, o: Tensor) -> Tensor:
        """See `Reduce.__call__`."""
        return leaky_sum(o, held, self.leak)

    def finish(self, held: Tensor, steps: int) -> Tensor:
        """See `Reduce.finish`."""
        return held / ones_trace(steps - 1, steps, self.leak)[0]

    @property
    def decay(self) -> float | None:
        """The leak."""
        return self.leak


@dataclass(frozen=True)
class Max(Reduce):
    """Largest value over time."""

    def __call__(self, held: Tensor | None, o: Tensor) -> Tensor:
        """See `Reduce.__call__`."""
        return o.amax(0) if held is None else torch.maximum(held, o.amax(0))

    def finish(self, held: Tensor, steps: int) -> Tensor:
        """See `Reduce.finish`."""
        return held


class Objective(ABC):
    """A loss over a sequence; ``reduce`` gathers the evidence from which the class is predicted.

    ``inner`` is what it asks of hidden layers beside, if anything; no other method looks at it.
    """

    reduce: Reduce
    inner: Inner | None = None

    @property
    @abstractmethod
    def per_step(self) -> bool:
        """Whether the error of a step is known at that step."""

    @abstractmethod
    def step_losses(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """Each sample's share of the loss at each step of the chunk ``o`` ``[K, B, m]``: ``[K, B]`` (per-step only)."""

    @abstractmethod
    def errors(self, o: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """e[t] = dL / do[t] ``[K, B, m]``, divided by the number of steps and of samples (per-step only)."""

    @abstractmethod
    def total(self, evidence: Tensor, running: Tensor, y: Tensor, steps: int) -> Tensor:
        """The mean loss after the sequence; ``running`` is the sum of all `step_losses` ``[B]``."""

    def rate_errors(self, evidence: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """dL / d mean output ``[B, m]``, over the number of samples; `Reduce.decay` says which mean (readouts only)."""
        raise AssertionError("a per-step objective has no error of the mean output")

    def mixed(self, other: Loss, share: float) -> Objective:
        """The same objective with (1 - ``share``) of its loss and ``share`` of the ``other``."""
        raise ObjectiveMismatch(
            f"{type(self).__name__} does not say how another loss joins its own; use PerStep or Readout, or give it "
            "a method mixed(other, share)"
        )

    def asking(self, inner: Inner) -> Self:
        """The same objective, which asks something of hidden layers, too."""
        found = copy(self)
        found.inner = inner
        return found

    def logits(self, evidence: Tensor, steps: int) -> Tensor:
        """What a sequence as a whole says ``[B, m]``, on the scale of what the loss is taken of: the mean output."""
        return evidence / steps

    def predict(self, evidence: Tensor) -> Tensor:
        """The class of each sample."""
        return evidence.argmax(-1)

    def check(self, out: Tensor, y: Tensor) -> None:
        """Raises `ShapeError` when outputs ``[K, B, m]`` and labels do not fit."""
        if out.dim() != 3:
            raise ShapeError(
                f"the network's output has shape {list(out.shape)}; expected [time, batch, classes]: "
                "end the network with nn.Flatten() and a linear readout"
            )
        if y.shape != out.shape[1:2]:
            raise ShapeError(f"labels of shape {list(y.shape)} were given for a batch of {out.shape[1]}")
        if y.dtype != torch.int64:
            raise ShapeError(f"labels of dtype {y.dtype} were given; expected torch.int64: use y.long()")
        if int(y.max()) >= out.shape[2] or int(y.min()) < 0:
            raise ShapeError(
                f"label {int(y.max() if y.max() >= out.shape[2] else y.min())} was given, but the network has "
                f"{out.shape[2]} outputs: labels run from 0 to {out.shape[2] - 1}"
            )


class PerStep(Objective):
    """L = (1/T) sum_t loss(o[t], y); the prediction is the largest sum of outputs.

    >>> objective = PerStep(CrossEntropy())
    >>> e = objective.errors(torch.zeros(2, 1, 4), torch.tensor([3]), steps=2, samples=1)
    >>> e[0, 0].tolist()
    [0.125, 0.125, 0.125, -0.375]
    """

    def __init__(self, loss: Loss):
        self.loss, self.reduce = loss, Sum()

    @property
    def per_step(self) -> bool:
        """True."""
        return True

    def step_losses(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.step_losses`."""
        return self.loss(o, y) / steps

    def errors(self, o: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """See `Objective.errors`."""
        return self.loss.gradient(o, y) / (steps * samples)

    def total(self, evidence: Tensor, running: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.total`."""
        return running.mean()

    def mixed(self, other: Loss, share: float) -> Objective:
        """See `Objective.mixed`."""
        return PerStep(Mixed(self.loss, other, share))


class Readout(Objective):
    """L = loss(reduce(o), y): cross-entropy of the rate (Mean), of spike counts (Sum), or of the maximum (Max)."""

    def __init__(self, loss: Loss, reduce: Reduce):
        self.loss, self.reduce = loss, reduce

    @property
    def per_step(self) -> bool:
        """False."""
        return False

    def step_losses(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """Zero: the loss of a readout belongs to no step."""
        return o.new_zeros(o.shape[:2])

    def errors(self, o: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """Never asked for: `LearningRule.bind` refuses the pair of a per-step rule and a readout."""
        raise AssertionError("a readout has no per-step error")

    def rate_errors(self, evidence: Tensor, y: Tensor, steps: int, samples: int) -> Tensor:
        """See `Objective.rate_errors`."""
        gain = self.reduce.gain(steps) / samples
        return self.loss.gradient(self.reduce.finish(evidence, steps), y) * gain

    def total(self, evidence: Tensor, running: Tensor, y: Tensor, steps: int) -> Tensor:
        """See `Objective.total`."""
        return self.loss(self.reduce.finish(evidence, steps), y).mean()

    def mixed(self, other: Loss, share: float) -> Objective:
        """See `Objective.mixed`."""
        return Readout(Mixed(self.loss, other, share), self.reduce)

    def logits(self, evidence: Tensor, steps: int) -> Tensor:
        """See `Objective.logits`: the reduction itself."""
        return self.reduce.finish(evidence, steps)


class LossOptions(Choice):
    """Options of a loss."""

    kappa: float = Field(0.0, ge=0, le=1, description="weight of the MSE term beside the cross-entropy")
    target: float | None = Field(None, description="MSE target of every class; none means the one-hot label")


class ReadoutOptions(LossOptions):
    """Options of a readout objective."""

    reduce: Literal["mean", "weighted", "sum", "max"] = Field(
        "mean", description="how outputs over time become one vector; weighted: a mean that forgets"
    )
    decay: float | None = Field(
        None, gt=0, le=1, description="what a step of the weighted mean weighs, as a share of the next; none: the leak"
    )


def _loss(choice: LossOptions) -> Loss:
    mse = MSE(choice.target)
    if choice.kappa == 0:
        return CrossEntropy()
    return mse if choice.kappa == 1 else Mixed(CrossEntropy(), mse, choice.kappa)


_REDUCE: dict[str, Reduce] = {"mean": Mean(), "sum": Sum(), "max": Max()}


def _reduce(choice: ReadoutOptions) -> Reduce:
    if choice.reduce != "weighted":
        return _REDUCE[choice.reduce]
    if choice.decay is None:
        raise ConfigError("a weighted mean of outputs needs its decay; give objective.decay, such as 0.95")
    return Weighted(choice.decay)


objectives: Registry[Objective] = Registry("objective")
objectives.register("per-step", LossOptions, lambda c: PerStep(_loss(c)), "mean over steps of CE + kappa MSE")
objectives.register(
    "tet",
    LossOptions,
    lambda c: PerStep(_loss(c)),
    "per-step CE + MSE to the threshold",
    defaults={"kappa": 0.05, "target": 1.0},
)
objectives.register(
    "readout",
    ReadoutOptions,
    lambda c: Readout(_loss(c), _reduce(c)),
    "CE or MSE of the outputs' mean, weighted mean, sum or maximum",
)

ObjectiveChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(objectives.parse)]
