"""How the memory of training grows with time steps and with layers, on paper (`onward memplan` plans the same way)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from onward.core import Frames, KeyedDraws, Network
from onward.core.run import fit_chunk
from onward.explain.tiny import Case, MakeNeuron
from onward.plan.footprint import GRADIENTS, Stage, runs
from onward.plan.onpaper import act
from onward.plan.outline import outline
from onward.rules import rules

WIDTH, CLASSES, BATCH = 64, 10, 32
STEPS, LAYERS = (4, 16, 32, 48, 64), (3, 6, 9, 12)
"""What is compared; the first of each is the base of the other."""


@dataclass(frozen=True)
class Growth:
    """Bytes beside weights and gradients: after each of `STEPS` time steps, and with each of `LAYERS` layers."""

    steps: tuple[int, ...]
    layers: tuple[int, ...]

    @property
    def in_time(self) -> float:
        """How many times more for 16 times the steps."""
        return self.steps[-1] / self.steps[0]

    @property
    def in_depth(self) -> float:
        """How many times more for 4 times the layers."""
        return self.layers[-1] / self.layers[0]


def growth(case: Case) -> Growth:
    """The growth of the rule of ``case``, for layers of 64 neurons and 32 samples; nothing is trained.

    Raises what `LearningRule.bind` does.
    """
    base = held(case, LAYERS[0], STEPS[0])
    steps = [held(case, LAYERS[0], steps) for steps in STEPS[1:]]
    layers = [held(case, layers, STEPS[0]) for layers in LAYERS[1:]]
    return Growth((base, *steps), (base, *layers))


def held(case: Case, layers: int, steps: int) -> int:
    """Bytes at the peak beside weights and gradients: what a mini-batch holds, and what the rule keeps."""
    rule, net = rules.build(case.choice), _stack(case.make, layers)
    sample = Frames(torch.ones(steps, BATCH, WIDTH))
    draws = KeyedDraws(0)
    rule.bind(net, case.objective, sample, draws)
    chunk = fit_chunk(net, rule, 1, steps, online=False)
    stage = Stage(outline(net, sample, getattr(rule, "norms", None)), rule, BATCH)
    taken = act(stage, runs(rule, draws, steps, chunk, 0)).most
    kept = sum(tensor.nbytes for tensor in (*rule.buffers(), *rule.parameters()))
    return sum(amount for part, amount in taken.items() if part != GRADIENTS) + kept


def _stack(make: MakeNeuron, layers: int) -> Network:
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(WIDTH, WIDTH), make().float()]
    return Network(nn.Sequential(*parts, nn.Linear(WIDTH, CLASSES)))
