r"""Sequential Monte Carlo along the reverse process: the bootstrap filter, and the twisted diffusion sampler (TDS).

K particles with weights target p̃_k(y | z_k) × (law of the unconditional chain at k), which at k = 0 is the posterior of
the discretised prior (Wu et al. 2023, algorithm 1). With g = ∇_z log p̃_k(y | z_k):

- start      z_T ~ N(0, I), log w = log p̃_T(y | z_T)
- propose    z_{k−1} ~ N(μ̃, β̃_k I), μ̃ = μ_k + g·β_k/√(1−β_k) (TDS) or μ_k (bootstrap)
- weigh      log w += log N(z_{k−1}; μ_k, β̃_k I) − log N(z_{k−1}; μ̃, β̃_k I)
                      + log p̃_{k−1}(y | z_{k−1}) − log p̃_k(y | z_k)
- resample   where the effective sample size falls below a share of K

The last step has no variance, hence no density: the proposal is μ_1 itself, and the weight the ratio of likelihoods.
"""

import math
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csb.bridge import SampleInfo, Samples
from csb.errors import MOST_DRAWS, CSBError
from csb.process import Noise
from csb.process.resampling import RESAMPLING, effective_sample_size
from csb.samplers.base import Fresh, noised
from csb.samplers.diffusion import DiffusionSampler, Guidance
from csb.schema import OneOf, Share


class ParticleSampler(DiffusionSampler):
    """The particles come back with their weights: they are not resampled at the end.

    CSBError for an n that the number of particles does not divide, and for weights that all vanish.
    """

    any_likelihood = True
    particles: Annotated[int, Field(ge=1, le=MOST_DRAWS)] | None = None
    """K, in runs that know nothing of each other; n samples are n/K runs, each run weighing the same. None: one
    run, K = n."""
    resampling: Annotated[str, OneOf(RESAMPLING)] = "systematic"
    """See csb.process.resampling."""
    ess_threshold: Share = 0.5
    """Resample where the effective sample size is below this share of K; 0 never."""

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Samples:
        K = self.particles or n
        if n % K:
            raise CSBError(f"n={n} is no multiple of particles={K}; a run returns all its particles")
        each, fresh = y.repeat_interleave(n, 0), partial(noise.normal, n, *self.x_shape)
        ancestors = torch.arange(n, device=self.device).repeat(len(y))
        now = self.guide(fresh(), self.grid.T, each, gradient=self.guided)
        log_w = now.value.view(-1, K)
        for k in range(self.grid.T, 0, -1):
            u = noise.uniform(n).view(-1, K)
            chosen, log_w = self._resample(log_w, u)
            ancestors, now = ancestors[chosen], Guidance(*(part[chosen] for part in now))
            z, ratio = self._propose(now, k, fresh)
            later = self.guide(z, k - 1, each, gradient=self.guided)
            log_w = log_w + (ratio + later.value - now.value).view(-1, K)
            now = later
        log_weights = (log_w.log_softmax(1) + math.log(K / n)).view(len(y), n)
        unique = torch.tensor([len(row.unique()) for row in ancestors.view(len(y), n)])
        info = SampleInfo(*self.passes, ess=effective_sample_size(log_weights), unique_ancestors=unique)
        return Samples(self.finish(now.z, y, n), info, log_weights)

    def _resample(self, log_w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Which particles go on, as indices into all B·n, and their log-weights."""
        groups, K = log_w.shape
        chosen = torch.arange(K, device=log_w.device).repeat(groups, 1)
        poor = effective_sample_size(log_w) < self.ess_threshold * K
        if bool(poor.any()):
            chosen[poor] = RESAMPLING[self.resampling](log_w[poor], u[poor])
        log_w = torch.where(poor[:, None], torch.zeros_like(log_w), log_w)
        return (chosen + K * torch.arange(groups, device=log_w.device)[:, None]).flatten(), log_w

    def _propose(self, now: Guidance, k: int, fresh: Fresh) -> tuple[Tensor, Tensor]:
        """z_{k−1} and log N(z_{k−1}; μ) − log N(z_{k−1}; μ̃), (N,), float64."""
        (own, var), beta = self.unconditional(now.z, now.z_0, k), float(self.grid.beta[k])
        if k == 1:
            return own, torch.zeros(len(own), dtype=torch.float64, device=own.device)
        mean = own + beta / (1 - beta) ** 0.5 * now.gradient if self.guided else own
        new = noised(mean, var, fresh)
        x, a, b = new.double(), own.double(), mean.double()
        return new, ((x - b) ** 2 - (x - a) ** 2).flatten(1).sum(1) / (2 * var)


class TDS(ParticleSampler):
    """The twisted diffusion sampler (Wu et al. 2023)."""

    name = "tds"
    label = "TDS"
    guided = True


class BootstrapSMC(ParticleSampler):
    """The bootstrap filter on TDS's targets: the unconditional step proposes, the weights do all the rest."""

    name = "smc"
    label = "bootstrap SMC"
