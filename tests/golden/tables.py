"""What only the golden vectors' documentation states, and nothing else: tolerances, names, conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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

EXACT = {"spike", "spikes", "couples", "mask"}
"""Parts of names of results that must be zero in the same places; how high a spike is, rounding may change."""

HEBBIAN_RATE = 0.05
"""Of HLOP's lateral rows in the case of a convolution."""

HEBBIAN_RATES = (0.001, 0.01)
"""Of HLOP's lateral rows in an MLP: of the first layer, and of the others."""

_BROYDEN = {"f32": Tolerance(1e-6, 1e-4), "f64": Tolerance(1e-12, 1e-7)}
_BROYDEN_IN_A_MODEL = {"f32": Tolerance(1e-6, 1e-4), "f64": Tolerance(1e-9, 1e-6)}
_DIFFERENCES = {"f64": Tolerance(1e-12, 1e-6)}
_SOLVED = {"f32": Tolerance(1e-6, 1e-4), "f64": Tolerance(1e-12, 1e-8)}
LOOSER: dict[str, dict[str, dict[str, Tolerance]]] = {
    "ide": {
        r"train\.(grad\..*|beta)": _BROYDEN_IN_A_MODEL,
        r"eval_after\.logits": {"f32": Tolerance(1e-5, 1e-5), "f64": TOLERANCES["f64"]},
        r"(.*\.)?(exact|equilibrium|intended)\..*": _SOLVED,
        r".*\.(grad\..*|beta)": _BROYDEN,
    },
    "hlop": {
        r"H_(first|both)": {"f32": Tolerance(1e-5, 1e-5), "f64": Tolerance(1e-12, 1e-9)},
        r"(principal|gram|residual|old_new).*": {"f32": Tolerance(1e-3, 0.0), "f64": Tolerance(1e-12, 1e-9)},
        r".*": {"f32": Tolerance(1e-5, 1e-4), "f64": TOLERANCES["f64"]},
    },
    "pseuzo": {
        r"step\d\.(window_.*|projected_grad)": {"f32": Tolerance(1e-6, 1e-4), "f64": TOLERANCES["f64"]},
    },
    "spide": {
        r"exact\..*|equilibrium\..*": _SOLVED,
        r".*grad.*|.*beta.*|.*final_u.*": {"f32": Tolerance(1e-5, 1e-4), "f64": TOLERANCES["f64"]},
    },
    "zo-snn": {
        r"(estimate|sgd|sign|adam|lstm|query)\..*": _DIFFERENCES,
        r"step\d+\..*|meta_grad\..*": {"f32": Tolerance(1e-5, 1e-5), "f64": TOLERANCES["f64"]},
        r"chunk.*|loss_path|meta_loss|inner.*|theta.*": {"f32": Tolerance(1e-6, 1e-4), "f64": Tolerance(1e-12, 1e-9)},
    },
}
"""By method and result: where the authors' own solver, differences over 1e-6, or single precision, are less exact than
rounding in f64."""

QUANTISED: dict[str, dict[str, Tolerance]] = {
    r".*(\.|_)(y|xhat|P_.*|probe.*|output.*)": {"f32": Tolerance(0.05, 1e-4), "f64": TOLERANCES["f64"]},
    r".*": {"f32": Tolerance(1e-3, 1e-3), "f64": TOLERANCES["f64"]},
}
"""Where lateral neurons spike: in single precision, an answer next to half a level may come out a level higher."""


def looser(method: str, config: Mapping[str, Any]) -> Mapping[str, Mapping[str, Tolerance]] | None:
    """The tolerances of a case where they are not the general ones."""
    spikes = config.get("spiking") or config.get("hlop_spiking")
    return QUANTISED if method == "hlop" and spikes else LOOSER.get(method)


_INTERNALS = "internals of the authors' Broyden solver; ours are others"
_TWICE = "the authors update these statistics twice a step, where once is meant"
NOT_COMPARED: dict[str, dict[str, str]] = {
    "ide": {
        r".*solver\.(nstep|lowest_step|residual|eps|trace)": _INTERNALS,
        r"train\.state_after\..*\.(running_mean|running_var|num_batches_tracked)": _TWICE,
        r"iter_solver\..*": "the authors' iteration solves another equation, (2I - J^T) beta = dL/da",
        r"lif\.(averaged_input_as_coded|beta|grad\.(F_x|W_s|in)\..*)": (
            "the authors average the input one step too far; 'intended' is compared in its place"
        ),
    },
    "localzo": {
        r"as_written\..*": "the authors return these gradients in reversed time order; 'time_order_fixed' is compared",
    },
    "pseuzo": {
        r"rademacher_values": "the authors' option of this name yields -1 and 0",
        r"third_values": "an option that the method does not use",
        r"step\d\.z\..*": "the draws, which are taken as given",
    },
    "spide": {
        r"weight_after_wrapping": "at construction the authors take the root of a sum without squares",
    },
}
"""Authors' defects: by method, regular expressions of result names, each with the reason for leaving it out.

The vectors of neurons, bptt, ottt, sltt and dsr need no entry.
"""
