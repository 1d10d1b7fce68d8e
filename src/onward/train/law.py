"""How near direct feedback can come to back-propagation, before training: what the mean of the Jacobian keeps of it.

With J_x^l = d output / d spikes of layer l within a step, for a sample and a step x, back-propagation brings J_x^T e to
a layer, and direct feedback M e, at best with M = E[J_x]^T. Where errors e know nothing of J_x beyond its mean,
E <M e, J_x^T e> = E |M e|^2, so that the cosine between the two, over all samples and steps together, is

    cos^l = sqrt(E |M e|^2 / E |J_x^T e|^2)

the root of the share of the Jacobian's energy along errors that the mean keeps. By the Cauchy-Schwarz inequality no
other fixed matrix has a larger one, so that it bounds random and learned feedback, too. It is 1 for the last hidden
layer, whose Jacobian is the readout, and for every layer of a network whose slopes are all the same.

It is a law of credit at spikes. Gradients of weights add up over a mini-batch, where what the mean leaves out cancels
in part: their cosine is larger (`benchmarks.feedback_law`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Nodes

import torch
from torch import Tensor

from onward.core import KeyedDraws, Network, Sequence
from onward.core.credit_walk import CreditWalk
from onward.core.draws import Draws
from onward.core.errors import ShapeError
from onward.core.graph import Node
from onward.core.group import Share
from onward.core.interpret import evaluating, run_walk, shapes
from onward.core.signal import Carry, Context
from onward.core.synapse import effective
from onward.credit.bp import BackPropagation

FIRST = 1 << 40
"""Keys what is drawn; no mini-batch of a run has this number."""
MOST_ERRORS = 64
"""Outputs up to which there is an error for each of them; as many random ones stand for more."""


def expected_alignment(
    net: Network, x: Sequence, errors: Tensor | None = None, *, chunk: int | None = None
) -> dict[str, float]:
    """The cosine of this module's docstring for every hidden neuron of ``net``, by name.

    The expectation is over the samples and steps of ``x``, of which the two halves estimate |M e|^2 = <M' e, M'' e>
    without bias, and over ``errors`` ``[k, m]``: by default errors of all outputs alike that sum to zero, as those of
    a cross-entropy do (`plain_errors`). It is 0 where no error arrives. Nothing is trained, and no label is read.

    Cost: one forward pass, k backward passes within each step, memory O(k n). Raises `ShapeError` for one sample.

    >>> from onward.core import Static
    >>> from onward.neurons import LIF
    >>> net = Network(torch.nn.Sequential(torch.nn.Linear(4, 3), LIF(), torch.nn.Linear(3, 2)))
    >>> {name: round(cosine, 3) for name, cosine in expected_alignment(net, Static(torch.ones(8, 4), 5)).items()}
    {'1': 1.0}
    """
    if x.batch < 2:
        raise ShapeError(f"a mini-batch of {x.batch} sample was given; a mean and a spread take at least 2")
    draws = KeyedDraws(0)
    sizes = shapes(net, x, draws)
    errors = plain_errors(sizes[-1].numel()) if errors is None else errors
    energies = {node.index: _Energy(len(errors), sizes[node.index].numel()) for node in net.hidden}
    for number, found in pulled(net, net.hidden, x, errors, draws, torch.arange(x.batch), chunk or x.steps):
        for index, credit in found.items():
            energies[index].add(number, credit)
    return {node.name: energies[node.index].cosine(x) for node in net.hidden}


def plain_errors(outputs: int) -> Tensor:
    """Errors ``[k, m]`` whose second moment is that of all errors that sum to zero, alike in every direction.

    One an output, and of more than `MOST_ERRORS` outputs so many at random; a single output has an error of 1.

    >>> plain_errors(2).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    if outputs == 1:
        return torch.ones(1, 1)
    random = torch.Generator().manual_seed(0)
    few = torch.randn(MOST_ERRORS, outputs, generator=random) if outputs > MOST_ERRORS else torch.eye(outputs)
    return few - few.mean(1, keepdim=True)


def pulled(
    net: Network, nodes: Nodes[Node], x: Sequence, errors: Tensor, draws: Draws, ids: Tensor, chunk: int
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """For every chunk of ``x`` and each of the ``errors`` ``[k, m]``: its number, and what spatial back-propagation
    makes of it at the spikes of ``nodes`` for every step and sample, ``[K, B, *features]`` by node index."""
    carry, context = Carry(), Context(draws, ids, FIRST, x.steps, Share(x.batch))
    weights = {n.index: {k: w.detach() for k, w in effective(n.module).items()} for n in net.synapses}
    chunk = 1 if net.cyclic else chunk
    with evaluating(net), torch.enable_grad():
        for start in range(0, x.steps, chunk):
            walk = CreditWalk(net, carry, context, lambda node: weights[node.index], BackPropagation())
            out = run_walk(walk, x.read(start, min(start + chunk, x.steps)))
            spikes = [walk.record.spikes[node.index] for node in nodes]
            for number, error in enumerate(errors.to(out)):
                found = torch.autograd.grad(out, spikes, error.expand_as(out), retain_graph=True)
                yield number, {node.index: credit for node, credit in zip(nodes, found, strict=True)}


class _Energy:
    """Sums over one layer's credit of ``size`` numbers: of either half of the batch by error, and of all squares."""

    def __init__(self, errors: int, size: int):
        self.halves = torch.zeros(2, errors, size, dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, number: int, credit: Tensor) -> None:
        """Adds what error ``number`` became in a chunk ``[K, B, *features]``; samples go to the halves in turn."""
        credit = credit.double().flatten(2).cpu()
        for half in range(2):
            self.halves[half, number] += credit[:, half::2].sum((0, 1))
        self.squares += credit.square().sum()

    def cosine(self, x: Sequence) -> float:
        """The root of the share, between 0 and 1."""
        first, second = (x.batch + 1) // 2, x.batch // 2
        kept = (self.halves[0] * self.halves[1]).sum() / (first * second * x.steps**2)
        whole = self.squares / (x.batch * x.steps)
        return float((kept / whole).clamp(0, 1).sqrt()) if whole else 0.0
