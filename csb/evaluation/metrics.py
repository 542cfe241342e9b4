"""All ensemble scores at once, over many observations; and every score by name."""

import math

import torch
from torch import Tensor

from csb.errors import CSBError
from csb.evaluation.ensemble import (
    Reliability,
    SpreadSkill,
    correlation,
    crps_ensemble,
    crps_term,
    each,
    energy_score,
    energy_term,
    from_terms,
    spread_skill,
    spread_skill_terms,
    std_error_correlation,
    std_error_sums,
)
from csb.evaluation.fidelity import SSIMScores, decibel, psnr, ssim, ssim_scores
from csb.evaluation.inputs import concentration, ensemble_weights, ensembles, posterior_mean
from csb.evaluation.moments import MomentErrors, gaussian_moment_errors, moment_errors, sample_moments
from csb.evaluation.two_sample import c2st, mmd, mode_weight_tv, sliced_wasserstein


class EnsembleScores:
    """The scores of :mod:`csb.evaluation.ensemble` over many observations, a chunk at a time.

    Memory grows by a few numbers an observation. Any split into chunks gives the numbers of one :meth:`update` with
    everything, and of the functions.

    Args:
        mask: boolean of ``shape``, or None for every coordinate; :meth:`update` may give another for its observations.
            The PSNRs are over all pixels whatever the mask.
        data_range: as in :func:`psnr`.
        scale: the unit of x, broadcastable to ``shape``, by which samples and truth are divided, so that coordinates in
            other units count alike: that of :meth:`csb.problems.Transform.x_scale`. 1 leaves them in their own.
    """

    def __init__(self, mask: Tensor | None = None, data_range: float = 1.0, scale: Tensor | float = 1.0) -> None:
        decibel(torch.ones((), dtype=torch.float32), data_range)
        self._mask, self._data_range = mask, data_range
        self._scale = torch.as_tensor(scale, dtype=torch.float64)
        self._rows: list[Tensor] = []
        self._n: int | None = None

    def update(
        self, samples: Tensor, truth: Tensor, log_weights: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Add B observations: samples (B, n, *shape), truth (B, *shape), log_weights (B, n), (n,) or None.

        ``mask``, (B, *shape) or ``shape``, takes the place of the common one; the number of coordinates it selects for
        each observation may not differ within a call.

        Raises CSBError as :func:`spread_skill`.
        """
        x, y, keep = ensembles(samples, truth, self._mask if mask is None else mask)
        unit = self._scale.to(x.device).expand(truth.shape[1:]).flatten()
        w = ensemble_weights(log_weights, samples)
        if self._n not in (None, x.shape[1]):
            raise CSBError(f"samples hold n={x.shape[1]} draws, earlier chunks {self._n}; use one n for all chunks")
        inside = (spread_skill_terms, crps_term, energy_term, std_error_sums)
        scores = each(lambda *one: torch.cat([term(*one) for term in inside]), x, y, keep, w, unit)
        everywhere = each(spread_skill_terms, x, y, torch.ones_like(keep), w, unit)
        n_eff = torch.tensor([[1 / concentration(v)] for v in w], dtype=torch.float64)
        self._rows.append(torch.cat([scores, everywhere, n_eff], dim=1))
        self._n = x.shape[1]

    def compute(self) -> dict[str, float]:
        """Every score. Needs an update.

        ``psnr_mean``/``psnr_sample``: of the ensemble mean and of single samples; ``n_effective``: the average of
        1/Σw², n for equal weights; ``spread``, ``skill``, ``spread_skill``, ``spread_skill_fair``: as in
        :func:`spread_skill`, the first two in the unit of x/scale; ``rmse``: ``skill`` under its other name.
        """
        if not self._rows or self._n is None:
            raise CSBError("no observation was added; call update(samples, truth) before compute()")
        rows = torch.cat(self._rows)
        inside, (crps, energy, *sums) = rows[:, :3], rows[:, 3:10].mean(0).tolist()
        variance, mse_mean, of_mean, n_eff = rows[:, 10:].unbind(1)
        mse_sample = mse_mean + variance - of_mean  # Σ w_i (x_i − y)² = (m − y)² + (1 − Σw²)·variance
        psnrs = [float(decibel(mse.mean(), self._data_range)) for mse in (mse_mean, mse_sample)]
        spread = from_terms(inside)
        return {
            "n_observations": float(len(rows)),
            "n_samples": float(self._n),
            "n_effective": float(n_eff.mean()),
            "psnr_mean": psnrs[0],
            "psnr_sample": psnrs[1],
            "psnr_mean_per_image": float(decibel(mse_mean, self._data_range).mean()),
            **spread._asdict(),
            "rmse": spread.skill,
            "crps": crps,
            "energy_score": energy,
            "std_error_pearson": correlation(*sums),
        }

    def energy_scores(self) -> list[float]:
        """The energy score of each observation, in the order in which they were added."""
        return torch.cat(self._rows)[:, 4].tolist() if self._rows else []

    def standard_errors(self) -> dict[str, float]:
        """Of the means over observations: crps, energy_score, psnr_mean_per_image, spread_skill, spread_skill_fair.

        Empty for one observation. The root r = √(a/b) of a ratio of two means by the delta method:
        (r/2)·std(a_i/a − b_i/b)/√B.
        """
        rows = torch.cat(self._rows) if self._rows else torch.empty(0, dtype=torch.float32)
        if len(rows) < 2:
            return {}

        def error(values: Tensor) -> float:
            return float(values.std() / len(values) ** 0.5)

        variance, mse, of_mean = rows[:, :3].T
        found = {
            "crps": error(rows[:, 3]),
            "energy_score": error(rows[:, 4]),
            "psnr_mean_per_image": error(decibel(rows[:, 11], self._data_range)),
        }
        for key, above in (("spread_skill", variance), ("spread_skill_fair", variance + of_mean)):
            a, b = above.mean(), mse.mean()
            found[key] = float((a / b).sqrt() / 2) * error(above / a - mse / b) if a * b > 0 else math.nan
        return {key: value for key, value in found.items() if math.isfinite(value)}


__all__ = [
    "EnsembleScores",
    "MomentErrors",
    "Reliability",
    "SSIMScores",
    "SpreadSkill",
    "c2st",
    "crps_ensemble",
    "energy_score",
    "gaussian_moment_errors",
    "mmd",
    "mode_weight_tv",
    "moment_errors",
    "posterior_mean",
    "psnr",
    "sample_moments",
    "sliced_wasserstein",
    "spread_skill",
    "ssim",
    "ssim_scores",
    "std_error_correlation",
]
