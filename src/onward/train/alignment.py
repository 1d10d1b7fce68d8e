"""How near a rule's gradient is to back-propagation's, and its feedback to the Jacobian, on a few fixed samples.

With g_k the rule's gradient of a synapse in draw k of K, and r that of a reference on the same samples:

    cosine     mean over k of <g_k, r> / |g_k| |r|
    settled    cosine of the mean of g_k and r: what is left of the angle when noise averages out
    ratio      mean over k of |g_k| / |r|
    bias       |mean of g_k - r| / |r|, without what the spread of K draws adds to it
    deviation  sqrt(sum over k of |g_k - mean|^2 / (K - 1)) / |r|, the spread from draw to draw

References are *bp*, the same rule with errors that cross space by back-propagation within each step, and *bptt*.
Everything happens on copies; cost: K passes of the rule, one of each reference, and m backward passes within a step
for feedback from m outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from onward.core import GradSink, LearningRule, Network, Objective, run_sequence
from onward.core.draws import Draws
from onward.core.errors import OnwardError
from onward.core.glue import turn
from onward.core.graph import Node
from onward.core.group import Share
from onward.core.interpret import frozen_statistics
from onward.core.registry import Choice
from onward.core.signal import Context
from onward.data import Batch
from onward.rules import rules
from onward.train.law import FIRST, MOST_ERRORS, pulled, weights_of

Gradients = Mapping[str, Tensor]
"""By the name of a synapse, all its parameters in one vector."""


def compared(
    net: Network,
    rule: LearningRule,
    choice: Choice,
    objective: Objective,
    batch: Batch,
    draws: Draws,
    chunk: int,
    count: int,
) -> dict[str, Any]:
    """The measures above for ``count`` draws, by reference and synapse; `alignment` by neuron; what cannot be had and
    why; and the seconds that it took."""
    began, net = perf_counter(), deepcopy(net)
    turn(net, batch.task)
    own = _bound(choice, net, objective, batch, draws)
    found = [_gradients(net, _as(own, rule), objective, batch, draws, FIRST + k, chunk) for k in range(count)]
    measures, missing = {}, {}
    for name, reference in _references(choice).items():
        try:
            other = _bound(reference, net, objective, batch, draws)
            exact = _gradients(net, other, objective, batch, draws, FIRST, chunk)
        except OnwardError as error:
            missing[name] = str(error)
        else:
            measures[name] = {layer: measured([g[layer] for g in found], r) for layer, r in exact.items()}
    return {
        "draws": count,
        "gradients": measures,
        "feedback": alignment(net, _as(own, rule).direct_feedback(), batch, draws, chunk),
        "missing": missing,
        "seconds": perf_counter() - began,
    }


def _references(choice: Choice) -> dict[str, Choice]:
    temporal = getattr(choice, "temporal", {"name": "ottt", "fidelity": "exact"})
    within = rules.parse({"name": "online", "temporal": temporal, "spatial": "bp"})
    return {"bp": within, "bptt": rules.parse("bptt")}


def _bound(choice: Choice, net: Network, objective: Objective, batch: Batch, draws: Draws) -> LearningRule:
    rule = rules.build(choice)
    rule.bind(net, objective, batch.x, draws)
    return rule.to(next(net.parameters()).device)


def _as(rule: LearningRule, like: LearningRule) -> LearningRule:
    """``rule`` with what ``like`` has learned so far."""
    rule.load_state_dict(like.state_dict())
    return rule


def _gradients(
    net: Network, rule: LearningRule, objective: Objective, batch: Batch, draws: Draws, number: int, chunk: int
) -> Gradients:
    """What one sequence deposits."""
    net.zero_grad(set_to_none=True)
    sink = GradSink(net)
    with frozen_statistics(net):
        run_sequence(
            net, rule, objective, batch.x, batch.y, sink, draws=draws, ids=batch.ids, sequence=number, chunk=chunk
        )
    sink.flush()
    return {node.name: flat for node in net.synapses if (flat := _flat(node)) is not None}


def _flat(node: Node) -> Tensor | None:
    grads = [p.grad.flatten() for p in node.module.parameters() if p.grad is not None]
    return torch.cat(grads).double() if grads else None


def measured(found: list[Tensor], reference: Tensor) -> dict[str, float]:
    """The measures in this module's docstring.

    >>> exact = torch.tensor([1.0, 0.0])
    >>> measured([torch.tensor([2.0, 2.0]), torch.tensor([2.0, -2.0])], exact)["bias"]
    0.0
    """
    size, drawn = reference.norm(), torch.stack(found)
    mean, norms = drawn.mean(0), drawn.norm(dim=1)
    spread = (drawn - mean).square().sum() / max(1, len(found) - 1)
    bias = ((mean - reference).square().sum() - spread / len(found)).clamp(min=0).sqrt()
    return {
        "cosine": float((drawn @ reference / (norms * size)).mean()),
        "settled": float(torch.cosine_similarity(mean, reference, dim=0)),
        "ratio": float(norms.mean() / size),
        "bias": float(bias / size),
        "deviation": float(spread.sqrt() / size),
    }


def alignment(net: Network, feedback: Mapping[int, Tensor], batch: Batch, draws: Draws, chunk: int) -> dict[str, float]:
    """The cosine between each direct feedback matrix and the mean Jacobian's transpose, by neuron."""
    if not feedback or next(iter(feedback.values())).shape[1] > MOST_ERRORS:
        return {}
    nodes = [net.nodes[index] for index in sorted(feedback)]
    units = torch.eye(next(iter(feedback.values())).shape[1])
    columns = {node.index: [torch.zeros(())] * len(units) for node in nodes}
    context = Context(draws, batch.ids, FIRST, batch.x.steps, Share(batch.x.batch))
    for number, credits in pulled(net, weights_of(net), nodes, batch.x, units, context, chunk):
        for index, credit in credits.items():
            columns[index][number] = credit.flatten(0, 1).sum(0) + columns[index][number]
    return {node.name: _cosine(feedback[node.index], torch.stack(columns[node.index], -1)) for node in nodes}


def _cosine(m: Tensor, jacobian: Tensor) -> float:
    """Positions that share a row of ``m`` share one here."""
    rows = jacobian.view(len(jacobian), -1, jacobian.shape[-1]).sum(1) if len(m) == len(jacobian) else jacobian
    return float(torch.cosine_similarity(m.double().flatten(), rows.double().flatten(), dim=0))
