"""The report of a comparison of posterior samplers: plain data in; a page, JSON, Markdown and a picture out."""

from csb.evaluation.report.catalogue import METRICS, Metric, best, metric
from csb.evaluation.report.model import (
    Curves,
    Grid,
    ImageGrid,
    LevelCurve,
    PointGrid,
    RankHistogram,
    Report,
    Row,
    StdError,
    Sweep,
)
from csb.evaluation.report.write import write_report
