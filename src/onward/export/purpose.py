"""What a network in a file was trained for: its data, its readout, what it takes and gives."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from onward.core.objective import objectives
from onward.core.registry import Choice
from onward.data import datasets
from onward.data.streams import streams
from onward.train.config import DataField, ObjectiveField, RunConfig, StreamField, TrainConfig
from onward.train.folder import Interface


def _placeless(choice: Choice) -> Choice:
    """The options of a data set without the place of its files, which is for whoever reads it to say."""
    places = {"root", "file"} & type(choice).model_fields.keys()
    return choice.model_copy(update=dict.fromkeys(places))


class Purpose(BaseModel):
    """How to test a network: sections of a run's configuration, and what it takes and gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[int, ...]
    classes: int = Field(ge=1)
    heads: int = Field(1, ge=1)
    data: Annotated[DataField, AfterValidator(_placeless)] = datasets.parse("mnist")
    stream: StreamField = streams.parse("none")
    objective: ObjectiveField = objectives.parse("per-step")
    steps: int | None = Field(None, ge=1)

    @classmethod
    def of(cls, config: RunConfig, interface: Interface) -> Self:
        """That of a run."""
        sections = {name: getattr(config, name) for name in cls.sections()}
        return cls(**sections, **asdict(interface), steps=config.train.steps)

    @classmethod
    def sections(cls) -> list[str]:
        """Of a run's configuration, what is said."""
        return [name for name in cls.model_fields if name in RunConfig.model_fields]

    @property
    def config(self) -> RunConfig:
        """What it says of a run's configuration."""
        sections = {name: getattr(self, name) for name in self.sections()}
        return RunConfig(**sections, train=TrainConfig(steps=self.steps))

    @property
    def interface(self) -> Interface:
        """What the network takes and gives."""
        return Interface(self.features, self.classes, self.heads)
