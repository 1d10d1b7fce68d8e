"""What a run asks of hidden layers, beside what it asks of the output: a loss of their mean activity.

    L = sum_l loss_l(m_l),     m_l = (1/T) sum_t s_l[t]

A rule that looks back on a whole sequence learns from dL/dm_l. A rule that learns while it runs takes the mean so far
in place of the mean: credit at s_l[t] is (1/T) dL/dm_l at (1/t) sum_{u<=t} s_l[u]. At one step, and where activity does
not change, both are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from onward.core.interpret import Record
from onward.core.signal import Carry, Context
from onward.core.sink import Sink


class Inner(ABC):
    """A loss of the mean activity of the hidden neurons ``sites`` (node indices), and tensors that learn from it."""

    sites: tuple[int, ...]

    @abstractmethod
    def loss(self, site: int, mean: Tensor) -> Tensor:
        """The loss of each sample for mean activity ``[B, *features]``: ``[B]``."""

    @abstractmethod
    def gradient(self, site: int, mean: Tensor) -> Tensor:
        """d loss / d mean of each sample, ``[..., B, *features]``."""

    @abstractmethod
    def fit(self, site: int, mean: Tensor, samples: int, sink: Sink) -> None:
        """Gradients of what the loss itself has learned, for mean activity ``[B, *features]`` of ``samples`` in all."""


def add_up(inner: Inner, record: Record, carry: Carry) -> dict[int, Tensor]:
    """Takes in a chunk; returns, by site, the mean activity up to each of its steps, ``[K, B, *features]``."""
    found = {}
    for site in inner.sites:
        sent = record.spikes[site].detach()
        sums = sent.cumsum(0)
        if (held := carry.sums.get(_key(site))) is not None:
            sums += held
        carry.sums[_key(site)] = sums[-1].clone()
        seen = torch.arange(record.start + 1, record.steps.stop + 1).to(sums)
        found[site] = sums / seen.view(-1, *[1] * (sums.dim() - 1))
    return found


def step_credit(inner: Inner, record: Record, carry: Carry, sink: Sink) -> dict[int, Tensor]:
    """Takes in a chunk; returns credit at the activity of its steps, by site. The last chunk fits what is learned."""
    context, means = record.context, add_up(inner, record, carry)
    if record.steps.stop == context.steps:
        fit(inner, carry, context, sink)
    scale = 1 / (context.steps * context.samples)
    return {site: inner.gradient(site, mean) * scale for site, mean in means.items()}


def whole_credit(inner: Inner, carry: Carry, context: Context) -> dict[int, Tensor]:
    """Credit at the activity of every step ``[B, *features]``, by site, once all chunks are taken in."""
    scale = 1 / (context.steps * context.samples)
    return {site: inner.gradient(site, _mean(site, carry, context.steps)) * scale for site in inner.sites}


def fit(inner: Inner, carry: Carry, context: Context, sink: Sink) -> None:
    """Gradients of what the loss itself has learned, once all chunks are taken in."""
    for site in inner.sites:
        inner.fit(site, _mean(site, carry, context.steps), context.samples, sink)


def total(inner: Inner, carry: Carry, steps: int) -> Tensor:
    """The mean loss, once all chunks are taken in."""
    return torch.stack([inner.loss(site, _mean(site, carry, steps)).mean() for site in inner.sites]).sum()


def _mean(site: int, carry: Carry, steps: int) -> Tensor:
    return carry.sums[_key(site)] / steps


def _key(site: int) -> str:
    return f"activity of {site}"
