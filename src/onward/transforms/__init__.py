"""Transforms of what a rule learns: sinks in front of another one, which combine with every rule that deposits.

transforms.build({"name": "hlop"}, net, GradSink(net), rule, draws, tasks)
"""

from __future__ import annotations

from onward.transforms.base import Transform, freeze_after_first, unprojected
from onward.transforms.choices import GPMOptions, HlopOptions
from onward.transforms.ewc import EWC, EWCOptions
from onward.transforms.guard import Projected, Trusted, Updates, leakage
from onward.transforms.hlop import Hlop
from onward.transforms.learners import Analogue, Exact, Hebbian, Spiking
from onward.transforms.registry import TransformChoice, transforms
from onward.transforms.subspace import Subspace

__all__ = [
    "EWC",
    "Analogue",
    "EWCOptions",
    "Exact",
    "GPMOptions",
    "Hebbian",
    "Hlop",
    "HlopOptions",
    "Projected",
    "Spiking",
    "Subspace",
    "Transform",
    "TransformChoice",
    "Trusted",
    "Updates",
    "build",
    "freeze_after_first",
    "leakage",
    "parse",
    "transforms",
    "unprojected",
]

build, parse = transforms.build, transforms.parse
