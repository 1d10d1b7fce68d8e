"""Re-parametrised weights: what a synapse stores is not what it computes with.

Each is a `torch.nn.utils.parametrize` parametrization, so stock modules, state dicts and pruning tools keep
working. The engine takes gradients with respect to the *effective* weight and pulls them back once per update.
"""

from onward.weights.operator import operator_norm
from onward.weights.restricted import (
    Frobenius,
    RestrictionChoice,
    Spectral,
    probed_norm,
    restrictions,
    shortened,
)
from onward.weights.standardized import ACTIVATION_SCALE, Standardized, standardize

__all__ = [
    "ACTIVATION_SCALE",
    "Frobenius",
    "RestrictionChoice",
    "Spectral",
    "Standardized",
    "operator_norm",
    "probed_norm",
    "restrictions",
    "shortened",
    "standardize",
]
