"""Re-parametrised weights: what a synapse stores is not what it computes with.

Each is a `torch.nn.utils.parametrize` parametrization, so stock modules, state dicts and pruning tools keep
working. The engine takes gradients with respect to the *effective* weight and pulls them back once per update.
"""

from __future__ import annotations

from onward.weights.binary import (
    Binarizer,
    Binary,
    Clipped,
    Learned,
    MagnitudeAware,
    MeanMagnitude,
    Straight,
    Unscaled,
    binarize,
    latents,
)
from onward.weights.choices import Restriction, RestrictionChoice, restrictions
from onward.weights.cost import LayerCost, costs
from onward.weights.folding import Counting, Line, fold
from onward.weights.kinds import Weights, weight_kinds
from onward.weights.operator import Drive, Matrix, Operator, operator_norm, operator_of
from onward.weights.packed import Packed, with_packed_weights
from onward.weights.restricted import Frobenius, Spectral, probed_norm, shrink
from onward.weights.standardized import ACTIVATION_SCALE, Standardized, standardize

__all__ = [
    "ACTIVATION_SCALE",
    "Binarizer",
    "Binary",
    "Clipped",
    "Counting",
    "Drive",
    "Frobenius",
    "LayerCost",
    "Learned",
    "Line",
    "MagnitudeAware",
    "Matrix",
    "MeanMagnitude",
    "Operator",
    "Packed",
    "Restriction",
    "RestrictionChoice",
    "Spectral",
    "Standardized",
    "Straight",
    "Unscaled",
    "Weights",
    "binarize",
    "costs",
    "fold",
    "latents",
    "operator_norm",
    "operator_of",
    "probed_norm",
    "restrictions",
    "shrink",
    "standardize",
    "weight_kinds",
    "with_packed_weights",
]
