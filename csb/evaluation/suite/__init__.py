"""Benchmark suites: scores of one sampler on one problem, what others published, tables and the figure over all."""

from csb.evaluation.suite.figure import draw_suite
from csb.evaluation.suite.published import PUBLISHED, REFERENCE_Y, Published
from csb.evaluation.suite.score import ScoreSettings, score_sampler
from csb.evaluation.suite.store import ScoreStore
from csb.evaluation.suite.tables import suite_tables

__all__ = [
    "PUBLISHED",
    "REFERENCE_Y",
    "Published",
    "ScoreSettings",
    "ScoreStore",
    "draw_suite",
    "score_sampler",
    "suite_tables",
]
