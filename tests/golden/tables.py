"""What only the golden vectors' documentation states, and nothing else: tolerances, names, conventions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onward.core.objective import MSE, CrossEntropy, Mean, Objective, PerStep, Readout
from onward.surrogates import ATan, QuasiClamp, Rectangle, Sigmoid, Surrogate, Triangle
from onward.weights import ACTIVATION_SCALE


@dataclass(frozen=True)
class Tolerance:
    """max |a - b| <= absolute + relative * max |stored|."""

    absolute: float
    relative: float

    def __str__(self) -> str:
        return f"{self.absolute:g} + {self.relative:g} m"


TOLERANCES = {"f32": Tolerance(1e-6, 1e-5), "f64": Tolerance(1e-12, 1e-10)}
ZERO_GRADIENT = Tolerance(1e-6, 0.0)
"""For biases that feed normalisation alone (``zero_gradient_params``): what is stored is rounding noise."""

SURROGATES: dict[str, Callable[[float], Surrogate]] = {
    "sigmoid": Sigmoid,
    "atan": ATan,
    "triangle": Triangle,
    "pwq": Triangle,
    "rectangle": Rectangle,
    "quasiclamp": QuasiClamp,
}

LOSSES: dict[str, Objective] = {
    "stepce": PerStep(CrossEntropy()),
    "meance": Readout(CrossEntropy(), Mean()),
    "ratemse": Readout(MSE(), Mean()),
}

STARTS_AT_RESET = {"neurons": True, "bptt": True, "sltt": True, "ottt": False}
"""Whether a hard reset to v_reset also sets the potential before the first step: SpikingJelly's neurons, not OTTT's."""

CONV_SCALE = {"ottt": ACTIVATION_SCALE}
"""What multiplies the spikes of convolutional networks without normalisation where ``scale`` is null, by method."""

NOT_COMPARED: dict[str, dict[str, str]] = {}
"""Authors' defects: by method, regular expressions of result names, each with the reason for leaving it out.

The vectors of neurons, bptt, ottt and sltt need no entry.
"""
