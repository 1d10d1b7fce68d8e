"""A spiking network as an ensemble of its time steps.

    U^l[t] = W^l s^{l-1}[t] + n^l[t],    n^l[t] = leak V^l[t-1],    s^l[t] = H(U^l[t] - V_th)

With n taken as given, step t is one pass through a network of binary activations; the T steps share their weights and
differ in n (and in the input, where it moves). The mean output is the mean of an ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onward.core import Network
from onward.core.errors import ShapeError
from onward.core.glue import turn
from onward.core.interpret import evaluating
from onward.core.run import outputs
from onward.data import Loader


@dataclass(frozen=True)
class Members:
    """What the steps of a network know by themselves and together; all but ``samples`` in percent.

    ``alone`` and ``together``: the accuracy of o[t], and of the mean of o[1] to o[t]. ``astray``: samples of which step
    t says another class than the mean of all. ``disagreement``: samples of which two steps say different classes, a
    mean over all pairs of steps.
    """

    alone: tuple[float, ...]
    together: tuple[float, ...]
    astray: tuple[float, ...]
    disagreement: float
    samples: int

    @property
    def gain(self) -> float:
        """What the mean of all outputs gets right beyond a step by itself, averaged over steps."""
        return self.together[-1] - sum(self.alone) / len(self.alone)


class Votes:
    """Counts what steps say of samples, mini-batch by mini-batch; memory O(T) in counts and the outputs at hand."""

    def __init__(self, steps: int):
        self.alone, self.together, self.astray = (torch.zeros(steps, dtype=torch.float64) for _ in range(3))
        self.apart, self.samples = torch.zeros((), dtype=torch.float64), 0

    def add(self, o: Tensor, y: Tensor) -> None:
        """Adds outputs ``[T, B, m]`` of samples with labels ``y`` ``[B]``."""
        said, so_far = o.argmax(-1), o.cumsum(0).argmax(-1)
        self.alone += (said == y).sum(1).cpu()
        self.together += (so_far == y).sum(1).cpu()
        self.astray += (said != so_far[-1]).sum(1).cpu()
        self.apart += _pairs_apart(said, o.shape[-1]).sum().cpu()
        self.samples += len(y)

    def found(self, loader: Loader) -> Members:
        """The shares, over all processes of ``loader``."""
        counts = torch.cat([self.alone, self.together, self.astray, self.apart[None], torch.tensor([self.samples])])
        loader.group.sum_([counts])
        steps, samples = len(self.alone), int(counts[-1])
        alone, together, astray = ((100 / samples) * counts[:-2]).view(3, steps).tolist()
        disagreement = 100 * float(counts[-2]) / samples
        return Members(tuple(alone), tuple(together), tuple(astray), disagreement, samples)


def members(net: Network, loader: Loader, device: str = "cpu", chunk: int | None = None) -> Members:
    """What each step of ``net`` knows of the samples of ``loader``, in evaluation mode.

    Costs an evaluation; holds the outputs of a mini-batch ``[T, B, m]``. Raises `ShapeError` for outputs that are no
    vector of classes.
    """
    votes = Votes(loader.steps)
    with torch.no_grad(), evaluating(net):
        for batch in loader.epoch(0):
            turn(net, batch.task)
            o = torch.cat(list(outputs(net, batch.x.to(device), chunk=chunk or loader.steps)))
            if o.dim() != 3:
                raise ShapeError(f"outputs of shape {list(o.shape)} have no classes; expected [time, batch, classes]")
            votes.add(o, batch.y.to(device))
    return votes.found(loader)


def _pairs_apart(said: Tensor, classes: int) -> Tensor:
    """The share of all pairs of steps that say different classes, ``[B]``, from ``said`` ``[T, B]``; 0 for one step.

    Of T steps, c_k of which say class k, sum_k c_k (c_k - 1) ordered pairs of T (T - 1) agree.
    """
    steps = len(said)
    counts = torch.stack([(said == k).sum(0) for k in range(classes)]).double()
    return 1 - (counts * (counts - 1)).sum(0) / (steps * (steps - 1)) if steps > 1 else torch.zeros_like(counts[0])
