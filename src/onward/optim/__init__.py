"""Optimisers, learned ones included, learning-rate schedules, parameter groups; their names for configurations."""

from onward.optim.cell import Architecture, Cell, Coordinatewise, initial_cell
from onward.optim.cell_file import read_cell, read_query, read_record, write_cell, write_query
from onward.optim.groups import parameter_groups
from onward.optim.impulse import ImpulseResponse, dc_gain, impulse_response, spectral_radius
from onward.optim.layer_adam import LayerAdam
from onward.optim.lstm import LearnedDivergence, LSTMOptimizer, Watch, files_read
from onward.optim.optimizers import OptimOptions, allocate_state, optimizers
from onward.optim.query import Guided, QueryRNN
from onward.optim.schedules import Constant, Cosine, Schedule, Steps, WarmUp, schedules

__all__ = [
    "Architecture",
    "Cell",
    "Constant",
    "Coordinatewise",
    "Cosine",
    "Guided",
    "ImpulseResponse",
    "LSTMOptimizer",
    "LayerAdam",
    "LearnedDivergence",
    "OptimOptions",
    "QueryRNN",
    "Schedule",
    "Steps",
    "WarmUp",
    "Watch",
    "allocate_state",
    "dc_gain",
    "files_read",
    "impulse_response",
    "initial_cell",
    "optimizers",
    "parameter_groups",
    "read_cell",
    "read_query",
    "read_record",
    "schedules",
    "spectral_radius",
    "write_cell",
    "write_query",
]
