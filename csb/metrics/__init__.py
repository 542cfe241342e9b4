"""The metrics on plain arrays: ``csb.metrics.c2st(a, b)``, ``csb.metrics.crps(samples, truth)``.

Arrays are tensors, arrays of numpy, frames or nested lists. Samples are (B, n, …) of B observations, truths (B, …),
clouds (N, d). Random numbers come from ``seed``, by default the function's own, else 0. Each function's own page says
what it computes, with its source; the modules hold the same functions on tensors, with a generator in place of the
seed.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from csb.metrics import calibration, distances, ensemble, local
from csb.numbers import as_numbers
from csb.process import Stream, seeded

_ARRAYS = (
    "a", "b", "samples", "truth", "ranks", "reference", "drawn", "y", "at", "simulated", "log_weights", "log_weights_a",
    "log_weights_b",
)  # fmt: skip


def _of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with arrays of any kind for tensors, and a seed for a generator."""
    signature = inspect.signature(function)
    needs = "generator" in signature.parameters and "seed" not in signature.parameters

    @wraps(function)
    def of_arrays(*args: Any, seed: int | None = None, **options: Any) -> Any:
        own: dict[str, Any] = {"seed": seed} if "seed" in signature.parameters and seed is not None else {}
        if needs and "generator" not in options:
            own = {"generator": seeded(seed or 0, Stream.SCORES)}
        taken = signature.replace(parameters=[p for name, p in signature.parameters.items() if name not in own])
        given = {**taken.bind(*args, **options).arguments, **own}
        for name in {*_ARRAYS} & {*given}:
            if given[name] is not None or signature.parameters[name].default is inspect.Parameter.empty:
                given[name] = as_numbers(name, given[name]).float()
        return function(**given)

    return of_arrays


c2st = _of_arrays(distances.c2st)
mmd = _of_arrays(distances.mmd)
sliced_wasserstein = _of_arrays(distances.sliced_wasserstein)
crps = _of_arrays(ensemble.crps_ensemble)
energy_score = _of_arrays(ensemble.energy_score)
spread_skill = _of_arrays(ensemble.spread_skill)
sbc_ranks = _of_arrays(calibration.sbc_ranks)
rank_uniformity = _of_arrays(calibration.rank_uniformity)
central_coverage = _of_arrays(calibration.central_coverage)
tarp = _of_arrays(calibration.tarp)
local_c2st = _of_arrays(local.local_c2st)
predictive_p = _of_arrays(local.predictive_p)
