"""The registry of transforms."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from onward.core.registry import Choice, Registry
from onward.transforms.base import Transform

transforms: Registry[Transform] = Registry("transform")
transforms.register("none", Choice, lambda choice, net, inner, rule, draws, tasks: Transform(inner), "nothing")

TransformChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(transforms.parse)]
