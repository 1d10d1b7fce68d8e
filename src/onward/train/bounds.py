"""Latent weights that are put back into their range after every update."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from onward.train.config import RunConfig
from onward.transforms import Updates
from onward.weights import latents
from onward.weights.kinds import BinaryOptions


class Bounded(Updates):
    """``inner``, and after every step the ``weights`` clamped to [-bound, bound]. Costs a pass over them."""

    def __init__(self, inner: Updates, weights: Iterable[nn.Parameter], bound: float):
        self.inner, self.weights, self.bound = inner, list(weights), bound

    def before(self) -> None:
        """See `Updates.before`."""
        self.inner.before()

    @torch.no_grad()
    def after(self) -> None:
        """See `Updates.after`."""
        self.inner.after()
        for weight in self.weights:
            weight.clamp_(-self.bound, self.bound)

    @property
    def leakage(self) -> float:
        """See `Updates.leakage`."""
        return self.inner.leakage


def bounded(config: RunConfig, net: nn.Module, updates: Updates) -> Updates:
    """``updates``, and the bound of latent weights where ``config`` has one."""
    choice = config.weights
    if not isinstance(choice, BinaryOptions) or choice.bound is None:
        return updates
    return Bounded(updates, latents(net), choice.bound)
