"""One protected synapse: its subspace, what learns it, and what was seen of its inputs since the last update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor, nn

from onward.core.graph import Node
from onward.core.sink import Sink
from onward.core.synapse import ops_of
from onward.core.trace import Presynaptic, Trace
from onward.kernels.rows import SparseRows
from onward.kernels.scan import leaky_sum
from onward.transforms.evidence import Evidence
from onward.transforms.learners import Learner
from onward.transforms.subspace import Subspace

LOOK_EVERY = 20
"""Updates from one look at the captured energy to the next."""
LearnsFrom = Literal["input", "trace", "both"]
View = Tensor | SparseRows | Trace
Choose = Callable[[int], list[int] | None]
"""Which of so many places of a map are learned from in this sequence; None: all."""


class Site(nn.Module):
    """See the module's docstring; ``look`` tells what of a deposit counts as an input.

    ``captured`` is the share of a mini-batch's energy that lies in the rows, as last looked at, once something was
    ``learned``.
    """

    captured: Tensor
    learned: Tensor

    def __init__(self, node: Node, subspace: Subspace, learner: Learner, look: Look, choose: Choose):
        super().__init__()
        self.node, self.look, self.choose = node, look, choose
        self.subspace, self.learner = subspace, learner
        self.pending: Evidence | None = None
        self.register_buffer("captured", torch.zeros((), device=subspace.rows.device))
        self.register_buffer("learned", torch.zeros((), dtype=torch.int64, device=subspace.rows.device))
        self._places: Tensor | None = None

    def see(self, pre: Presynaptic) -> None:
        """A deposit's presynaptic factor."""
        self.look.see(self, pre)

    def take(self, view: View) -> None:
        """Inputs ``[K, B, ...]`` to learn from at the next update."""
        if self.pending is None:
            self.pending = self.learner.evidence(self.subspace, self._patches)
        if isinstance(view, Trace):
            self.pending.trace(view)
        else:
            self.pending.see(view)

    def learn(self) -> None:
        """Moves the new rows by what was taken."""
        if self.pending is not None:
            self.learner.learn(self.subspace, self.pending)
            if int(self.learned) % LOOK_EVERY == 0:
                self.captured.fill_(_captured(self.subspace.all, self.pending))
            self.learned += 1
            self.pending = None

    def update(self, sink: Sink) -> None:
        """As `learn`, from what all processes took: at the next flush of ``sink`` where there are several."""
        self.look.close(self)
        self._places = None
        if sink.group.size == 1 or self.pending is None:
            return self.learn()
        *others, final = self.pending.tensors()
        for tensor in others:
            sink.total(tensor, lambda total: None)
        return sink.total(final, lambda total: self.learn())

    def forget(self) -> None:
        """What was seen since the last update is void."""
        self.pending, self._places = None, None
        self.look.forget(self)

    def gathers(self, inputs: int) -> int:
        """Bytes of the evidence of so many inputs."""
        rows = self.subspace.rows
        width = rows.shape[1]
        return rows.element_size() * width * (inputs if inputs < width / 2 else width)

    def _patches(self, x: Tensor) -> Tensor:
        ops, module = ops_of(self.node.module), self.node.module
        if self._places is None:
            chosen = self.choose(ops.places(module, tuple(x.shape[1:])))
            if chosen is not None:
                self._places = torch.tensor(chosen, device=x.device)
        return ops.patches(module, x, self._places)


def _captured(rows: Tensor, evidence: Evidence) -> float:
    """The share of a mini-batch's energy that lies in ``rows``: 1 - E|x - P x|^2 / E|x|^2, also where they are not
    orthonormal; 0 where there is no energy."""
    inside, energy = evidence.seen_by(rows) @ rows.T, float(evidence.energy())
    return float(2 * inside.trace() - (inside * (rows @ rows.T).T).sum()) / energy if energy else 0.0


class Look(ABC):
    """What of a deposit's presynaptic factor counts as an input, and when it is learned from.

    Of eligibility traces: what they are of (*input*), themselves (*trace*), or *both*, as in the authors' code. Old
    responses depend on inputs alone, and traces lie in their span.
    """

    shares: bool = True
    """Whether processes can learn together."""

    def __init__(self, learns_from: LearnsFrom = "input"):
        self.learns_from = learns_from

    @abstractmethod
    def see(self, site: Site, pre: Presynaptic) -> None:
        """A deposit."""

    def close(self, site: Site) -> None:
        """The weights are about to be updated: what is held for ``site`` is taken."""
        self.forget(site)

    def forget(self, site: Site) -> None:
        """What is held for ``site`` is void."""
        return

    def views(self, pre: Presynaptic) -> list[View]:
        """What counts."""
        if not isinstance(pre, Trace):
            return [pre]
        return {"input": [pre.x], "trace": [pre], "both": [pre.x, pre]}[self.learns_from]


class Steps(Look):
    """Inputs of all steps together, once an update: the same whatever the chunk."""

    def see(self, site: Site, pre: Presynaptic) -> None:
        """See `Look.see`."""
        for view in self.views(pre):
            site.take(view)


class EveryStep(Look):
    """One step of learning at every time step, as in the authors' online code. For one process."""

    shares = False

    def see(self, site: Site, pre: Presynaptic) -> None:
        """See `Look.see`."""
        views = [_dense(view) for view in self.views(pre)]
        for k in range(len(views[0])):
            for view in views:
                site.take(view[k : k + 1])
            site.learn()


class Means(Look):
    """One input a sample: the mean over the steps up to the update, a step weighing ``leak`` times the next one."""

    def __init__(self, leak: float, learns_from: LearnsFrom = "input"):
        super().__init__(learns_from)
        self.leak = leak
        self._held: dict[int, tuple[list[Tensor], float]] = {}

    def see(self, site: Site, pre: Presynaptic) -> None:
        """See `Look.see`."""
        views = [_dense(view) for view in self.views(pre)]
        held, weight = self._held.get(site.node.index, ([], 0.0))
        sums = [leaky_sum(x, before, self.leak) for x, before in zip_longest(views, held)]
        for _ in range(len(views[0])):
            weight = self.leak * weight + 1
        self._held[site.node.index] = sums, weight

    def close(self, site: Site) -> None:
        """See `Look.close`."""
        sums, weight = self._held.pop(site.node.index, ([], 1.0))
        for total in sums:
            site.take((total / weight)[None])

    def forget(self, site: Site) -> None:
        """See `Look.forget`."""
        self._held.pop(site.node.index, None)


def _dense(view: View) -> Tensor:
    return view if isinstance(view, Tensor) else view.dense()
