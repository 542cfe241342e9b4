r"""What validation pairs decide: which iteration is the best, and how wide its samples are to be.

Covariance inflation sets the spread of samples to the error of their mean. A chain of a few Gaussian steps loses
variance where the uncertainty that a step leaves is not Gaussian (which digit, which stroke): the next step takes part
of what was drawn for noise. Ensembles that lose spread by their dynamics are an old problem of data assimilation, and
the remedy is one factor λ on their covariance (Anderson & Anderson 1999). Here it multiplies the covariance's low-rank
part, which holds that uncertainty, at every step; the mean and the noise of single coordinates stay.
"""

import math
from typing import Any

from csb.bridge import Bridge
from csb.metrics.ensemble import EnsembleScores
from csb.problems import Pairs
from csb.process import Stream, seeded
from csb.training.state import EACH, SCALED, SCORE

OBSERVATIONS, SAMPLES = 1000, 32  # of the score
IMAGES, IMAGE_SAMPLES = 200, 8  # of images, whose network calls cost more
INFLATED, INFLATED_SAMPLES = 500, 8  # of the inflation
LIMIT = 4.0  # λ stays in [1, 4]: CRPS and energy score of digits are lowest at 3 to 4, and rise above


def _scores(bridge: Bridge, val: Pairs, count: int, n: int, seed: int, stream: Stream) -> EnsembleScores:
    """Of n samples for each of the first pairs, in units of the spread of x in training."""
    x, y = val.x[:count], val.y[:count]
    samples = bridge.sample(y, n, generator=seeded(seed, stream, device=bridge.device)).x.cpu()
    scores = EnsembleScores(scale=bridge.transform.x_scale())
    scores.update(samples, x, mask=bridge.transform.unknown(y))
    return scores


def validation_score(bridge: Bridge, val: Pairs, seed: int) -> dict[str, Any]:
    """The mean energy score of samples at validation observations, that of each one, and their fair spread/skill.

    In units of the spread of x in training, so that no coordinate counts for more by its unit.

    The energy score is strictly proper (Gneiting & Raftery 2007): the posterior has the lowest. Each iteration is
    scored on the same pairs with the same random numbers, so that differences are far smaller than the scores' noise.

    Args:
        bridge: of the iteration.
        val: held-out pairs, of which at most :data:`OBSERVATIONS` (images: :data:`IMAGES`) are used.
        seed: of the samples.
    """
    image = len(bridge.transform.x_shape) == 3
    count, n = (IMAGES, IMAGE_SAMPLES) if image else (OBSERVATIONS, SAMPLES)
    scores = _scores(bridge, val, count, n, seed, Stream.SELECTION)
    found, each = scores.compute(), scores.energy_scores()
    return {SCORE: found["energy_score"], EACH: each, SCALED: 1, "val_spread_skill": found["spread_skill_fair"]}


def inflate(bridge: Bridge, val: Pairs, seed: int) -> dict[str, float]:
    """Set the backward kernels' λ so that spread/skill is 1 for as many samples as one likes.

    log(spread/skill) is measured at λ = 1 and λ = 2 with the same random numbers, and taken as linear in log λ. Nothing
    is done for kernels without a low-rank covariance.

    Args:
        bridge: changed in place.
        val: held-out pairs, of which at most :data:`INFLATED` are used.
        seed: of the samples.

    Returns:
        inflation: λ; spread_skill_before: the fair spread/skill at λ = 1. Empty where nothing was done.
    """
    kernel = bridge.backward_kernel
    if kernel.covariance != "low_rank":
        return {}

    def log_ratio(factor: float) -> float:
        kernel.inflation.fill_(factor)
        scores = _scores(bridge, val, INFLATED, INFLATED_SAMPLES, seed, Stream.INFLATION)
        return math.log(scores.compute()["spread_skill_fair"])

    before, doubled = log_ratio(1.0), log_ratio(2.0)
    slope = (doubled - before) / math.log(2)
    factor = min(max(math.exp(-before / slope), 1.0), LIMIT) if slope > 0 else 1.0
    kernel.inflation.fill_(factor)
    return {"inflation": factor, "spread_skill_before": math.exp(before)}
