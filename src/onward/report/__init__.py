"""Pictures of runs, as SVG that needs no library to draw and none to show."""

from onward.report.figures import bars, curves, heatmap

__all__ = ["bars", "curves", "heatmap"]
