"""The figures at the end of a training."""

from torch import Tensor

from csb.bridge import Bridge
from csb.evaluation.chunks import draw_chunks, pairs_at_once
from csb.evaluation.held_out import held_out_scores
from csb.evaluation.metrics import EnsembleScores, gaussian_moment_errors, sliced_wasserstein
from csb.evaluation.settings import MetricsSettings, SamplerSettings
from csb.problems import ClassProblem, Problem
from csb.process import Stream, seeded

_SLICED = 10_000  # samples that the sliced distance is computed on; moments use all of them


def hole_mask(bridge: Bridge, y: Tensor) -> Tensor | None:
    """The unknown pixels (boolean, (B, *x_shape)) of a noise-free inpainting problem, given y (B, *y_shape), else None.

    On y's device.
    """
    return bridge.transform.unknown(y)


def final_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """Scores on the frozen test observations: against the exact posterior where it is known, else of the ensemble.

    Digits have pictures' scores (PSNR), other pairs those of :func:`csb.evaluation.held_out.held_out_scores`.
    """
    if problem.has_exact_posterior:
        return exact_scores(problem, bridge, sampler, metrics, seed)
    of_ensemble = ensemble_scores if problem.is_digit else held_out_scores
    return of_ensemble(problem, bridge, sampler, metrics, seed)


def exact_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """Means over observations: sliced Wasserstein distance to exact samples with its floor (two sets of exact samples),
    and the relative errors of posterior mean (in units of the posterior's standard deviation) and covariance."""
    n, rows = metrics.exact_samples, []
    for i, y in enumerate(problem.pairs("test", metrics.exact_observations).y):
        law = problem.posterior(y)
        generator = seeded(seed, Stream.SCORES, i, device=bridge.device)
        samples = bridge.sample(y, n, generator=generator, **vars(sampler)).x.cpu().flatten(1)
        exact = [law.sample(n, seeded(seed, Stream.SCORES, i, j)).flatten(1) for j in (1, 2)]
        directions = [seeded(seed, Stream.SCORES, i, 3) for _ in range(2)]
        row = {
            "sliced_w": sliced_wasserstein(samples[:_SLICED], exact[0][:_SLICED], directions[0]),
            "sliced_w_floor": sliced_wasserstein(exact[1][:_SLICED], exact[0][:_SLICED], directions[1]),
        }
        mean, cov = (law.mean, law.cov) if law.cov is not None else (exact[1].mean(0), exact[1].T.cov())
        if mean is not None and cov is not None:
            errors = gaussian_moment_errors(samples, mean, cov)
            row |= {"mean_error": errors.mean_scaled, "cov_error": errors.cov_relative}
        rows.append(row)
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def ensemble_scores(
    problem: Problem, bridge: Bridge, sampler: SamplerSettings, metrics: MetricsSettings, seed: int
) -> dict[str, float]:
    """PSNR of the posterior mean, spread/skill, CRPS and the like over test observations, in bounded memory.

    No PSNR where y is a class: samples are to be near some digit of it, and not near one.
    """
    test = problem.pairs("test", metrics.observations)
    scores = EnsembleScores()
    size, generator = pairs_at_once(metrics.samples), seeded(seed, Stream.SCORES, device=bridge.device)
    for chunk in draw_chunks(bridge, test, metrics.samples, sampler, generator, size):
        scores.update(chunk.samples, chunk.pairs.x, mask=hole_mask(bridge, chunk.pairs.y))
    found = scores.compute()
    nearness = () if isinstance(problem, ClassProblem) else ("psnr_mean_per_image", "psnr_mean", "psnr_sample")
    keys = (*nearness, "spread", "skill", "spread_skill", "crps", "energy_score", "std_error_pearson")
    return {key: found[key] for key in keys}


__all__ = ["ensemble_scores", "exact_scores", "final_scores", "hole_mask"]
