r"""Cycles of forecast and analysis through a frozen path and its observations, and their scores.

Of the analysis of cycle n with mean m and truth x, over coordinates i = 1..d: RMSE_n = √(Σ_i (m_i − x_i)²/d),
spread_n = √(Σ_i s_i²/d) with s_i the members' standard deviation, and the fair CRPS. All are averaged over the cycles
after spin-up, as in Spantini et al. 2022 and Shi et al. 2022. Errors of neighbouring cycles are alike: standard
errors are those of the means of 20 batches of neighbouring cycles, long against the memory of a filter.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from csb.errors import CSBError, require_int
from csb.filtering.base import Filter
from csb.filtering.model import StateSpace, Twin
from csb.metrics.ensemble import crps_ensemble
from csb.process import Stream, seeded

BATCHES = 20


@dataclass(frozen=True)
class Track:
    """The scores of every cycle.

    Attributes:
        rmse, spread, crps: (N,), float64, in the unit of x.
        seconds: of the processor, for all analyses together; forecasts left out.
        diagnostics: of the filter, (N,) by name.
    """

    rmse: Tensor
    spread: Tensor
    crps: Tensor
    seconds: float
    diagnostics: dict[str, Tensor]

    def summary(self, spin_up: int) -> dict[str, float]:
        """Means over the cycles from spin_up on; rmse_error is the standard error of rmse; seconds are per analysis.

        CSBError where fewer than 20 cycles are left.
        """
        rmse, error = batch_mean(self.rmse[spin_up:])
        return {
            "rmse": rmse,
            "rmse_error": error,
            "spread": float(self.spread[spin_up:].mean()),
            "crps": float(self.crps[spin_up:].mean()),
            "seconds": self.seconds / len(self.rmse),
        }


def batch_mean(values: Tensor) -> tuple[float, float]:
    """The mean of values (N,) in order of time, and its standard error from the means of 20 batches."""
    if len(values) < BATCHES:
        raise CSBError(f"{len(values)} cycles after spin-up are too few for a standard error; run {BATCHES} or more")
    means = torch.stack([batch.mean() for batch in values.tensor_split(BATCHES)])
    return float(values.mean()), float(means.std() / BATCHES**0.5)


def track(model: StateSpace, method: Filter, members: int, truth: Twin, seed: int) -> Track:
    """Runs a filter through all observations of a path.

    Args:
        model: of the forecasts, and of the likelihood.
        method: the filter.
        members: M ≥ 2.
        truth: the path and what was seen of it.
        seed: of the first members and of all that the filter draws: the same for every method.

    Raises:
        CSBError: M < 2, shapes that do not fit, or a filter that diverged (the message tells the cycle).
    """
    require_int("members", members, 2)
    dynamics, own = seeded(seed, Stream.FILTER_MEMBERS), seeded(seed, Stream.FILTER_ANALYSES)
    x, seconds = model.initial(members, dynamics), 0.0
    rows, diagnostics = [], []
    for n, (state, y) in enumerate(zip(truth.x, truth.y)):
        x = model.forecast(x, dynamics)
        start = time.process_time()
        try:
            x, reported = method(model, x, y, own)
        except CSBError as error:
            raise CSBError(f"cycle {n + 1}: {error}") from error
        seconds += time.process_time() - start
        spread = x.var(0).mean().sqrt()
        rows.append(
            [float((x.mean(0) - state).square().mean().sqrt()), float(spread), crps_ensemble(x[None], state[None])]
        )
        diagnostics.append(reported)
    rmse, spread, crps = torch.tensor(rows, dtype=torch.float64).unbind(1)
    names = diagnostics[0]
    reported = {key: torch.tensor([one[key] for one in diagnostics], dtype=torch.float32) for key in names}
    return Track(rmse, spread, crps, seconds, reported)
