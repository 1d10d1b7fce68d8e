"""How credit reaches a layer, found out by experiment in `onward.explain.laboratory`.

    pairs[l][s][t]   how much a presynaptic spike at step s and the error of step t together change layer l's weights:
                     the gradient at the probe that spikes at s alone
    posts[l][r][t]   how much the error of step t tells layer l's neurons at step r, as deposits say it

Then interventions, of which each asks one question:

    probes that nobody hears, or hardly anybody      are weights, their signs, or neither read backwards?
    no error passes back from the readout            do errors reach hidden layers through it, or past it?
    one reader's errors alone, layers set to zero    which layers do readouts beside the output read, and teach?
    losses stay, errors are hidden                   are layers told errors, or what the loss was?

Of a rule that tries weights out (trait ``from_loss``) no layer is told anything, and nothing of this is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from onward.core.rule import Traits
from onward.explain.laboratory import ALL, Found, Laboratory, Light
from onward.explain.tiny import HIDDEN, INPUTS, SAMPLES, STEPS, WIDTH, Case

LAYERS = HIDDEN + 1
FOCUS = 1
"""The layer whose credit is shown, counted from 0: one with another hidden layer below it, and above it."""
OUTPUT = 0
"""The reader that reads the network's output."""
SEEN = 1e-6
"""Of the largest number of its kind: what is smaller was not seen."""
WHISPER = 1e-9
"""How loud probes that are hardly heard are."""

Temporal = Literal["back in time", "trace", "instant", "rates", "loss", "not known"]
Read = Literal["weights", "signs", "nothing"]
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Route:
    """How credit of one layer lies in ``time``.

    ``pairs`` and ``posts`` as in the module's docstring, by their largest; a rule that hears one error of the whole
    sequence has one column.
    """

    time: Temporal
    pairs: Matrix = ()
    posts: Matrix = ()


@dataclass(frozen=True)
class Head:
    """A readout beside the output: the layer it ``reads`` and those it ``teaches``, counted from 0."""

    reads: int
    teaches: tuple[int, ...]


@dataclass(frozen=True)
class Traced:
    """What was found of a rule: a route for every layer; errors come ``through`` the layers above, or ``direct``.

    ``told`` is what arrives where they come direct; ``read`` which weights are read backwards. ``passes`` is how often
    the network, which has so many ``weights``, ran over the sequence, if that was counted. ``own`` lists what the rule
    keeps and ``learned`` what it learns, by name and size; ``adapts``: the former changes with every mini-batch.
    ``spikes`` are those of inputs and hidden layers. ``cyclic``: the tiny network has a loop.
    """

    routes: tuple[Route, ...]
    through: bool = False
    direct: bool = False
    told: Literal["errors", "loss"] = "errors"
    read: Read = "nothing"
    heads: tuple[Head, ...] = ()
    passes: int = 0
    own: Mapping[str, int] = field(default_factory=dict)
    learned: Mapping[str, int] = field(default_factory=dict)
    adapts: bool = False
    weights: int = 0
    spikes: tuple[tuple[tuple[bool, ...], ...], ...] = ()
    cyclic: bool = False

    @property
    def time(self) -> Temporal:
        """How credit of the layer that is shown lies in time."""
        return self.routes[FOCUS].time

    @property
    def whole(self) -> bool:
        """Whether there is one error of the whole sequence, or none but losses."""
        return self.time in ("rates", "loss")

    @property
    def lit(self) -> tuple[bool, ...]:
        """Which errors, by their column, teach the layer that is shown."""
        return tuple(any(column) for column in zip(*self.routes[FOCUS].pairs, strict=True))

    @property
    def step(self) -> int:
        """The step whose credit is shown: one with steps before and after it, where it takes part."""
        taught = [any(row) for row in self.routes[FOCUS].posts]
        return next((step for step in (2, 1, 3, 0) if taught[step : step + 1] == [True]), 2)


def claimed(traits: Traits, cyclic: bool) -> Traced:
    """What ``traits`` alone say, of a rule that cannot be traced."""
    back = traits.backward == "time"
    time: Temporal = "back in time" if back else "not known"
    if traits.from_loss or traits.rate:
        time = "loss" if traits.from_loss else "rates"
    within = torch.eye(STEPS)
    posts = torch.ones(STEPS, 1) if traits.rate else within + torch.ones(STEPS, STEPS).triu(1) * back
    route = (
        Route(time) if traits.from_loss else Route(time, _matrix(within if not traits.rate else posts), _matrix(posts))
    )
    through = traits.backward != "none" or traits.weight_transport
    direct = not (through or traits.from_loss)
    silent = tuple(((False,) * units,) * STEPS for units in (INPUTS, *[WIDTH] * HIDDEN))
    read: Read = "weights" if traits.weight_transport else "nothing"
    return Traced((route,) * LAYERS, through, direct, read=read, spikes=silent, cyclic=cyclic)


