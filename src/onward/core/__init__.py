"""The engine: nodes and networks, signals and traces, draws, sinks, objectives, and the one time loop."""

from onward.core.draws import Draws, KeyedDraws, RecordedDraws
from onward.core.network import Add, Delay, Feedback, Network, Recurrent, Residual, Scale
from onward.core.neuron import Firing, Neuron
from onward.core.objective import MSE, CrossEntropy, Mixed, Objective, PerStep, Readout
from onward.core.rule import LearningRule, Traits
from onward.core.run import Outcome, Rates, evaluate, run_sequence
from onward.core.sequence import Events, Frames, Sequence, Static
from onward.core.sink import GradSink, Sink

__all__ = [
    "MSE",
    "Add",
    "CrossEntropy",
    "Delay",
    "Draws",
    "Events",
    "Feedback",
    "Firing",
    "Frames",
    "GradSink",
    "KeyedDraws",
    "LearningRule",
    "Mixed",
    "Network",
    "Neuron",
    "Objective",
    "Outcome",
    "PerStep",
    "Rates",
    "Readout",
    "RecordedDraws",
    "Recurrent",
    "Residual",
    "Scale",
    "Sequence",
    "Sink",
    "Static",
    "Traits",
    "evaluate",
    "run_sequence",
]
