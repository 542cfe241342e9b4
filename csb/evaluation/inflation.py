r"""Covariance inflation: the spread of samples set to the error of their mean, on validation pairs.

A chain of a few Gaussian steps loses variance where the uncertainty that a step leaves is not Gaussian (which digit,
which stroke): the next step takes part of what was drawn for noise. Ensembles that lose spread by their dynamics are an
old problem of data assimilation, and the remedy is one factor λ on their covariance (Anderson & Anderson 1999). Here it
multiplies the covariance's low-rank part, which holds that uncertainty, at every step; the mean and the noise of single
coordinates stay.
"""

import math

from csb.bridge import Bridge
from csb.evaluation.metrics import EnsembleScores
from csb.evaluation.scores import hole_mask
from csb.problems import Pairs
from csb.process import Stream, seeded

OBSERVATIONS, SAMPLES = 500, 8
LIMIT = 4.0  # λ stays in [1, 4]: CRPS and energy score of digits are lowest at 3 to 4, and rise above


def inflate(bridge: Bridge, val: Pairs, seed: int) -> dict[str, float]:
    """Sets the backward kernels' λ so that spread/skill is 1 for as many samples as one likes.

    log(spread/skill) is measured at λ = 1 and λ = 2 with the same random numbers, and taken as linear in log λ. Nothing
    is done for kernels without a low-rank covariance.

    Args:
        bridge: changed in place.
        val: held-out pairs, of which at most :data:`OBSERVATIONS` are used.
        seed: of the samples.

    Returns:
        inflation: λ; spread_skill_before: the fair spread/skill at λ = 1. Empty where nothing was done.
    """
    kernel = bridge.backward_kernel
    if kernel.covariance != "low_rank":
        return {}
    x, y = val.x[:OBSERVATIONS], val.y[:OBSERVATIONS]

    def log_ratio(factor: float) -> float:
        kernel.inflation.fill_(factor)
        samples = bridge.sample(y, SAMPLES, generator=seeded(seed, Stream.INFLATION, device=bridge.device)).x.cpu()
        scores = EnsembleScores(scale=bridge.transform.x_scale())
        scores.update(samples, x, mask=hole_mask(bridge, y))
        return math.log(scores.compute()["spread_skill_fair"])

    before, doubled = log_ratio(1.0), log_ratio(2.0)
    slope = (doubled - before) / math.log(2)
    factor = min(max(math.exp(-before / slope), 1.0), LIMIT) if slope > 0 else 1.0
    kernel.inflation.fill_(factor)
    return {"inflation": factor, "spread_skill_before": math.exp(before)}
