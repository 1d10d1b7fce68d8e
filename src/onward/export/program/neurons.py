"""Neurons as a step of plain torch operations, which can be traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onward.core.errors import UnsupportedModule
from onward.core.neuron import Neuron, State
from onward.kernels.fire import membrane
from onward.neurons import LI, AdaptiveLIF, Affine, CubaLIF, Rectifier

Step = Callable[[Tensor, State], tuple[Tensor, State]]


class Law(NamedTuple):
    """A layer of neurons: what its states are called, and what it sends and keeps of a drive ``[B, ...]``."""

    states: tuple[str, ...]
    step: Step


def law_of(neuron: Neuron, name: str) -> Law:
    """The law of ``neuron``, its numbers read; raises `UnsupportedModule` where there is none, or numbers are drawn."""
    if neuron.test_noise:
        raise UnsupportedModule(f"{name} has noise on what it sends (test_noise {neuron.test_noise:g}); set it to 0")
    for kind, (states, step) in _LAWS.items():
        if isinstance(neuron, kind):
            return Law(states, step(neuron))
    known = ", ".join(kind.__name__ for kind in _LAWS)
    raise UnsupportedModule(f"{name} is {type(neuron).__name__}, of which no program is made; expected one of {known}")


def _affine(neuron: Affine) -> Step:
    law = neuron.recurrence

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        _, s, v = membrane(x[None], state[0], law)
        return s[0] * law.height, (v,)

    return step


def _current_based(neuron: CubaLIF) -> Step:
    charged, decay = _affine(neuron.membrane), neuron.current_decay

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        current = torch.add(x, state[0], alpha=decay)
        out, after = charged(current, state[1:])
        return out, (current, *after)

    return step


def _adaptive(neuron: AdaptiveLIF) -> Step:
    law, strength, decay = neuron.membrane.recurrence, neuron.adaptation, neuron.adaptation_decay

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        v, a = state
        h = torch.add(x * law.gain, v, alpha=law.decay) + law.drift
        above = h - (law.threshold + strength * a)
        s = (above > 0 if law.strict else above >= 0).to(h.dtype)
        v = (1 - s) * h + s * law.amount if law.hard else h - law.amount * s
        return s * law.height, (v, decay * a + s)

    return step


def _integrator(neuron: LI) -> Step:
    gain, decay = neuron.gain, neuron.decay

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        y = torch.add(x * gain, state[0], alpha=decay)
        return y, (y.clone(),)

    return step


def _rectifier(neuron: Rectifier) -> Step:  # noqa: ARG001
    return lambda x, state: (x.relu(), (x.clone(),))


_LAWS: dict[type[Neuron], tuple[tuple[str, ...], Callable[[Any], Step]]] = {
    Affine: (("membrane",), _affine),
    CubaLIF: (("current", "membrane"), _current_based),
    AdaptiveLIF: (("membrane", "adaptation"), _adaptive),
    LI: (("membrane",), _integrator),
    Rectifier: (("drive",), _rectifier),
}
