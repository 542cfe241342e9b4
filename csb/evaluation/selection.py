r"""What validation pairs tell during a training: where its ends are, which iteration is the best, how wide samples are.

Covariance inflation sets the spread of samples to the error of their mean. A chain of a few Gaussian steps loses
variance where the uncertainty that a step leaves is not Gaussian (which digit, which stroke): the next step takes part
of what was drawn for noise. Ensembles that lose spread by their dynamics are an old problem of data assimilation, and
the remedy is one factor λ on their covariance (Anderson & Anderson 1999). Here it multiplies the covariance's low-rank
part, which holds that uncertainty, at every step; the mean and the noise of single coordinates stay.
"""

import math
from collections import deque
from typing import Any

import torch
from torch import Generator, Tensor

from csb.bridge import Bridge, Direction
from csb.metrics.distances import sliced_wasserstein
from csb.metrics.ensemble import EnsembleScores
from csb.problems import Pairs
from csb.process import Noise, Stream, seeded
from csb.training.state import EACH, SCALED, SCORE

OBSERVATIONS, SAMPLES = 1000, 32  # of the score
IMAGES, IMAGE_SAMPLES = 200, 8  # of images, whose network calls cost more
INFLATED, INFLATED_SAMPLES = 300, 8  # of the inflation
LIMIT = 4.0  # λ stays in [1, 4]: CRPS and energy score of digits are lowest at 3 to 4, and rise above
_STATES, _IMAGE_STATES = 1000, 400  # held-out pairs, of which the ends and the drift are measured
_PREIMAGE = 3  # key of a stream


def _ends(bridge: Bridge, val: Pairs, sets: int, seed: int) -> tuple[Tensor, Tensor]:
    """States that decode to the pairs of so many sets, of the law that the bridge is trained on, and their contexts."""
    most = sets * (_IMAGE_STATES if _is_image(bridge) else _STATES)
    x, y = val.x[:most].to(bridge.device), val.y[:most].to(bridge.device)
    generator = seeded(seed, Stream.DIAGNOSTICS, _PREIMAGE, device=x.device)
    c = bridge.transform.encode_y(y)
    return bridge.transform.preimage(bridge.transform.encode_x(x, y), generator, c), c


def _is_image(bridge: Bridge) -> bool:
    return len(bridge.transform.x_shape) == 3


def _noise(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


@torch.no_grad()
def end_distances(bridge: Bridge, val: Pairs, seed: int) -> dict[str, float]:
    """Sliced Wasserstein distances of both ends on held-out pairs, in state space.

    x0_distance: B run from N(0, I) for the pairs' observations, against the pairs' states. xT_distance: F run from the
    pairs' states, against N(0, I). The floors are the same distances between two independent sets of the right law.
    """
    z, c = _ends(bridge, val, 2, seed)
    half = len(z) // 2
    generator = seeded(seed, Stream.DIAGNOSTICS, device=bridge.device)

    def run(direction: Direction, start: Tensor) -> Tensor:
        draws = Noise(generator, half, start.device)
        steps = bridge.walk(direction, start, bridge.contexts(direction, c[:half], half), draws, half)
        return deque(steps, maxlen=1)[0]

    def distance(a: Tensor, b: Tensor) -> float:
        return sliced_wasserstein(a.flatten(1).cpu(), b.flatten(1).cpu(), seeded(seed, Stream.DIAGNOSTICS, 1))

    noise = [_noise(z[:half], generator) for _ in range(3)]
    return {
        "x0_distance": distance(run("backward", noise[0]), z[:half]),
        "x0_floor": distance(z[half : 2 * half], z[:half]),
        "xT_distance": distance(run("forward", z[:half]), noise[1]),
        "xT_floor": distance(noise[2], noise[1]),
    }


@torch.no_grad()
def drift_norm(bridge: Bridge, direction: Direction, val: Pairs, seed: int) -> dict[str, float]:
    """The root mean square of a direction's drift (mean − x)/β_k along its own trajectories."""
    z, c = _ends(bridge, val, 1, seed)
    generator, T = seeded(seed, Stream.DIAGNOSTICS, 2, device=bridge.device), bridge.grid.T
    state, order = (z, range(1, T + 1)) if direction == "forward" else (_noise(z, generator), range(T, 0, -1))
    draws, laws, total = Noise(generator, len(c), state.device), [], 0.0
    steps = bridge.walk(direction, state, bridge.contexts(direction, c, len(c)), draws, len(c), after=laws.append)
    for k, after in zip(order, steps):
        total += float((((laws.pop().mean - state) / bridge.grid.beta[k].item()) ** 2).mean())
        state = after
    return {"drift_norm": (total / T) ** 0.5}


def _scores(bridge: Bridge, val: Pairs, count: int, n: int, seed: int, stream: Stream) -> EnsembleScores:
    """Of n samples for each of the first pairs, in units of the spread of x in training."""
    x, y = val.x[:count], val.y[:count]
    samples = bridge.sample(y, n, generator=seeded(seed, stream, device=bridge.device)).x.cpu()
    scores = EnsembleScores(scale=bridge.transform.x_scale())
    scores.update(samples, x, mask=bridge.transform.unknown(y))
    return scores


def validation_score(bridge: Bridge, val: Pairs, seed: int) -> dict[str, Any]:
    """The mean energy score of samples at validation observations, that of each one, and their fair spread/skill.

    In units of the spread of x in training, so that no coordinate counts for more by its unit. The energy score is
    strictly proper (Gneiting & Raftery 2007): the posterior has the lowest. All iterations are scored on the same
    pairs with the same random numbers, so that differences are far smaller than the scores' noise.

    Args:
        bridge: of the iteration.
        val: held-out pairs, of which at most :data:`OBSERVATIONS` (images: :data:`IMAGES`) are used.
        seed: of the samples.
    """
    count, n = (IMAGES, IMAGE_SAMPLES) if _is_image(bridge) else (OBSERVATIONS, SAMPLES)
    scores = _scores(bridge, val, count, n, seed, Stream.SELECTION)
    found, each = scores.compute(), scores.energy_scores()
    return {SCORE: found["energy_score"], EACH: each, SCALED: 1, "val_spread_skill": found["spread_skill_fair"]}


def inflate(bridge: Bridge, val: Pairs, seed: int) -> dict[str, float]:
    """Set the backward kernels' λ so that spread/skill is 1 for as many samples as one likes.

    log(spread/skill) is measured at λ = 1 and λ = 2 with the same random numbers, and taken as linear in log λ. Kernels
    without a low-rank covariance stay as they are.

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
