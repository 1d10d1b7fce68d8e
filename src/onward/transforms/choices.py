"""Orthogonal projection by name: HLOP, and its exact upper reference."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from onward.core.draws import Draws
from onward.core.network import Network
from onward.core.registry import Choice
from onward.core.rule import LearningRule
from onward.core.sink import Sink
from onward.transforms.base import Transform
from onward.transforms.growth import Filled, Growth, Listed, check_length
from onward.transforms.hlop import Hlop, Make
from onward.transforms.learners import Analogue, Exact, Hebbian, Lateral, Learner, Spiking
from onward.transforms.protectable import protectable
from onward.transforms.registry import transforms
from onward.transforms.site import EveryStep, LearnsFrom, Look, Means, Steps


class ProjectionOptions(Choice):
    """Options of orthogonal projection, however its subspaces are found."""

    fill: float = Field(0.6, gt=0, le=1, description="share of each synapse's directions that all tasks take together")
    initial: tuple[int, ...] = Field(
        (), description="rows for the first task, one number or one a synapse; none: from transform.fill"
    )
    increment: tuple[int, ...] = Field((), description="rows for each later task; none: as many as for the first")
    decrement: int = Field(0, ge=0, description="how many fewer rows tasks get from each of transform.drops on")
    drops: tuple[int, ...] = Field((), description="tasks, counted from 0, from which on there are fewer rows")
    unprotected: tuple[str, ...] = Field((), description="names of synapses that are left alone")
    learns_from: LearnsFrom = Field(
        "input", description="of eligibility traces: the inputs they are of, themselves, or both (as the authors)"
    )
    leak: float = Field(
        1.0, gt=0, le=1, description="with schedule mean: what a step weighs, as a share of the next one"
    )
    patches: float = Field(1.0, gt=0, le=1, description="share of the places of a map whose patches are learned from")
    updates: Literal["project", "refuse"] = Field(
        "project",
        description="what to do with optimisers that would undo the protection: project their steps, or refuse",
    )


class HlopOptions(ProjectionOptions):
    """Options of HLOP."""

    lr: tuple[float, ...] = Field(
        (), description="rate of Hebbian learning, one number or one a synapse; none: 0.7 of what is stable"
    )
    iterations: int = Field(5, ge=1, description="Hebbian steps a mini-batch")
    momentum: float = Field(0.9, ge=0, lt=1, description="decay of their velocity per step")
    clip: float = Field(10.0, gt=0, description="largest change of a lateral weight per step, before the rate")
    schedule: Literal["sequence", "mean", "step"] = Field(
        "sequence",
        description="learn once a mini-batch, from inputs of all steps or their mean; or at every step (one process)",
    )
    lateral: Literal["analogue", "spiking"] = Field("analogue", description="how lateral neurons answer")
    scale: float = Field(20.0, gt=0, description="largest answer of spiking lateral neurons")
    levels: int = Field(1000, ge=1, description="time steps of spiking lateral neurons")
    orthonormal: bool = Field(False, description="make rows orthonormal at the end of a task (not in the paper)")


class GPMOptions(ProjectionOptions):
    """Options of gradient projection memory."""

    schedule: Literal["sequence", "mean"] = Field("sequence", description="from inputs of all steps, or their mean")


def _growth(choice: Any, tasks: int, count: int) -> Growth:
    if not choice.initial:
        return Filled(choice.fill, tasks)
    increment = choice.increment or choice.initial
    check_length(choice.initial, count, "transform.initial")
    check_length(increment, count, "transform.increment")
    return Listed(choice.initial, increment, choice.decrement, choice.drops)


def _look(choice: Any) -> Look:
    looks = {"sequence": Steps, "mean": partial(Means, choice.leak), "step": EveryStep}
    return looks[choice.schedule](choice.learns_from)


def _build_hlop(choice: Any, net: Network, inner: Sink, rule: LearningRule, draws: Draws, tasks: int) -> Transform:
    lateral: Lateral = Spiking(choice.scale, choice.levels) if choice.lateral == "spiking" else Analogue()
    if choice.lr:
        check_length(choice.lr, len(protectable(net, choice.unprotected)), "transform.lr")

    def make(place: int, width: int, like: Tensor) -> Learner:
        """As the options say."""
        lr = choice.lr[place if len(choice.lr) > 1 else 0] if choice.lr else None
        return Hebbian(width, like, lr, choice.iterations, choice.momentum, choice.clip, lateral)

    return _projection(choice, net, inner, rule, draws, tasks, make, orthonormal=choice.orthonormal)


def _build_gpm(choice: Any, net: Network, inner: Sink, rule: LearningRule, draws: Draws, tasks: int) -> Transform:
    return _projection(choice, net, inner, rule, draws, tasks, lambda place, width, like: Exact(width, like))


def _projection(
    choice: Any,
    net: Network,
    inner: Sink,
    rule: LearningRule,
    draws: Draws,
    tasks: int,
    make: Make,
    *,
    orthonormal: bool = False,
) -> Transform:
    """What all projections share, with learners that ``make`` makes."""
    return Hlop(
        net,
        inner,
        rule,
        draws,
        tasks,
        make=make,
        growth=_growth(choice, tasks, len(protectable(net, choice.unprotected))),
        look=_look(choice),
        patches=choice.patches,
        unprotected=choice.unprotected,
        project=choice.updates == "project",
        orthonormal=orthonormal,
    )


transforms.register(
    "hlop",
    HlopOptions,
    _build_hlop,
    "Hebbian learning based orthogonal projection: gradients leave alone what earlier tasks heard",
    facts={"paper": "Xiao et al. 2024 (HLOP)", "published": "equations, code, results", "inferred": "the choice of lr"},
)
transforms.register(
    "gpm",
    GPMOptions,
    _build_gpm,
    "gradient projection memory: the same projection, onto exact eigenvectors found at the end of each task",
    facts={"paper": "Saha et al. 2021", "published": "equations", "inferred": "as many rows as hlop"},
)
