"""Benchmark suites: scores of one sampler on one problem, what others published, tables and the figure over all."""

from suites.scores.figure import draw_suite
from suites.scores.published import PUBLISHED, REFERENCE_Y, Published
from suites.scores.score import ScoreSettings, score_sampler
from suites.scores.store import ScoreStore
from suites.scores.tables import suite_tables

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
