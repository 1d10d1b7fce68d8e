"""Which parameters an optimiser treats alike."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(net: nn.Module, rule: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """Groups ``weights``, ``exempt`` and ``rule`` for a torch optimiser; empty ones are left out.

    ``exempt`` (no weight decay unless ``decay_all``) holds everything with fewer than two axes: biases,
    scales and shifts of norms, thresholds. ``rule`` holds the learned tensors of the learning rule.
    """
    own = [p for p in net.parameters() if p.requires_grad]
    learned = [p for p in rule.parameters() if p.requires_grad]
    groups = [
        {"name": "weights", "params": [p for p in own if p.dim() > 1], "weight_decay": weight_decay},
        {
            "name": "exempt",
            "params": [p for p in own if p.dim() <= 1],
            "weight_decay": weight_decay if decay_all else 0.0,
        },
        {"name": "rule", "params": learned, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]
