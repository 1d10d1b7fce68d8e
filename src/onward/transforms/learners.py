"""How the rows of a subspace come to span what a synapse hears.

*Hebbian* learning (Oja's subspace rule), H all rows in use, D for the new ones alone:

    y = H x,  D = E[y (x - H^T y)^T],    M <- m M + (1 - m) clip(D),    H <- H + lr M

Rows come to be orthonormal and to span the leading eigenvectors of S = E[x x^T] that old rows leave. A direction is
stable where lr times its eigenvalue is below 1. *Analogue* lateral neurons need S alone, D = H S (I - H^T H);
*spiking* ones respond in steps of scale / levels, and every sample is asked.
*Exact* takes the eigenvectors themselves, at the end of a task: the upper reference (gradient projection memory).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onward.transforms.evidence import Evidence, Moment, Patches, Samples
from onward.transforms.subspace import Subspace

STABLE = 0.7
"""lr times the largest eigenvalue, where the rate is chosen here."""

NOISE = 1e-10
"""Share of the largest eigenvalue below which an eigenvector is rounding noise."""


class Learner(nn.Module, ABC):
    """Moves the new rows of one subspace; buffers are what must survive a checkpoint."""

    @abstractmethod
    def evidence(self, subspace: Subspace, patches: Patches) -> Evidence:
        """Somewhere to gather a mini-batch's inputs."""

    @abstractmethod
    def begin(self, subspace: Subspace, rows: Tensor) -> None:
        """A task starts; ``rows`` are where its new rows may start from."""

    @abstractmethod
    def restart(self) -> None:
        """A pass over the task's data starts."""

    @abstractmethod
    def learn(self, subspace: Subspace, evidence: Evidence) -> None:
        """A mini-batch was gathered."""

    @abstractmethod
    def end(self, subspace: Subspace) -> None:
        """The task ended; all rows are fixed next."""

    @abstractmethod
    def rate(self) -> float:
        """lr times the largest eigenvalue of S; 0 where nothing iterates."""


class Lateral(ABC):
    """The neurons of the subspace."""

    shares: bool
    """Whether processes can learn together: from sums of what each of them saw."""

    @abstractmethod
    def __call__(self, y: Tensor) -> Tensor:
        """What they answer to y = H x."""

    @abstractmethod
    def evidence(self, subspace: Subspace, patches: Patches, iterations: int) -> Evidence:
        """Somewhere to gather what they learn from, so many times."""

    @abstractmethod
    def change(self, subspace: Subspace, evidence: Evidence) -> Tensor:
        """D for the new rows."""


@dataclass(frozen=True)
class Analogue(Lateral):
    """Answers y itself."""

    shares = True

    def __call__(self, y: Tensor) -> Tensor:
        """See `Lateral.__call__`."""
        return y

    def evidence(self, subspace: Subspace, patches: Patches, iterations: int) -> Evidence:
        """See `Lateral.evidence`: second moments."""
        k, n = subspace.new.shape
        return Moment(n, patches, subspace.rows, _worth(k, n, iterations))

    def change(self, subspace: Subspace, evidence: Evidence) -> Tensor:
        """See `Lateral.change`."""
        response = evidence.seen_by(subspace.new)
        return response - subspace.project(response, subspace.all)


@dataclass(frozen=True)
class Spiking(Lateral):
    """Answers round(clip(y, -scale, scale) levels / scale) scale / levels: signed spikes in ``levels`` steps."""

    scale: float = 20.0
    levels: int = 1000
    shares = False

    def __call__(self, y: Tensor) -> Tensor:
        """See `Lateral.__call__`."""
        return (y.clamp(-self.scale, self.scale) / self.scale * self.levels).round() / self.levels * self.scale

    def evidence(self, subspace: Subspace, patches: Patches, iterations: int) -> Evidence:
        """See `Lateral.evidence`: samples."""
        return Samples(subspace.rows.shape[1], patches, subspace.rows)

    def change(self, subspace: Subspace, evidence: Evidence) -> Tensor:
        """See `Lateral.change`."""
        assert isinstance(evidence, Samples)
        fixed, total = int(subspace.fixed), torch.zeros_like(subspace.new)
        for x, times in evidence.rows:
            y = self(x @ subspace.all.T)
            total.addmm_(y[:, fixed:].T, x - y @ subspace.all, alpha=times)
        return total / evidence.count


def _worth(k: int, n: int, iterations: int) -> float:
    """Up to how many rows it is cheaper to keep them than S: 4 i R k n operations against 2 R n^2 + 2 i k n^2.

    At most 2 n, so that memory does not grow with the steps of a sequence.
    """
    saved = 2 * iterations * k - n
    return 2 * n if saved <= 0 else min(2 * n, iterations * k * n / saved)


