"""The score on validation pairs by which the best iteration is chosen: calibration and sharpness in one number."""

from typing import Any

from csb.bridge import Bridge
from csb.evaluation.metrics import EnsembleScores
from csb.evaluation.scores import hole_mask
from csb.problems import Pairs
from csb.process import Stream, seeded
from csb.training.history import EACH, SCALED, SCORE

OBSERVATIONS, SAMPLES = 1000, 32
IMAGES, IMAGE_SAMPLES = 200, 8  # of images, whose network calls cost more


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
    x, y = val.x[:count], val.y[:count]
    samples = bridge.sample(y, n, generator=seeded(seed, Stream.SELECTION, device=bridge.device)).x.cpu()
    scores = EnsembleScores(scale=bridge.transform.x_scale())
    scores.update(samples, x, mask=hole_mask(bridge, y))
    found = scores.compute()
    each, ratio = scores.energy_scores(), found["spread_skill_fair"]
    return {SCORE: found["energy_score"], EACH: each, SCALED: 1, "val_spread_skill": ratio}
