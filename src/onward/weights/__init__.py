"""Re-parametrised weights: what a synapse stores is not what it computes with.

Each is a `torch.nn.utils.parametrize` parametrization, so stock modules, state dicts and pruning tools keep
working. The engine takes gradients with respect to the *effective* weight and pulls them back once per update.
"""

from __future__ import annotations

from onward.weights.choices import Restriction, RestrictionChoice, restrictions
from onward.weights.operator import Drive, Matrix, Operator, operator_norm, operator_of
from onward.weights.restricted import Frobenius, Spectral, probed_norm, shrink
from onward.weights.standardized import ACTIVATION_SCALE, Standardized, standardize

__all__ = [
    "ACTIVATION_SCALE",
    "Drive",
    "Frobenius",
    "Matrix",
    "Operator",
    "Restriction",
    "RestrictionChoice",
    "Spectral",
    "Standardized",
    "operator_norm",
    "operator_of",
    "probed_norm",
    "restrictions",
    "shrink",
    "standardize",
]
