"""Adam with one second moment a tensor: the scale adapts, the direction stays a sum of gradients.

    m <- beta1 m + (1 - beta1) g,    v <- beta2 v + (1 - beta2) mean(g^2)
    w <- w - lr m' / (sqrt(v') + eps),    m' = m / (1 - beta1^t),  v' = v / (1 - beta2^t)

Updates lie in the span of the gradients seen, so that what projected gradients leave alone stays (Hebbian orthogonal
projection). State: m, in the shape of the parameter, and one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onward.optim.closure import worked_out


class LayerAdam(Optimizer):
    """See the module's docstring; weight decay is apart from the gradient, as in AdamW.

    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = LayerAdam([w], lr=0.1)
    >>> w.grad = torch.tensor([3.0, 4.0])
    >>> optimizer.step()
    >>> [round(value, 4) for value in w.tolist()]
    [-0.0849, -0.1131]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        loss = worked_out(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)
        return loss

    def _move(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self._state(p), group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(g, 1 - beta1)
        state["exp_avg_sq"].lerp_(g.square().mean(), 1 - beta2)
        count = int(state["step"])
        scale = state["exp_avg_sq"].sqrt() / sqrt(1 - beta2**count) + group["eps"]
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcdiv_(state["exp_avg"], scale, value=-group["lr"] / (1 - beta1**count))

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = p.new_zeros(())
        return state
