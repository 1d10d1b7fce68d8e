"""Sweeps: a search over fields of a configuration by held-out accuracy; bad trials are not trained to their end."""

from onward.sweep.axes import Axis, Listed, Range, read_axis
from onward.sweep.folder import SweepFolder
from onward.sweep.outcome import Swept, record, swept, write
from onward.sweep.plan import Plan, planned
from onward.sweep.search import sweep
from onward.sweep.study import Trial

__all__ = [
    "Axis",
    "Listed",
    "Plan",
    "Range",
    "SweepFolder",
    "Swept",
    "Trial",
    "planned",
    "read_axis",
    "record",
    "sweep",
    "swept",
    "write",
]
