"""Over which rows, and over which processes, batch normalisation takes its statistics while training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from onward.core.errors import TopologyMismatch
from onward.core.group import ALONE, Group
from onward.kernels import normalise
from onward.kernels.scan import seen


class Norms(ABC):
    """Over which rows normalisation layers take their statistics while training."""

    @abstractmethod
    def __call__(self, module: nn.Module, x: Tensor, steps: int, group: Group = ALONE) -> Tensor:
        """Normalises the chunk ``x`` ``[K, B, ...]`` of a sequence of ``steps``; all of ``group`` share statistics."""


class PerStep(Norms):
    """Each time step on its own: T sets of statistics, T updates of the running ones. O(1) memory allows it."""

    def __call__(self, module: nn.Module, x: Tensor, steps: int, group: Group = ALONE) -> Tensor:
        """See `Norms.__call__`."""
        if group.size > 1:
            return _over(group, module, x)
        if normalise.serves(module):
            return normalise.normalise(module, x)  # type: ignore[arg-type]
        return torch.cat([module(step) for step in x.unbind(0)]).unflatten(0, x.shape[:2])


class PerSequence(Norms):
    """Time and batch together (SpikingJelly's multi-step mode, DSR, LocalZO): needs the whole sequence at once."""

    def __call__(self, module: nn.Module, x: Tensor, steps: int, group: Group = ALONE) -> Tensor:
        """See `Norms.__call__`; raises `TopologyMismatch` when the chunk is not the whole sequence."""
        if len(x) != steps:
            raise TopologyMismatch(
                f"normalisation over the whole sequence needs all {steps} steps in one chunk, which holds {len(x)}; "
                "set norm_over to 'step', or the chunk to the number of steps"
            )
        if x.stride(0) == 0:  # one frame, seen by all steps
            return seen(_over(group, module, x[:1], copies=len(x))[0], len(x))
        if group.size > 1:
            return _over(group, module, x.flatten(0, 1)[None]).view_as(x)
        return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _over(group: Group, module: Any, x: Tensor, copies: int = 1) -> Tensor:
    """The chunk ``x`` ``[K, B, C, ...]`` normalised step by step over the samples of all processes.

    Every step stands for ``copies`` of itself.

    Each sends, for every step and channel, how many numbers it has, their mean, and their sum of squared distances
    from it; from these follow the mean and variance of all (Chan et al. 1983), without cancellation. One sum of
    ``3 x size x K x C`` numbers forward, one of ``2 x K x C`` backward.
    """
    y, means, variances, count = _Shared.apply(channels(x), module.eps, group)
    if module.track_running_stats:
        for mean, variance in zip(means, variances, strict=True):
            _move(module, mean, variance * (copies * count / max(copies * count - 1, 1)))
    y = y.view_as(x)
    if module.weight is None:
        return y
    shape = (1, 1, -1, *[1] * (x.dim() - 3))
    return y * module.weight.view(shape) + module.bias.view(shape)


def channels(x: Tensor) -> Tensor:
    """The chunk ``x`` ``[K, B, C, ...]`` with its positions as one axis, ``[K, B, C, P]``."""
    return x.flatten(3) if x.dim() > 3 else x[..., None]


@torch.no_grad()
def moments(x: Tensor, group: Group = ALONE) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance ``[K, C]`` of ``x`` ``[K, B, C, P]`` over batch, positions and processes; the number."""
    told = x.new_zeros(3, group.size, len(x), x.shape[2])
    told[0, group.rank] = x.shape[1] * x.shape[3]
    told[1, group.rank] = x.mean((1, 3))
    told[2, group.rank] = (x - told[1, group.rank][:, None, :, None]).square().sum((1, 3))
    group.sum_([told])
    counts, means, spreads = told
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (spreads + counts * (means - mean).square()).sum(0) / count
    return mean, variance, float(count[0, 0])


@torch.no_grad()
def _move(module: Any, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics towards those of one step."""
    module.num_batches_tracked.add_(1)
    momentum = 1 / int(module.num_batches_tracked) if module.momentum is None else module.momentum
    module.running_mean.lerp_(mean.to(module.running_mean), momentum)
    module.running_var.lerp_(variance.to(module.running_var), momentum)


class _Shared(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) of ``x`` ``[K, B, C, P]``, over batch and positions of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, group: Group) -> tuple[Tensor, Tensor, Tensor, float]:
        mean, variance, count = moments(x, group)
        scale = (variance + eps).rsqrt()
        y = (x - mean[:, None, :, None]) * scale[:, None, :, None]
        ctx.save_for_backward(y, scale)
        ctx.save_for_forward(y, scale)
        ctx.group, ctx.count = group, count
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance, ctx.count

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        y, scale = ctx.saved_tensors
        sums = torch.stack([grads[0].sum((1, 3)), (grads[0] * y).sum((1, 3))])
        ctx.group.sum_([sums])
        shift, slope = (sums / ctx.count)[:, :, None, :, None]
        return (grads[0] - shift - y * slope) * scale[:, None, :, None], None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        y, scale = ctx.saved_tensors
        moved = tangents[0]
        sums = torch.stack([moved.sum((1, 3)), (moved * y).sum((1, 3))])
        ctx.group.sum_([sums])
        shift, slope = (sums / ctx.count)[:, :, None, :, None]
        return (moved - shift - y * slope) * scale[:, None, :, None], None, None, None
