"""The registry of transforms."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from onward.core.registry import Choice, Registry
from onward.transforms.base import Transform

NO_PAPER = {"paper": "none needed", "published": "everybody's fine-tuning", "inferred": "none"}
transforms: Registry[Transform] = Registry("transform")
transforms.register(
    "none", Choice, lambda choice, net, inner, rule, draws, tasks: Transform(inner), "nothing", facts=NO_PAPER
)

TransformChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(transforms.parse)]
