"""TO BE REPLACED by `onward.weights`, whose restrictions are being written: the same names, which restrict nothing.

Delete this file, and in `onward.models.feedback` import RestrictionChoice and restrictions from `onward.weights`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny
from torch import nn

from onward.core.registry import Choice, Registry


class Unrestricted:
    """Leaves the weights as they are."""

    def apply(self, synapse: nn.Module, features: tuple[int, ...]) -> nn.Module:
        """The synapse itself."""
        return synapse


restrictions: Registry[Unrestricted] = Registry("restriction")
for _name in ("spectral", "reshaped", "frobenius", "none"):
    restrictions.register(_name, Choice, lambda choice: Unrestricted(), "stand-in: restricts nothing")

RestrictionChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(restrictions.parse)]
