"""The report of a comparison of posterior samplers: plain data in; a page, JSON, Markdown and a picture out."""

from csb.evaluation.report.catalogue import METRICS, Metric, best, metric
from csb.evaluation.report.curves import Curves, LevelCurve, RankHistogram, StdError
from csb.evaluation.report.grids import Grid, ImageGrid, PointGrid
from csb.evaluation.report.model import Report, Row, Sweep
from csb.evaluation.report.write import write_report

__all__ = [
    "METRICS",
    "Curves",
    "Grid",
    "ImageGrid",
    "LevelCurve",
    "Metric",
    "PointGrid",
    "RankHistogram",
    "Report",
    "Row",
    "StdError",
    "Sweep",
    "best",
    "metric",
    "write_report",
]
