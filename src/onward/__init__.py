"""Onward trains spiking neural networks forward in time.

How credit is assigned is a value you choose: in time, in space, per layer. Start with `Network`, `rules`, `load`
and `run_sequence`; `onward train` on the command line does the rest. Names are imported when first used, so that
importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onward._lazy import lazy
from onward._version import __version__

if TYPE_CHECKING:
    from onward import data, models, neurons, rules, solvers, surrogates, train
    from onward.adapters import from_snntorch, from_spikingjelly
    from onward.core import (
        MSE,
        Add,
        CrossEntropy,
        Delay,
        Events,
        Feedback,
        Frames,
        GradSink,
        Joined,
        KeyedDraws,
        LearningRule,
        Mixed,
        Network,
        Neuron,
        Objective,
        Outcome,
        PerStep,
        Rates,
        Readout,
        RecordedDraws,
        Recurrent,
        Residual,
        RPReLU,
        Scale,
        Sequence,
        Shift,
        Sink,
        Static,
        Stepper,
        Traits,
        evaluate,
        run_sequence,
    )
    from onward.core.errors import OnwardError
    from onward.data import ArrayDataset, Batch, Dataset, Loader, from_events, from_torch, load
    from onward.export import from_nir
    from onward.neurons import IF, LI, LIF, AdaptiveLIF, Affine, CubaLIF, HardReset, SoftReset
    from onward.train import RunConfig
    from onward.weights import binarize, standardize

_HOMES = {
    "onward.adapters": "from_snntorch from_spikingjelly",
    "onward.core": (
        "MSE Add CrossEntropy Delay Events Feedback Frames GradSink Joined KeyedDraws LearningRule Mixed Network "
        "Neuron Objective Outcome PerStep RPReLU Rates Readout RecordedDraws Recurrent Residual Scale Sequence Shift "
        "Sink Static Stepper Traits evaluate run_sequence"
    ),
    "onward.core.errors": "OnwardError",
    "onward.data": "ArrayDataset Batch Dataset Loader from_events from_torch load",
    "onward.export": "from_nir",
    "onward.neurons": "IF LI LIF AdaptiveLIF Affine CubaLIF HardReset SoftReset",
    "onward.train": "RunConfig",
    "onward.weights": "binarize standardize",
}
__all__ = [
    "IF",
    "LI",
    "LIF",
    "MSE",
    "AdaptiveLIF",
    "Add",
    "Affine",
    "ArrayDataset",
    "Batch",
    "CrossEntropy",
    "CubaLIF",
    "Dataset",
    "Delay",
    "Events",
    "Feedback",
    "Frames",
    "GradSink",
    "HardReset",
    "Joined",
    "KeyedDraws",
    "LearningRule",
    "Loader",
    "Mixed",
    "Network",
    "Neuron",
    "Objective",
    "OnwardError",
    "Outcome",
    "PerStep",
    "RPReLU",
    "Rates",
    "Readout",
    "RecordedDraws",
    "Recurrent",
    "Residual",
    "RunConfig",
    "Scale",
    "Sequence",
    "Shift",
    "Sink",
    "SoftReset",
    "Static",
    "Stepper",
    "Traits",
    "__version__",
    "binarize",
    "data",
    "evaluate",
    "from_events",
    "from_nir",
    "from_snntorch",
    "from_spikingjelly",
    "from_torch",
    "load",
    "models",
    "neurons",
    "rules",
    "run_sequence",
    "solvers",
    "standardize",
    "surrogates",
    "train",
]


__getattr__ = lazy(__name__, _HOMES, packages="data models neurons rules solvers surrogates train")


def __dir__() -> list[str]:
    return __all__
