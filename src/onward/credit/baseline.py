"""What a readout is expected to be before noise touches it: the less is left, the less noise M averages over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor
from torch.nn.functional import one_hot

from onward.core.errors import ConfigError
from onward.core.registry import Choice, Registry
from onward.core.signal import Carry
from onward.credit.averages import Averages
from onward.credit.base import Head, Port


class Baseline(ABC):
    """An expectation b of the readout, from earlier sequences alone, so that chunks change no number."""

    @abstractmethod
    def keep(self, port: Port, averages: Averages, dtype: torch.dtype) -> None:
        """Makes room for what is averaged at ``port``."""

    @abstractmethod
    def centred(self, head: Head, out: Tensor, averages: Averages, carry: Carry, samples: int) -> Tensor:
        """o - b of a chunk ``[K, B, m]``, which joins the averages; ``samples`` is the size of the whole batch."""


class Nothing(Baseline):
    """b = 0."""

    def keep(self, port: Port, averages: Averages, dtype: torch.dtype) -> None:
        """Nothing is averaged."""

    def centred(self, head: Head, out: Tensor, averages: Averages, carry: Carry, samples: int) -> Tensor:
        """o."""
        return out


class Mean(Baseline):
    """The running mean of the readout."""

    def keep(self, port: Port, averages: Averages, dtype: torch.dtype) -> None:
        """See `Baseline.keep`."""
        averages.keep(_mean(port), torch.zeros(port.width, dtype=dtype))

    def centred(self, head: Head, out: Tensor, averages: Averages, carry: Carry, samples: int) -> Tensor:
        """See `Baseline.centred`."""
        name = _mean(head.port)
        averages.gather(carry, name, averages.aged(out).sum(1).sum(0) / samples, len(out))
        return out - averages[name].to(out)


class ClassMean(Baseline):
    """The running mean of the readout over samples of the same class; 0 for a class that was never seen."""

    def keep(self, port: Port, averages: Averages, dtype: torch.dtype) -> None:
        """See `Baseline.keep`: sums by class, and how many they are of."""
        averages.keep(_mean(port), torch.zeros(port.width, port.width, dtype=dtype))
        averages.keep(_count(port), torch.zeros(port.width, dtype=dtype))

    def centred(self, head: Head, out: Tensor, averages: Averages, carry: Carry, samples: int) -> Tensor:
        """See `Baseline.centred`; raises `ConfigError` for targets that are no classes of the readout."""
        y = head.y
        if y.dtype != torch.int64 or y.dim() != 1:
            raise ConfigError(
                f"a baseline by class needs a class for every sample, and targets of shape {list(y.shape)} and "
                f"{y.dtype} were given: use baseline 'mean'"
            )
        of = one_hot(y, head.port.width).to(out)
        sums, count = averages[_mean(head.port)].to(out), averages[_count(head.port)].to(out)
        seen = averages.aged(out.new_ones(len(out), 1, 1)).sum() / samples
        averages.gather(carry, _mean(head.port), of.T @ averages.aged(out).sum(0) / samples, len(out))
        averages.gather(carry, _count(head.port), of.sum(0) * seen, len(out))
        known = sums / count.clamp_min(torch.finfo(out.dtype).tiny)[:, None]
        return out - known[y]


def _mean(port: Port) -> str:
    """The attribute that holds the averages of a port's outputs."""
    return f"mean_{port.key}"


def _count(port: Port) -> str:
    """The attribute that holds how often classes were seen at a port."""
    return f"count_{port.key}"


baselines: Registry[Baseline] = Registry("baseline")
baselines.register("none", Choice, lambda choice: Nothing(), "nothing is subtracted")
baselines.register("mean", Choice, lambda choice: Mean(), "the readout's running mean")
baselines.register("class", Choice, lambda choice: ClassMean(), "its running mean over samples of the same class")

BaselineChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(baselines.parse)]
