"""Batch normalisation of a chunk, every step by its own statistics, without copies of the steps.

y[t] = (x[t] - mean[t]) / sqrt(var[t] + eps) * weight + bias,    mean and var over batch and positions of step t

Plain twin: the module on each step, and their concatenation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def serves(module: nn.Module) -> bool:
    """Whether `normalise` can stand in for calls of ``module``: a plain batch normalisation, in training."""
    return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and module.training


def normalise(module: Norm, x: Tensor) -> Tensor:
    """The chunk ``x`` ``[K, B, ...]``; running statistics move once a step, as in K calls."""
    return _PerStep.apply(x, module.weight, module.bias, module)


def _momentum(module: Norm) -> float:
    """How far the running statistics move now, which this step is counted for."""
    assert module.num_batches_tracked is not None
    module.num_batches_tracked.add_(1)
    return 1.0 / float(module.num_batches_tracked) if module.momentum is None else module.momentum


class _PerStep(torch.autograd.Function):
    """A loop over steps into one result, and one gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, module: Norm) -> Tensor:
        tracks = module.track_running_stats
        running = (module.running_mean, module.running_var) if tracks else (None, None)
        out = torch.empty_like(x)
        means, scales = x.new_empty(2, len(x), x.shape[2])
        for t in range(len(x)):
            momentum = _momentum(module) if tracks else 0.0
            torch.ops.aten.native_batch_norm.out(
                x[t], weight, bias, *running, True, momentum, module.eps,
                out=out[t], save_mean=means[t], save_invstd=scales[t],
            )  # fmt: skip
        ctx.save_for_backward(x, weight, means, scales)
        ctx.save_for_forward(x, weight, means, scales)
        ctx.eps = module.eps
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, means, scales = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        post = torch.empty_like(x)
        slopes = x.new_zeros(2, len(x), x.shape[2])
        for t in range(len(x)):
            torch.ops.aten.native_batch_norm_backward.out(
                grads[0][t], x[t], weight, None, None, means[t], scales[t], True, ctx.eps, [True] * 3,
                out0=post[t], out1=slopes[0, t], out2=slopes[1, t],
            )  # fmt: skip
        totals = slopes.sum(1)
        return post, totals[0] if wanted[1] else None, totals[1] if wanted[2] else None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        x, weight, means, scales = ctx.saved_tensors
        over, shape = [1, *range(3, x.dim())], (len(x), 1, -1, *[1] * (x.dim() - 3))
        y = (x - means.view(shape)) * scales.view(shape)
        moved = tangents[0]
        moved = scales.view(shape) * (moved - moved.mean(over, True) - y * (y * moved).mean(over, True))
        if weight is None:
            return moved
        per_channel = (1, 1, -1, *[1] * (x.dim() - 3))
        return moved * weight.view(per_channel) + y * tangents[1].view(per_channel) + tangents[2].view(per_channel)
