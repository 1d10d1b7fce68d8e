"""The configuration of a meta-training: an ordinary run, which every task is a fresh start of, and the table [meta]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onward.core.errors import ConfigError
from onward.meta.subjects import SubjectChoice, subjects
from onward.optim import Architecture
from onward.optim.meta import Course, Weight, evenly, later_more
from onward.train.config import RunConfig
from onward.train.grammar import Request, Setting, apply

WEIGHTS: dict[str, Weight] = {"even": evenly, "later": later_more}
Part = Literal["train", "validation", "test"]


class MetaConfig(BaseModel):
    """How a learned optimiser is made and trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    subject: SubjectChoice = Field(default=subjects.parse("update"), description="what is trained")
    network: Architecture = Field(default=Architecture(), description="the learned optimiser")
    horizon: int = Field(default=200, ge=1, description="updates of a task")
    window: int = Field(default=20, ge=1, description="updates after which the optimiser learns; divides the horizon")
    weights: Literal["even", "later"] = Field(
        default="even", description="what the loss after update t counts: the same for all, or t"
    )
    epochs: int = Field(default=10, ge=1, description="epochs of meta-training")
    tasks: int = Field(default=10, ge=1, description="tasks in an epoch: networks trained from the start")
    lr: float = Field(default=1e-3, gt=0, description="learning rate of Adam, which trains the optimiser")
    clamp: float = Field(default=1.0, gt=0, description="largest entry of the meta-gradient")
    held: float = Field(
        default=0.1, gt=0, lt=1, description="fraction of the training data that is the validation part"
    )
    learn_on: Part = Field(default="train", description="part of the data that the tasks learn from")
    judge_on: Part = Field(default="validation", description="part of the data that optimisers are compared on")
    judge_every: int = Field(default=10, ge=1, description="tasks from one comparison to the next")
    judge_tasks: int = Field(default=3, ge=1, description="tasks in a comparison, always the same")
    memory: int = Field(default=1024, ge=1, description="MiB that a window may take beside the network's training")

    @model_validator(mode="after")
    def _window_divides_horizon(self) -> Self:
        self.course()
        return self

    def course(self) -> Course:
        """Horizon, window and weights of every task; raises `ConfigError` where they do not fit."""
        return Course(self.horizon, self.window, WEIGHTS[self.weights])

    @property
    def uses_test(self) -> bool:
        """Whether test data take part."""
        return "test" in (self.learn_on, self.judge_on)


class _Table(BaseModel):
    """The table [meta] as flags name it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    meta: MetaConfig = Field(default=MetaConfig(), description="meta-training")


@dataclass(frozen=True)
class MetaRecipe:
    """All that decides a meta-training's result.

    >>> recipe = MetaRecipe.parse(["--rule", "bptt", "--meta.horizon", "40", "--meta.input", "normalised"])
    >>> recipe.run.rule.name, recipe.meta.horizon, recipe.meta.network.input.name
    ('bptt', 40, 'normalised')
    """

    run: RunConfig = field(default_factory=RunConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)

    @classmethod
    def parse(cls, tokens: Sequence[str]) -> Self:
        """What command-line ``tokens`` describe: an optional recipe first, then flags, as in `onward train`.

        Raises `OnwardError` in words; `ConfigError` for flags of an optimiser, whose place the learned one takes.
        """
        request = Request.read(tokens)
        chosen = next((setting for setting in request.flags if setting.path[0] == "optim"), None)
        if chosen is not None:
            raise ConfigError(f"{chosen.label} has no say here: the optimiser is what is trained; see --meta.lr")
        table = apply([*filter(_is_meta, request.recipe), *filter(_is_meta, request.flags)], _Table())
        rest = Request(_others(request.recipe), _others(request.flags))
        run = rest.over(RunConfig())
        if run.distil.name != "none":
            raise ConfigError("a learned optimiser is trained on labels alone; leave out --distil")
        return cls(run, table.meta)

    def tables(self) -> dict[str, Any]:
        """As a recipe: plain values by table."""
        return {**self.run.model_dump(), "meta": self.meta.model_dump()}

    def help(self) -> BaseModel:
        """The fields that are shown beside those of `onward train`."""
        return _Table(meta=self.meta)


def _is_meta(setting: Setting) -> bool:
    return setting.path[0] == "meta"


def _others(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    return tuple(setting for setting in settings if not _is_meta(setting))
