"""Energy: operations of a network counted on data, what they cost, and what training adds."""

from onward.energy.constants import TECHNOLOGIES, Technology, technology
from onward.energy.count import Counts, LayerCount, count
from onward.energy.products import register_products
from onward.energy.report import Energy, energy_of_run
from onward.energy.training import FeedbackCost, TrainingCost, training_cost

__all__ = [
    "TECHNOLOGIES",
    "Counts",
    "Energy",
    "FeedbackCost",
    "LayerCount",
    "Technology",
    "TrainingCost",
    "count",
    "energy_of_run",
    "register_products",
    "technology",
    "training_cost",
]
