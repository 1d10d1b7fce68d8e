"""Pictures of runs, as SVG that needs no library to draw and none to show."""

from onward.report.figures import curves

__all__ = ["curves"]
