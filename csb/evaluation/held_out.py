"""Scores on held-out pairs where nothing but the pairs is known: proper scores and calibration."""

import torch

from csb.bridge import Bridge
from csb.evaluation.calibration import MAX_RANKED, central_coverage, rank_uniformity, sbc_ranks, tarp
from csb.evaluation.chunks import draw_chunks, pairs_at_once
from csb.evaluation.metrics import EnsembleScores
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.problems import Pairs, Problem, Simulated
from csb.process import Stream, seeded

_UNIFORM = 100  # observations that a test of ranks needs


def held_out(problem: Problem, n: int) -> Pairs:
    """The first n test pairs; all of them where the data end before."""
    return problem.pairs("test", n if isinstance(problem, Simulated) else min(n, problem.sizes["test"]))


def held_out_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """Of ``metrics.samples`` samples for each of at most ``metrics.observations`` test pairs (at least 2).

    crps, energy_score, spread, skill, spread_skill and spread_skill_fair as in
    :class:`csb.evaluation.metrics.EnsembleScores`, in units of the spread of x in training; coverage_deviation and
    tarp_deviation, mean |coverage − level| of central intervals and of joint regions
    (:mod:`csb.evaluation.calibration`), and deviation_floor, what is expected of an exact posterior with as many
    observations; sbc_p, the p-value of uniform ranks, for 100 observations or more of at most 16 coordinates.
    All samples are held in memory.
    """
    test = held_out(problem, metrics.observations)
    scores, generator = (
        EnsembleScores(scale=bridge.transform.x_scale()),
        seeded(seed, Stream.HELD_OUT_DRAW, device=bridge.device),
    )
    parts, size = [], pairs_at_once(metrics.samples)
    for pairs, drawn, _ in draw_chunks(bridge, test, metrics.samples, sampler, generator, size):
        parts.append(drawn)
        scores.update(drawn, pairs.x)
    samples, found = torch.cat(parts), scores.compute()
    ranks = sbc_ranks(samples, test.x, seeded(seed, Stream.HELD_OUT_RANKS))
    central, joint = central_coverage(ranks), tarp(samples, test.x, seeded(seed, Stream.HELD_OUT_TARP))
    keys = ("crps", "energy_score", "spread", "skill", "spread_skill", "spread_skill_fair")
    row = {key: found[key] for key in keys}
    row |= {"coverage_deviation": central.deviation, "tarp_deviation": joint.deviation, "deviation_floor": joint.floor}
    if len(ranks) >= _UNIFORM and ranks.shape[1] <= MAX_RANKED:
        row["sbc_p"] = rank_uniformity(ranks).p_value
    return row
