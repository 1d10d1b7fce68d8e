"""Which parameters an optimiser treats alike."""

from __future__ import annotations

from typing import Any

from torch import nn

from onward.weights import latents


def parameter_groups(net: nn.Module, rule: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """Groups ``weights``, ``exempt``, ``latents`` and ``rule`` for a torch optimiser; empty ones are left out.

    ``exempt`` (no weight decay unless ``decay_all``) holds everything with fewer than two axes: biases,
    scales and shifts of norms, thresholds. ``latents`` (never any: their size means nothing but how soon a sign flips)
    are behind binary weights. ``rule`` holds the learned tensors of the learning rule.
    """
    signed = [p for p in latents(net) if p.requires_grad]
    apart = {id(p) for p in signed}
    own = [p for p in net.parameters() if p.requires_grad and id(p) not in apart]
    learned = [p for p in rule.parameters() if p.requires_grad]
    groups = [
        {"name": "weights", "params": [p for p in own if p.dim() > 1], "weight_decay": weight_decay},
        {
            "name": "exempt",
            "params": [p for p in own if p.dim() <= 1],
            "weight_decay": weight_decay if decay_all else 0.0,
        },
        {"name": "latents", "params": signed, "weight_decay": 0.0},
        {"name": "rule", "params": learned, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]
