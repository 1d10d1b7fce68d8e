"""Energy: operations of a network counted on data, what they cost, and what training adds."""

from typing import TYPE_CHECKING

from onward._lazy import lazy
from onward.energy.constants import TECHNOLOGIES, Technology, technology
from onward.energy.count import Counts, LayerCount, count
from onward.energy.estimate import Energy
from onward.energy.products import register_products
from onward.energy.training import FeedbackCost, TrainingCost, training_cost

if TYPE_CHECKING:
    from onward.energy.run import energy_of_run

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

__getattr__ = lazy("onward.energy", {"onward.energy.run": "energy_of_run"})
