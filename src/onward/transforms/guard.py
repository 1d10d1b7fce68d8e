"""Updates that respect what is protected: a projected gradient is worth only as much as the optimiser leaves of it.

A change of weights dW leaves old responses alone where dW H^T = 0. Plain SGD, with momentum too, sums projected
gradients, and Adam with one second moment a tensor scales them: both keep their row space. What scales elementwise
(Adam, Adagrad), shrinks weights (weight decay) or maps gradients otherwise (a learned optimiser) does not.

    projected updates   W <- W0 + (W - W0)(I - H^T H) after every step, W0 what it was before: serves any optimiser
    leakage             ||(W - W0) H^T|| / ||W - W0||
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from onward.core.errors import ConfigError
from onward.optim.layer_adam import LayerAdam
from onward.transforms.subspace import Protected, Subspace

KEEPS_ROWS = (SGD, LayerAdam)
"""Optimisers whose updates are sums of multiples of gradients, one number for a whole tensor."""

MOST_STALE = 1e-3
"""The share of a velocity that may lie in the rows held: what rows that are not quite orthonormal leave."""


class Updates(ABC):
    """Stands by every step of an optimiser: ``before()``, the step, ``after()``."""

    @abstractmethod
    def before(self) -> None:
        """The optimiser is about to step."""

    @abstractmethod
    def after(self) -> None:
        """The optimiser stepped."""

    @property
    @abstractmethod
    def leakage(self) -> float:
        """The part of the last step that would have changed old responses, had nothing been done about it."""


class Trusted(Updates):
    """Nothing to do. Costs nothing."""

    def before(self) -> None:
        """See `Updates.before`."""

    def after(self) -> None:
        """See `Updates.after`."""

    @property
    def leakage(self) -> float:
        """Nothing leaks."""
        return 0.0


class Projected(Updates):
    """Takes out of every step what would change old responses. Costs a copy of the weights and two products a step.

    Steps made while nothing is held yet cost nothing.
    """

    def __init__(self, protected: Sequence[Protected]):
        self.protected = protected
        self._before: list[Tensor] = []
        self._leaked: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """See `Updates.before`."""
        self._before = [p.weight.clone() if int(p.subspace.fixed) else p.weight.new_empty(0) for p in self.protected]

    @torch.no_grad()
    def after(self) -> None:
        """See `Updates.after`."""
        self._leaked = []
        for one, start in zip(self.protected, self._before, strict=True):
            if start.numel():
                step = one.weight - start
                inside = one.subspace.project(step.flatten(1))
                self._leaked.append(torch.stack([inside.norm(), step.norm()]))
                one.weight.sub_(inside.view(step.shape))

    @property
    def leakage(self) -> float:
        """See `Updates.leakage`."""
        if not self._leaked:
            return 0.0
        inside, total = torch.stack(self._leaked).norm(dim=0).tolist()
        return inside / total if total else 0.0


def leakage(before: Tensor, after: Tensor, subspace: Subspace) -> float:
    """||(W - W0) H^T|| / ||W - W0|| over the held rows; 0 where nothing moved."""
    step = (after - before).flatten(1)
    size = float(step.norm())
    return float((step @ subspace.held.T).norm()) / size if size else 0.0


def breaks(optimizer: Optimizer, protected: Iterable[Protected]) -> Iterator[str]:
    """Which settings of ``optimizer`` make weights move against their projected gradients, and what would mend it."""
    ours = {one.weight for one in protected}
    name = type(optimizer).__name__
    if not isinstance(optimizer, KEEPS_ROWS):
        yield (
            f"{name} does not keep the row space of gradients (it scales or maps every number by itself); choose "
            "--optim sgd, momentum or layer-adam"
        )
    for group in optimizer.param_groups:
        decay = group.get("weight_decay", 0.0)
        if decay and ours.intersection(group["params"]):
            yield (
                f"a weight decay of {decay:g} shrinks what old tasks rely on; set --optim.weight-decay 0 for protected "
                "weights"
            )


def check_velocity(optimizer: Optimizer, protected: Iterable[Protected]) -> None:
    """Raises `ConfigError` where a velocity still points along what is held now: it was made in an earlier task."""
    for one in protected:
        for moment in (m for m in optimizer.state.get(one.weight, {}).values() if m.shape == one.weight.shape):
            rest = torch.zeros_like(moment)
            if leakage(rest, moment, one.subspace) > MOST_STALE:
                raise ConfigError(
                    f"the optimiser's velocity for {one.name} was gathered before its subspace was fixed, and would "
                    "carry the weights through it; make a new optimiser for every task"
                )


def watched(optimizer: Optimizer, protected: Sequence[Protected], project: bool) -> Updates:
    """What to do around steps of ``optimizer``; raises `ConfigError` for one that breaks protection unless
    ``project``."""
    found = list(breaks(optimizer, protected))
    if found and project:
        return Projected(protected)
    if found:
        raise ConfigError(f"{'; and '.join(found)}; or correct its steps with --transform.updates project")
    check_velocity(optimizer, protected)
    return Trusted()
