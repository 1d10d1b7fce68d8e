"""How near direct feedback can come to back-propagation, before training: what the mean of the Jacobian keeps of it.

With J_x^l = d output / d spikes of layer l within a step, for a sample and a step x, back-propagation brings J_x^T e to
a layer, and direct feedback M e, at best with M = E[J_x]^T. Where errors e know nothing of J_x beyond its mean,
E <M e, J_x^T e> = E |M e|^2, so that the cosine between the two, over all samples and steps together, is

    cos^l = sqrt(E |M e|^2 / E |J_x^T e|^2)

the root of the share of the Jacobian's energy along errors that the mean keeps. By the Cauchy-Schwarz inequality no
other fixed matrix has a larger one, so that it bounds random and learned feedback, too. It is 1 for the last hidden
layer, whose Jacobian is the readout, and for every layer of a network whose slopes are all the same.

It is a law of credit at spikes. Gradients of weights add up over a mini-batch, where what the mean leaves out cancels
in part: their cosine is larger (`benchmarks.feedback_law`). And it is a law of the weights at hand. Layers that are
silent at the start have slopes that are nearly the same, which flatters them until training wakes them: `awakened`
weights are those of a network whose every layer has its potentials spread over the firing level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Nodes
from typing import Any

import torch
from torch import Tensor

from onward.core import KeyedDraws, Network, Sequence
from onward.core.credit_walk import CreditWalk
from onward.core.errors import ShapeError
from onward.core.graph import Node
from onward.core.group import Share
from onward.core.interpret import Forward, evaluating, run_walk, shapes
from onward.core.signal import Carry, Context
from onward.core.synapse import Params, effective
from onward.credit.bp import BackPropagation

FIRST = 1 << 40
"""Keys what is drawn; no mini-batch of a run has this number."""
MOST_ERRORS = 64
"""Outputs up to which there is an error for each of them; as many random ones stand for more."""


Weights = Mapping[int, Params]
"""Effective weights by the index of their synapse."""


def expected_alignment(
    net: Network,
    x: Sequence,
    errors: Tensor | None = None,
    *,
    weights: Weights | None = None,
    chunk: int | None = None,
) -> dict[str, float]:
    """The cosine of this module's docstring for every hidden neuron of ``net``, by name.

    The expectation is over the samples and steps of ``x``, of which the two halves estimate |M e|^2 = <M' e, M'' e>
    without bias, and over ``errors`` ``[k, m]``: by default errors of all outputs alike that sum to zero, as those of
    a cross-entropy do (`plain_errors`). It is 0 where no error arrives. ``weights``, such as `awakened` ones, stand in
    for the network's own. Nothing is trained, and no label is read.

    Cost: one forward pass, k backward passes within each step, memory O(k n). Raises `ShapeError` for one sample.

    >>> from onward.core import Static
    >>> from onward.neurons import LIF
    >>> net = Network(torch.nn.Sequential(torch.nn.Linear(4, 3), LIF(), torch.nn.Linear(3, 2)))
    >>> {name: round(cosine, 3) for name, cosine in expected_alignment(net, Static(torch.ones(8, 4), 5)).items()}
    {'1': 1.0}
    """
    if x.batch < 2:
        raise ShapeError(f"a mini-batch of {x.batch} sample was given; a mean and a spread take at least 2")
    sizes = shapes(net, x, KeyedDraws(0))
    errors = plain_errors(sizes[-1].numel()) if errors is None else errors
    energies = {node.index: _Energy(len(errors), sizes[node.index].numel()) for node in net.hidden}
    weights, context = weights or weights_of(net), context_of(x)
    for number, found in pulled(net, weights, net.hidden, x, errors, context, chunk or x.steps):
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


def context_of(x: Sequence) -> Context:
    """Whatever is random in networks is drawn by the places of the samples."""
    return Context(KeyedDraws(0), torch.arange(x.batch), FIRST, x.steps, Share(x.batch))


def weights_of(net: Network) -> dict[int, Params]:
    """The effective weights that ``net`` has, outside any graph."""
    return {n.index: {name: w.detach() for name, w in effective(n.module).items()} for n in net.synapses}


@torch.no_grad()
def awakened(net: Network, x: Sequence, *, chunk: int | None = None) -> dict[int, Params]:
    """The weights of ``net``, each layer's divided, from the first to the last, by what the standard deviation of its
    potentials is in firing levels, over neurons, samples and steps of ``x``.

    Potentials then spread over about one firing level; the resets of spikes that come of it are not foreseen. Layers
    that nothing drives stay as they are. Cost: a forward pass a layer.
    """
    weights, known = weights_of(net), set[int]()
    for node in net.hidden:
        synapses = [n.index for n in net.sources(node) if n.index in weights and n.index not in known]
        known.update(synapses)
        spread = _spread(net, weights, node, x, chunk or x.steps) if synapses else 0.0
        factor = _level(node) / spread if spread else 1.0
        for index in synapses:
            weights[index] = {name: factor * w for name, w in weights[index].items()}
    return weights


def _spread(net: Network, weights: Weights, node: Node, x: Sequence, chunk: int) -> float:
    """The standard deviation of the potentials of ``node``."""
    carry, context = Carry(), context_of(x)
    count, sums, chunk = 0, torch.zeros(2, dtype=torch.float64), 1 if net.cyclic else chunk
    with evaluating(net):
        for start in range(0, x.steps, chunk):
            walk = Forward(net, carry, context, lambda node: weights[node.index])
            run_walk(walk, x.read(start, min(start + chunk, x.steps)))
            u = walk.record.firings[node.index].potential.double()
            count, sums = count + u.numel(), sums + torch.stack([u.sum(), u.square().sum()]).cpu()
    mean, square = (sums / count).tolist()
    return max(square - mean**2, 0.0) ** 0.5


def _level(node: Node) -> float:
    """Where ``node`` fires, on average over its neurons; 1 where that is nowhere in particular."""
    level: Any = node.module.level  # type: ignore[union-attr]
    return 1.0 if level is None else float(torch.as_tensor(level).float().mean())


def pulled(
    net: Network, weights: Weights, nodes: Nodes[Node], x: Sequence, errors: Tensor, context: Context, chunk: int
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Spatial back-propagation of each of the ``errors`` ``[k, m]``, the same for all samples and steps of ``x``.

    For every chunk and error: its number, and what arrives at the spikes of ``nodes``, ``[K, B, *features]`` by index.
    """
    carry = Carry()
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
