"""Comparisons: rows (rules, data sets, settings) with every seed, what they come to, and whether they differ."""

from onward.comparison.collect import compare
from onward.comparison.estimates import Difference, Estimate, differences, estimate
from onward.comparison.folder import ComparisonFolder
from onward.comparison.outcome import Compared, compared, record, write
from onward.comparison.rows import Plan, Row, jobs_of
from onward.comparison.table import Line, lines

__all__ = [
    "Compared",
    "ComparisonFolder",
    "Difference",
    "Estimate",
    "Line",
    "Plan",
    "Row",
    "compare",
    "compared",
    "differences",
    "estimate",
    "jobs_of",
    "lines",
    "record",
    "write",
]
