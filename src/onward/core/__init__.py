"""The engine: nodes and networks, signals and traces, draws, sinks, objectives, and the one time loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onward._lazy import lazy

if TYPE_CHECKING:
    from onward.core.containers import Bridge, Bridged, Feedback, Joined, Recurrent, Residual
    from onward.core.draws import Draws, KeyedDraws, RecordedDraws
    from onward.core.glue import Add, Delay, DropPath, GroupMean, RPReLU, Scale, Shift, Tile
    from onward.core.network import Network
    from onward.core.neuron import Firing, Neuron
    from onward.core.objective import MSE, CrossEntropy, Mixed, Objective, PerStep, Readout
    from onward.core.rule import LearningRule, Traits
    from onward.core.run import Outcome, Rates, active, evaluate, run_sequence
    from onward.core.sequence import Events, Frames, Sequence, Static
    from onward.core.sink import GradSink, Sink
    from onward.core.stepper import Stepper

_HOMES = {
    "onward.core.draws": "Draws KeyedDraws RecordedDraws",
    "onward.core.containers": "Bridge Bridged Feedback Joined Recurrent Residual",
    "onward.core.glue": "Add Delay DropPath GroupMean RPReLU Scale Shift Tile",
    "onward.core.network": "Network",
    "onward.core.neuron": "Firing Neuron",
    "onward.core.objective": "MSE CrossEntropy Mixed Objective PerStep Readout",
    "onward.core.rule": "LearningRule Traits",
    "onward.core.run": "Outcome Rates active evaluate run_sequence",
    "onward.core.sequence": "Events Frames Sequence Static",
    "onward.core.sink": "GradSink Sink",
    "onward.core.stepper": "Stepper",
}

__all__ = [
    "MSE",
    "Add",
    "Bridge",
    "Bridged",
    "CrossEntropy",
    "Delay",
    "Draws",
    "DropPath",
    "Events",
    "Feedback",
    "Firing",
    "Frames",
    "GradSink",
    "GroupMean",
    "Joined",
    "KeyedDraws",
    "LearningRule",
    "Mixed",
    "Network",
    "Neuron",
    "Objective",
    "Outcome",
    "PerStep",
    "RPReLU",
    "Rates",
    "Readout",
    "RecordedDraws",
    "Recurrent",
    "Residual",
    "Scale",
    "Sequence",
    "Shift",
    "Sink",
    "Static",
    "Stepper",
    "Tile",
    "Traits",
    "active",
    "evaluate",
    "run_sequence",
]

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