class Spectrum(nn.Module):
    """The largest eigenvalue of S that was seen, followed from mini-batch to mini-batch by power iteration."""

    direction: Tensor
    largest: Tensor

    def __init__(self, width: int, like: Tensor):
        super().__init__()
        self.register_buffer("direction", like.new_full((width,), width**-0.5))
        self.register_buffer("largest", like.new_zeros(()))

    @torch.no_grad()
    def follow(self, evidence: Evidence, turns: int = 1) -> None:
        """Looks at a mini-batch."""
        for _ in range(turns):
            turned = evidence.seen_by(self.direction[None])[0]
            size = turned.norm()
            self.direction.copy_(torch.where(size > 0, turned / size, self.direction))
            self.largest.copy_(torch.maximum(self.largest, size))


class Hebbian(Learner):
    """Hebbian learning with ``lateral`` neurons; ``lr`` None keeps lr times the largest eigenvalue at `STABLE`."""

    def __init__(
        self,
        width: int,
        like: Tensor,
        lr: float | None = None,
        iterations: int = 5,
        momentum: float = 0.9,
        clip: float = 10.0,
        lateral: Lateral = Analogue(),
    ):
        super().__init__()
        self.lr, self.iterations, self.momentum, self.clip, self.lateral = lr, iterations, momentum, clip, lateral
        self.spectrum = Spectrum(width, like)

    def evidence(self, subspace: Subspace, patches: Patches) -> Evidence:
        """See `Learner.evidence`."""
        return self.lateral.evidence(subspace, patches, self.iterations)

    def begin(self, subspace: Subspace, rows: Tensor) -> None:
        """See `Learner.begin`: starts from all of them."""
        subspace.grow(rows)

    def restart(self) -> None:
        """See `Learner.restart`: learning goes on."""

    @torch.no_grad()
    def learn(self, subspace: Subspace, evidence: Evidence) -> None:
        """See `Learner.learn`."""
        self.spectrum.follow(evidence)
        lr = self._lr()
        for _ in range(self.iterations):
            change = self.lateral.change(subspace, evidence).clamp_(-self.clip, self.clip)
            subspace.velocity.mul_(self.momentum).add_(change, alpha=1 - self.momentum)
            subspace.new.add_(subspace.velocity * lr)

    def end(self, subspace: Subspace) -> None:
        """See `Learner.end`: nothing is left to do."""

    def rate(self) -> float:
        """See `Learner.rate`."""
        return float(self._lr() * self.spectrum.largest)

    def _lr(self) -> Tensor:
        largest = self.spectrum.largest
        if self.lr is not None:
            return torch.full_like(largest, self.lr)
        return torch.where(largest > 0, STABLE / largest, largest)


class Exact(Learner):
    """The leading eigenvectors of (I - P) S (I - P), S summed over the last pass of a task, P onto the held rows."""

    sum: Tensor
    count: Tensor
    wanted: Tensor

    def __init__(self, width: int, like: Tensor):
        super().__init__()
        self.register_buffer("sum", like.new_zeros(width, width))
        self.register_buffer("count", like.new_zeros(()))
        self.register_buffer("wanted", torch.zeros((), dtype=torch.int64, device=like.device))

    def evidence(self, subspace: Subspace, patches: Patches) -> Evidence:
        """See `Learner.evidence`."""
        return Moment(len(self.sum), patches, self.sum)

    def begin(self, subspace: Subspace, rows: Tensor) -> None:
        """See `Learner.begin`: only their number matters."""
        self.wanted.fill_(len(rows))
        self.restart()

    def restart(self) -> None:
        """See `Learner.restart`: what earlier passes told is void, weights have moved since."""
        self.sum.zero_()
        self.count.zero_()

    def learn(self, subspace: Subspace, evidence: Evidence) -> None:
        """See `Learner.learn`."""
        assert isinstance(evidence, Moment)
        self.sum.add_(evidence.sum)
        self.count.add_(evidence.count)

    def end(self, subspace: Subspace) -> None:
        """See `Learner.end`: adds the eigenvectors; fewer than planned where inputs have no more directions."""
        s = self.sum.double() / self.count.double().clamp_min(1)
        rest = s - subspace.held.double().T @ (subspace.held.double() @ s)
        rest = rest - (rest @ subspace.held.double().T) @ subspace.held.double()
        values, vectors = torch.linalg.eigh(rest)
        found = values > NOISE * s.diagonal().sum()
        most = min(int(self.wanted), int(found.sum()))
        subspace.grow(vectors[:, len(values) - most :].flip(1).T.to(subspace.rows))

    def rate(self) -> float:
        """See `Learner.rate`."""
        return 0.0
