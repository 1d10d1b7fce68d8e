"""Teachers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny

from onward.core.registry import Choice, Registry
from onward.distil.soft import Distilled, Itself, Labels, Other, Teaching

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


def _run(choice: RunOptions, read: Read) -> Teaching:
    return Distilled(read(choice.teacher), choice.share, choice.temperature)


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
