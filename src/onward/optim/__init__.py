"""Optimisers, learning-rate schedules and parameter groups, and their names for configurations."""

from onward.optim.groups import parameter_groups
from onward.optim.optimizers import OptimOptions, allocate_state, optimizers
from onward.optim.schedules import Constant, Cosine, Schedule, Steps, WarmUp, schedules

__all__ = [
    "Constant",
    "Cosine",
    "OptimOptions",
    "Schedule",
    "Steps",
    "WarmUp",
    "allocate_state",
    "optimizers",
    "parameter_groups",
    "schedules",
]
