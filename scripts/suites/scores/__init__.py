"""Benchmark suites: scores of one sampler on one problem, what others published, tables and the figure over all."""

from suites.scores.figure import suite_panels
from suites.scores.published import PUBLISHED, REFERENCE_Y, Published
from suites.scores.score import Scores, ScoreSettings, scores_of
from suites.scores.tables import suite_tables
