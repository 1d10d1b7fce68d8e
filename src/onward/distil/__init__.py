"""Knowledge distillation: a network learns from labels and from what a teacher says of the same samples.

    L = (1 - k) L_labels(o, y) + k tau^2 KL(softmax(z / tau) || softmax(o / tau))

z are the teacher's logits, once a mini-batch and without a gradient; both terms are taken as the objective takes its
own, at every step and averaged (per-step objectives) or of the outputs' mean and the like (readouts). Hidden layers
may be matched, too (`onward.distil.features`).
"""

from __future__ import annotations

from onward.distil.choices import DistilChoice, RunOptions, distils
from onward.distil.features import Features, Matching
from onward.distil.soft import Distilled, Itself, Labels, Matched, Other, Soft, Teacher, Teaching

__all__ = [
    "DistilChoice",
    "Distilled",
    "Features",
    "Itself",
    "Labels",
    "Matched",
    "Matching",
    "Other",
    "RunOptions",
    "Soft",
    "Teacher",
    "Teaching",
    "build",
    "distils",
]

build = distils.build
