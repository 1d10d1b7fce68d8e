"""Optimisers by name: torch's own, in their fused form."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from onward.core.registry import Choice, Registry
from onward.optim.layer_adam import LayerAdam
from onward.optim.schedules import schedules

ScheduleChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(schedules.parse)]
Groups = list[dict[str, Any]]


class OptimOptions(Choice):
    """Options shared by all optimisers."""

    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay")
    decay_all: bool = Field(False, description="decay norms, thresholds and biases as well")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: no clipping")
    schedule: ScheduleChoice = Field(schedules.parse("cosine"), description="how the rate changes over the run")


class SGDOptions(OptimOptions):
    """Options of stochastic gradient descent."""

    lr: float = Field(0.1, gt=0, description="learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="decay of the velocity per update")
    nesterov: bool = Field(False, description="look ahead along the velocity (needs momentum)")


class AdagradOptions(OptimOptions):
    """Options of Adagrad."""

    lr: float = Field(1e-2, gt=0, description="learning rate")
    eps: float = Field(1e-10, gt=0, description="added to the denominator")


class AdamOptions(OptimOptions):
    """Options of Adam and its kin."""

    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients per update")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the mean of squared gradients per update")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")


def _sgd(choice: Any, groups: Groups) -> Optimizer:
    return SGD(groups, lr=choice.lr, momentum=choice.momentum, nesterov=choice.nesterov, fused=_fusible(groups))


def _adam(choice: Any, groups: Groups) -> Optimizer:
    return Adam(groups, lr=choice.lr, betas=(choice.beta1, choice.beta2), eps=choice.eps, fused=_fusible(groups))


def _adagrad(choice: Any, groups: Groups) -> Optimizer:
    return Adagrad(groups, lr=choice.lr, eps=choice.eps)


def _adamw(choice: Any, groups: Groups) -> Optimizer:
    return AdamW(groups, lr=choice.lr, betas=(choice.beta1, choice.beta2), eps=choice.eps, fused=_fusible(groups))


def _layer_adam(choice: Any, groups: Groups) -> Optimizer:
    return LayerAdam(groups, lr=choice.lr, betas=(choice.beta1, choice.beta2), eps=choice.eps)


def allocate_state(optimizer: Optimizer) -> None:
    """Makes the optimiser's moments now, as zeros, where torch would make them at the first update.

    What memory an update takes can then be measured apart from them, and a first checkpoint is complete.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    for moment in (t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)):
        moment.zero_()
    optimizer.zero_grad(set_to_none=True)


def _fusible(groups: Groups) -> bool:
    """One pass over memory in place of five, where torch has the kernel."""
    return all(p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for g in groups for p in g["params"])


optimizers: Registry[Optimizer] = Registry("optimizer")
optimizers.register("sgd", SGDOptions, _sgd, "stochastic gradient descent")
optimizers.register("momentum", SGDOptions, _sgd, "SGD with a velocity", defaults={"momentum": 0.9})
optimizers.register(
    "nesterov",
    SGDOptions,
    _sgd,
    "SGD with a velocity, looking ahead",
    defaults={"momentum": 0.9, "nesterov": True},
)
optimizers.register("adagrad", AdagradOptions, _adagrad, "Adagrad (Duchi et al. 2011)")
optimizers.register("adam", AdamOptions, _adam, "Adam (Kingma & Ba 2015)")
optimizers.register(
    "adamw",
    AdamOptions,
    _adamw,
    "Adam, weight decay apart (Loshchilov & Hutter 2019)",
    defaults={"weight_decay": 0.01},
)
optimizers.register(
    "layer-adam",
    AdamOptions,
    _layer_adam,
    "Adam with one second moment a tensor: keeps the row space of gradients, as orthogonal projection wants",
)
