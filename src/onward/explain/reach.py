"""How well direct feedback can be expected to reach the layers of a network that somebody is about to train."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from onward.core import Network, Sequence
from onward.core.glue import turn
from onward.core.graph import Kind
from onward.core.run import outputs
from onward.explain.trace import Traced
from onward.train import RunConfig, assemble
from onward.train.law import awakened, expected_alignment
from onward.train.observe import probe_batch

SAMPLES = 128
"""Training samples that the mean and the energy of the Jacobian are taken over."""
ENOUGH = 0.4
"""Expected cosine of the worst layer below which OPZO lost half a point of accuracy or more, by depth
(docs/explanation/direct-feedback-law.md)."""


@dataclass(frozen=True)
class Reach:
    """The ``cosines`` that the best direct feedback has with back-propagation, by neuron, once layers are awake.

    ``caution`` is what to know before training; empty if all is well.
    """

    cosines: Mapping[str, float]
    caution: str


def reach(config: RunConfig, found: Traced) -> Reach:
    """What is to be expected of the rule of ``config``, of which these things were ``found``, in its network.

    Reads `SAMPLES` training samples, and no label. Raises what `assemble` does.
    """
    parts, _ = assemble(config)
    batch = probe_batch(parts.loader.dataset, SAMPLES, parts.loader.steps, parts.device)
    turn(parts.net, batch.task)
    net = _seen(parts.net, batch.x, parts.chunk)
    awake = awakened(net, batch.x, chunk=parts.chunk)
    cosines = expected_alignment(net, batch.x, weights=awake, chunk=parts.chunk)
    return Reach(cosines, _caution(cosines, bool(found.heads)))


def _seen(net: Network, x: Sequence, chunk: int) -> Network:
    """The network, its normalisation layers with the statistics of ``x``: fresh ones know of nothing yet."""
    if not net.of(Kind.NORM):
        return net
    net = deepcopy(net)
    for node in net.of(Kind.NORM):
        module: Any = node.module
        module.reset_running_stats()
        module.momentum = None
    with torch.no_grad():
        for _ in outputs(net, x, chunk=chunk):
            pass
    return net


def _caution(cosines: Mapping[str, float], local: bool) -> str:
    """Whether the worst layer hears too little; ``local``: layers have readouts of their own to learn from."""
    worst = min(cosines, key=lambda name: cosines[name], default="")
    if local or not worst or cosines[worst] >= ENOUGH:
        return ""
    return (
        f"this network is too deep for direct feedback: expected cosine {cosines[worst]:.2f} in {worst}; add LL "
        "(--rule.local ll), residuals or relay (--rule relay-opzo)"
    )
