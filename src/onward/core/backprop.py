"""One gradient of everything that a sequence left behind, turned into deposits."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from onward.core.graph import Node
from onward.core.interpret import Interpreter, Record, nonzeros, trainable
from onward.core.norms import Norms
from onward.core.products import through
from onward.core.rule import Lesson
from onward.core.signal import Carry, Signal, dense


@dataclass
class Tape(Carry):
    """A carry that remembers every chunk."""

    records: list[Record] = field(default_factory=list)


class Recorded(Interpreter):
    """Keeps input and drive of every synapse, in one graph; weights stay outside it."""

    def __init__(self, lesson: Lesson, norms: Norms):
        super().__init__(lesson.net, lesson.carry, lesson.context, norms)
        self.params = lesson.sink.params

    def synapse(self, node: Node, signal: Signal) -> Signal:
        """See `Interpreter.synapse`."""
        params, rows = self.params(node), nonzeros(signal.clean)
        x = through(node.module, params, params, dense(signal.sent), rows)
        if not x.requires_grad:
            x.requires_grad_()
        self.record.pres[node.index], self.record.drives[node.index] = rows, x
        return Signal(x, x)


def deposit_all(
    lesson: Lesson,
    records: list[Record],
    heads: list[Tensor],
    credits: list[Tensor],
) -> None:
    """Deposits what the gradients ``credits`` at ``heads`` give every synapse whose drive stands in ``records``.

    Parameters of normalisation layers and neurons get theirs on the way. One pass back
    through the graph that ``records`` belong to.
    """
    net = lesson.net
    weights = trainable((*net.fitted_glue, *net.neurons))
    slots = [(index, record) for record in records for index in record.drives]
    targets = [record.drives[index] for index, record in slots] + weights
    grads = torch.autograd.grad(heads, targets, credits, allow_unused=True)
    for (index, record), post in zip(slots, grads, strict=False):
        if post is not None:
            lesson.sink.deposit(net.nodes[index], record.pres[index], post)
    for parameter, grad in zip(weights, grads[len(slots) :], strict=True):
        if grad is not None:
            lesson.sink.add(parameter, grad)