def traced(case: Case) -> Traced:
    """The experiments on the rule of ``case``.

    Costs some fifteen mini-batches of two samples on thirty neurons. Raises what `LearningRule.bind` does.
    """
    lab = Laboratory.of(case)
    found, own = lab.learn(), dict(lab.rule.named_buffers())
    common: dict[str, Any] = {
        "passes": found.passes,
        "own": _sizes(own),
        "learned": _sizes(dict(lab.rule.named_parameters())),
        "adapts": any(not torch.equal(own[name], lab.saved[name]) for name in _sizes(own) if name in lab.saved),
        "weights": sum(parameter.numel() for parameter in lab.subject.net.parameters()),
        "spikes": _spikes(lab, found),
        "cyclic": case.cyclic,
    }
    if lab.rule.traits.from_loss:
        return Traced((Route("loss"),) * LAYERS, **common)
    lit, alone = [lab.learn(light) for light in _lights(lab)], lab.learn(Light(reader=OUTPUT))
    pairs, posts = torch.stack([_pairs(each) for each in lit], 2), torch.stack([each.posts for each in lit], 2)
    routes = tuple(_route(lab, *layer) for layer in zip(pairs, posts, strict=True))
    read = _read(alone, case)
    through, direct = _ways(lab, alone, case, read)
    told = "loss" if direct and bool(lab.learn(Light(loss_alone=True)).grads[0].any()) else "errors"
    return Traced(routes, through, direct, told, read, _heads(lab, found), **common)


def _spikes(lab: Laboratory, found: Found) -> tuple[tuple[tuple[bool, ...], ...], ...]:
    layers = [lab.subject.stimulus[:, 0].bool(), *found.spikes]
    return tuple(tuple(tuple(map(bool, step)) for step in layer) for layer in layers)


def _lights(lab: Laboratory) -> list[Light]:
    """One for each column of the pairings: each step's error by itself, or all of them."""
    steps = torch.eye(STEPS) if lab.objective.per_step else ALL[None]
    return [Light(lit) for lit in steps]


def _pairs(found: Found) -> Tensor:
    """One column of ``pairs``, ``[L, T]``: gradients at the probes' weights to all but the next probes."""
    return torch.stack([grad[:WIDTH, -STEPS:].norm(dim=0) for grad in found.grads])


def _route(lab: Laboratory, pairs: Tensor, posts: Tensor) -> Route:
    time = "rates" if lab.rule.traits.rate else _in_time(pairs, posts)
    return Route(time, _matrix(pairs), _matrix(posts))


def _in_time(pairs: Tensor, posts: Tensor) -> Temporal:
    earlier = torch.ones(STEPS, STEPS).triu(1).bool()
    if bool((posts[earlier] > SEEN * posts.amax()).any()):
        return "back in time"
    return "trace" if bool((pairs[earlier] > SEEN * pairs.amax()).any()) else "instant"


def _read(unheard: Found, case: Case) -> Read:
    """What is read backwards: are neurons taught that nobody hears, or hardly anybody?"""
    if _taught(unheard) > SEEN:
        return "nothing"
    whispering = Laboratory.of(case, heard=WHISPER).learn(Light(reader=OUTPUT))
    return "signs" if _taught(whispering) > SEEN else "weights"


def _taught(found: Found) -> float:
    """How much the first layer's probes are taught, as a share of what all its neurons are."""
    grad = found.grads[0]
    return float(grad[WIDTH:, :-STEPS].norm() / grad.norm().clamp_min(1e-300))


def _ways(lab: Laboratory, heard: Found, case: Case, read: Read) -> tuple[bool, bool]:
    """Whether the output's errors reach the first layer through the layer above, and whether past it."""
    if lab.rule.traits.rate:  # they know no slopes but those of neurons' rates
        return True, read == "nothing"
    left, whole = Laboratory.of(case, deaf=True).learn(Light(reader=OUTPUT)).grads[0], heard.grads[0]
    least = SEEN * float(whole.norm())
    return float((whole - left).norm()) > least, float(left.norm()) > least


def _heads(lab: Laboratory, found: Found) -> tuple[Head, ...]:
    """The readers beside the output that teach anybody."""
    readers = range(OUTPUT + 1, len(found.readings))
    heads = [Head(_source(lab, found, reader), _pupils(lab, reader)) for reader in readers]
    return tuple(head for head in heads if head.teaches)


def _source(lab: Laboratory, found: Found, reader: int) -> int:
    """The layer that ``reader`` reads: the highest one without which it reads something else."""
    for layer in reversed(range(HIDDEN)):
        with lab.without(layer):
            if not torch.equal(lab.learn().readings[reader], found.readings[reader]):
                return layer
    return 0


def _pupils(lab: Laboratory, reader: int) -> tuple[int, ...]:
    """The layers that learn when ``reader`` alone has errors."""
    grads = lab.learn(Light(reader=reader)).grads
    return tuple(layer for layer, grad in enumerate(grads) if bool(grad.any()))


def _matrix(found: Tensor) -> Matrix:
    largest = float(found.amax())
    scaled = found / largest if largest else found
    return tuple(tuple(float(value) if value > SEEN else 0.0 for value in row) for row in scaled)


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How many numbers each of ``tensors`` has; counters and statistics of a few numbers are left out."""
    return {name: value.numel() for name, value in tensors.items() if value.numel() > SAMPLES}
