"""Cycles of forecast and analysis through a frozen path and its observations, and their scores."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from csb.errors import CSBError, require_int
from csb.filtering.filters import Filter
from csb.filtering.models import StateSpace
from csb.metrics.ensemble import crps_ensemble
from csb.metrics.inputs import finite
from csb.process import Stream, seeded

BATCHES = 20


class Twin(NamedTuple):
    """A true path x (N, dx) and what was seen of it, y (N, dy), both float64."""

    x: Tensor
    y: Tensor


def twin(model: StateSpace, cycles: int, seed: int) -> Twin:
    """Draw a path of N = cycles ≥ 1 observations, frozen: a function of the model, N and the seed alone.

    A longer one begins with a shorter one.
    """
    require_int("cycles", cycles, 1)
    path, noise = seeded(seed, Stream.FILTER_TWIN, 0), seeded(seed, Stream.FILTER_TWIN, 1)
    states, x = [], model.initial(1, path)
    for _ in range(cycles):
        x = model.forecast(x, path)
        states.append(x)
    return Twin(torch.cat(states), torch.cat([model.simulate(x, noise) for x in states]))


@dataclass(frozen=True)
class Track:
    """The scores of every cycle.

    Attributes:
        rmse: √(Σ_i (m_i − x_i)²/d) of the analysis mean m and the truth x, (N,), float64, in the unit of x.
        spread: √(Σ_i s_i²/d), s_i the members' standard deviation, (N,).
        crps: the fair CRPS, (N,).
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

        CSBError for spin_up < 0, or where fewer than 20 cycles are left.
        """
        require_int("spin_up", spin_up, 0)
        rmse, error = batch_mean(self.rmse[spin_up:])
        return {
            "rmse": rmse,
            "rmse_error": error,
            "spread": float(self.spread[spin_up:].mean()),
            "crps": float(self.crps[spin_up:].mean()),
            "seconds": self.seconds / len(self.rmse),
        }


def batch_mean(values: Tensor) -> tuple[float, float]:
    """The mean of values (N,) in order of time, and its standard error from the means of 20 batches.

    Errors of neighbouring cycles are alike: a batch is long against the memory of a filter.
    """
    if len(values) < BATCHES:
        raise CSBError(f"{len(values)} cycles after spin-up are too few for a standard error; run {BATCHES} or more")
    means = torch.stack([batch.mean() for batch in values.tensor_split(BATCHES)])
    return float(values.mean()), float(means.std() / BATCHES**0.5)


def track(model: StateSpace, method: Filter, members: int, truth: Twin, seed: int) -> Track:
    """Run a filter through all observations of a path.

    Args:
        model: of the forecasts, and of the likelihood.
        members: M ≥ 2.
        truth: as :func:`twin` draws it, or any pair of x (N, dx) and y (N, dy).
        seed: of the first members and of all that the filter draws: the same for every method.

    Raises:
        CSBError: M < 2, shapes that do not fit, or a filter that diverged (the message tells the cycle).
    """
    require_int("members", members, 2)
    if not isinstance(truth, tuple) or len(truth) != 2:
        raise CSBError(f"truth is {type(truth).__name__}; give what twin draws, or a pair (x, y)")
    states, seen = (finite(name, part).double() for name, part in zip(("truth x", "truth y"), truth))
    if states.ndim != 2 or states.shape[1] != model.dx or seen.shape != (len(states), model.dy):
        shapes = f"truth has x {tuple(states.shape)} and y {tuple(seen.shape)}"
        raise CSBError(f"{shapes}; {model.name} has (N, {model.dx}) and (N, {model.dy}), one N")
    dynamics, own = seeded(seed, Stream.FILTER_MEMBERS), seeded(seed, Stream.FILTER_ANALYSES)
    x, seconds = model.initial(members, dynamics), 0.0
    rows, reports = [], []
    for n, (state, y) in enumerate(zip(states, seen)):
        x = model.forecast(x, dynamics)
        start = time.process_time()
        try:
            x, reported = method(model, x, y, own)
        except CSBError as error:
            raise CSBError(f"cycle {n + 1}: {error}") from error
        seconds += time.process_time() - start
        rmse, spread = (x.mean(0) - state).square().mean().sqrt(), x.var(0).mean().sqrt()
        rows.append([float(rmse), float(spread), crps_ensemble(x[None], state[None])])
        reports.append(reported)
    rmse, spread, crps = torch.tensor(rows, dtype=torch.float64).unbind(1)
    diagnostics = {key: torch.tensor([one[key] for one in reports], dtype=torch.float32) for key in reports[0]}
    return Track(rmse, spread, crps, seconds, diagnostics)
