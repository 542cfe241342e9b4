"""Methods at equal cost: rows, tables and a picture."""

from csb.evaluation.budgets.figure import draw_budgets
from csb.evaluation.budgets.rows import KEYS, Budget, Row, budget_table, ranked

__all__ = ["KEYS", "Budget", "Row", "budget_table", "draw_budgets", "ranked"]
