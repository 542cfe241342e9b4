"""What is reported of a finished half-step, and the choice of the best iteration by it."""

import math
from typing import Any

import torch

from csb.training.state import Progress

SCORE, EACH = "val_energy_score", "val_energy_each"  # figures of ``calibrate`` by which the best iteration is chosen
_POINTS = 500  # of a curve
SCALED = "val_scaled"  # 1 where they are in units of the spread of x; older versions had them in those of the data


def best_iteration(rows: list[dict[str, Any]]) -> int:
    """The earliest iteration whose score is not worse than the lowest by more than its standard error.

    Iterations are scored on the same pairs, so the error is that of the mean of the paired differences. Where further
    iterations gain nothing that the pairs can show, what they add is the error of their fits.

    Args:
        rows: of the history, in order, with the mean :data:`SCORE` and, of each pair, :data:`EACH` where it is known.
            Those in other units than the last row's, of a training that an older version began, take no part.
    """
    rows = [row for row in rows if row.get(SCALED) == rows[-1].get(SCALED)]
    best = min(rows, key=lambda row: row[SCORE])

    def error(row: dict[str, Any]) -> float:
        each, lowest = row.get(EACH), best.get(EACH)
        if not each or not lowest or not len(each) == len(lowest) > 1:
            return 0.0
        own, other = torch.tensor([each, lowest], dtype=torch.float64)
        return float((own - other).std()) / math.sqrt(len(each))

    return next(int(row["iteration"]) for row in rows if row[SCORE] <= best[SCORE] + error(row) or row is best)


def chosen_iteration(history: list[dict[str, Any]]) -> int:
    """That which the run's bridge file holds: of scored iterations the best, else the last."""
    scored = [row for row in history if SCORE in row]
    return best_iteration(scored) if scored else int(history[-1]["iteration"])


def end_figures(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The diagnostics of the chosen iteration's backward half-step; empty without a history."""
    rows = [row for row in history if row["direction"] == "backward"]
    return next((row for row in rows if row["iteration"] == chosen_iteration(rows)), {}) if rows else {}


def figures(progress: Progress, fill_share: float, cache_bytes: int, kept: int | None) -> dict[str, Any]:
    """The figures of a half-step at its end.

    Args:
        progress: of the half-step.
        fill_share: of its time that filling took.
        cache_bytes: of its trajectories.
        kept: the step whose weights validation has kept.

    Returns:
        "loss", the mean of the last tenth of the steps; "fill_share"; "cache_mib"; with validation
        "val_loss", "best_step", "kept_step", "steps"; "retries", where there were any.
    """
    losses = progress.losses
    tail = losses[-max(1, len(losses) // 10) :]
    found: dict[str, Any] = {"loss": sum(tail) / len(tail), "fill_share": fill_share, "cache_mib": cache_bytes / 2**20}
    if (best := progress.best) is not None:
        found |= {"val_loss": best["loss"], "best_step": best["step"], "kept_step": kept, "steps": progress.step}
    if count := sum(record["half_step"] == progress.half_step for record in progress.retries):
        found["retries"] = count
    return found


def curve(progress: Progress, kept: int | None) -> dict[str, Any]:
    """The losses of a half-step at its end, as :class:`csb.evaluation.diagnose_figures.HalfStepLosses` has them.

    Returns:
        "losses", means of "every" steps each, at most 500; "validation", [step, loss]; "kept_step"; "stopped".
    """
    losses, every = progress.losses, -(-len(progress.losses) // _POINTS) or 1
    parts = [losses[start : start + every] for start in range(0, len(losses), every)]
    return {
        "losses": [sum(part) / len(part) for part in parts], "every": every, "validation": progress.validated,
        "kept_step": kept, "stopped": progress.stopped,
    }  # fmt: skip
