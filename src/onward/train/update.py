"""From deposits to new parameters: flush, check, clip, step."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD, Optimizer

from onward.core import Sink
from onward.core.drawn import Drawn, descend
from onward.core.errors import NonFiniteError
from onward.optim import Schedule, allocate_state
from onward.transforms.guard import Trusted, Updates


class Updater:
    """One update of every parameter of ``modules`` that has a gradient: ``updater()``.

    ``updates`` stands by every step of the optimiser. Raises `NonFiniteError` naming the parameter, before anything is
    changed if its gradient is not finite. Cost: one pass over gradients and one over parameters beside the optimiser's
    own. Gradients that are drawn are applied block by block, and never stored, where the optimiser is plain SGD and
    nothing is clipped.
    """

    def __init__(
        self,
        sink: Sink,
        optimizer: Optimizer,
        schedule: Schedule,
        total: int,
        clip: float | None,
        *modules: nn.Module,
        updates: Updates | None = None,
    ):
        self.sink, self.optimizer, self.schedule, self.total, self.clip = (
            sink,
            optimizer,
            schedule,
            total,
            clip,
        )
        self.named = dict(chain.from_iterable(module.named_parameters() for module in modules))
        self.updates = updates or Trusted()
        allocate_state(optimizer)
        self.base = [group["lr"] for group in optimizer.param_groups]

    @property
    def lr(self) -> float:
        """The learning rate in force."""
        return self.optimizer.param_groups[0]["lr"]

    def begin(self, update: int) -> None:
        """Sets the learning rate of mini-batch ``update``, counted from 0."""
        factor = self.schedule.factor(update, self.total)
        for group, lr in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = lr * factor

    def discard(self) -> None:
        """Forgets the update that was being prepared."""
        self.sink.discard()
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        """Flushes the sink, checks and clips gradients, steps, checks parameters."""
        drawn: list[Drawn] = []
        self.sink.flush(drawn.append)
        if not self.applies_blocks:
            for gradient in drawn:
                gradient.store()
            drawn = []
        grads = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        norm = _checked_norm(grads, "the gradient of ")
        if self.clip is not None:
            clip_grads_with_norm_(self.named.values(), self.clip, norm)
        self.updates.before()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        descend(drawn, self.optimizer.param_groups)
        self.updates.after()
        _checked_norm({name: p.detach() for name, p in self.named.items()}, "")

    @property
    def applies_blocks(self) -> bool:
        """Whether an update needs nothing but the gradient at the block at hand."""
        stateless = isinstance(self.optimizer, SGD) and not any(g["momentum"] for g in self.optimizer.param_groups)
        return stateless and self.clip is None and all(p.grad is None for p in self.named.values())


def _checked_norm(tensors: dict[str, Tensor], prefix: str) -> Tensor:
    """The norm of all tensors together; raises `NonFiniteError` naming the one that is not finite."""
    if not tensors:
        return torch.zeros(())
    norm = get_total_norm(list(tensors.values()))
    if not norm.isfinite():
        names = [name for name, tensor in tensors.items() if not tensor.norm().isfinite()]
        raise NonFiniteError(prefix + (names[0] if names else next(iter(tensors))))
    return norm
