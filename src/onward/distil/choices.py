"""Teachers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from onward.core.registry import Choice, Registry
from onward.distil.features import Features, Mapped, Which
from onward.distil.soft import Distilled, Itself, Labels, Matched, Other, Teaching

Read = Callable[[str | None], Other]
"""From the folder of a run, the network that it trained."""


class SelfOptions(Choice):
    """Options of what a teacher's word weighs."""

    share: float = Field(0.7, ge=0, le=1, description="what the teacher's word weighs; labels weigh 1 - share")
    temperature: float = Field(
        4.0, gt=0, description="what logits are divided by: the higher, the more the unlikely classes tell"
    )


class RunOptions(SelfOptions):
    """Options of a teacher that another run trained."""

    teacher: str | None = Field(None, description="folder of the finished run whose network is the teacher")
    features: Literal["none", Which] = Field(
        "none",
        description="hidden layers whose mean activity is matched with the teacher's: the last one, or the last of "
        "every shape; rules with direct feedback train these layers alone by it",
    )
    feature_weight: float = Field(1.0, gt=0, description="what the mean square of their difference weighs")
    feature_maps: Mapped = Field(
        "needed", description="learn a matrix over channels between the two: where their numbers differ, or always"
    )


def _run(choice: RunOptions, read: Read) -> Teaching:
    teacher = read(choice.teacher)
    if choice.features == "none":
        return Distilled(teacher, choice.share, choice.temperature)
    features = Features(choice.features, choice.feature_weight, choice.feature_maps)
    return Matched(teacher, choice.share, choice.temperature, features)


distils: Registry[Teaching] = Registry("teacher")
distils.register("none", Choice, lambda choice, read: Labels(), "labels alone")
distils.register("run", RunOptions, _run, "the network of another run: an SNN, or a ReLU network (--neuron relu)")
distils.register(
    "self",
    SelfOptions,
    lambda choice, read: Distilled(Itself(), choice.share, choice.temperature),
    "the mean of the network's own outputs over time, at the cost of one more forward pass",
)

DistilChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(distils.parse)]
