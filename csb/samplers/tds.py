r"""Sequential Monte Carlo along the reverse process: the bootstrap filter, and the twisted diffusion sampler (TDS).

K particles with weights target p̃_k(y | z_k) × (law of the unconditional chain at k), which at k = 0 is the posterior of
the discretised prior. Wu et al. 2023 (TDS), algorithm 1; with the unconditional step as proposal it is the bootstrap
filter on the same targets. With g = ∇_z log p̃_k(y | z_k):

- start      z_T ~ N(0, I), log w = log p̃_T(y | z_T)
- propose    z_{k−1} ~ N(μ̃, β̃_k I), μ̃ = μ_k + g·β_k/√(1−β_k) (TDS) or μ_k (bootstrap)
- weigh      log w += log N(z_{k−1}; μ_k, β̃_k I) − log N(z_{k−1}; μ̃, β̃_k I)
                      + log p̃_{k−1}(y | z_{k−1}) − log p̃_k(y | z_k)
- resample   where the effective sample size falls below a share of K

The last step has no variance, hence no density: the proposal is μ_1 itself, and the weight the ratio of likelihoods.
"""

import math
from typing import Any

import torch
from torch import Tensor

from csb.errors import MOST_DRAWS, CSBError, is_number, is_one_of, require_int
from csb.process import Noise
from csb.samplers.base import Draws
from csb.samplers.diffusion import DiffusionSampler, Guidance, gaussian_log_ratio
from csb.samplers.resampling import RESAMPLING, effective_sample_size


class ParticleSampler(DiffusionSampler):
    """The particle filter; see the module's docstring.

    The particles come back with their weights: they are not resampled at the end.

    Args:
        particles: K ≥ 1, in runs that know nothing of each other; n samples are n/K runs, each run weighing the same.
            None: one run, K = n.
        resampling: one of :data:`csb.samplers.resampling.RESAMPLING`.
        ess_threshold: resample where the effective sample size is below this share of K, in [0, 1]; 0 never.
        **settings: see :class:`DiffusionSampler`.

    Raises:
        CSBError: a value out of range; an n that K does not divide; weights that all vanish.
    """

    guided: bool
    any_likelihood = True

    def __init__(
        self,
        *args: Any,
        particles: int | None = None,
        resampling: str = "systematic",
        ess_threshold: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        if particles is not None:
            require_int("particles", particles, 1, MOST_DRAWS)
        if not is_one_of(resampling, RESAMPLING):
            raise CSBError(f"resampling={resampling!r} is unknown; choose one of {', '.join(RESAMPLING)}")
        if not is_number(ess_threshold) or not 0 <= ess_threshold <= 1:
            raise CSBError(f"ess_threshold={ess_threshold!r} is outside [0, 1]; it is a share of the particles")
        self.particles, self.resampling, self.ess_threshold = particles, resampling, ess_threshold

    @property
    def evaluations(self) -> int:
        return 2 * self.grid.T if self.guided else self.grid.T

    def _check(self, n: int) -> None:
        if self.particles is not None and n % self.particles:
            raise CSBError(f"n={n} is no multiple of particles={self.particles}; a run returns all its particles")

    def _sample(self, y: Tensor, n: int, noise: Noise) -> Draws:
        K = self.particles or n
        each = y.repeat_interleave(n, 0)
        z = noise.normal(n, *self.x_shape)
        ancestors = torch.arange(n, device=self.device).repeat(len(y))
        now = self._twist(z, self.grid.T, each)
        log_w = now.value.view(-1, K)
        for k in range(self.grid.T, 0, -1):
            u = noise.uniform(n).view(-1, K)
            chosen, log_w = self._resample(log_w, u)
            z, ancestors, now = z[chosen], ancestors[chosen], Guidance(*(part[chosen] for part in now))
            z, ratio = self._propose(z, now, k, noise, n)
            later = self._twist(z, k - 1, each)
            log_w = log_w + (ratio + later.value - now.value).view(-1, K)
            now = later
        log_weights = (log_w.log_softmax(1) + math.log(K / n)).view(len(y), n)
        ess = effective_sample_size(log_weights)
        unique = torch.tensor([len(row.unique()) for row in ancestors.view(len(y), n)])
        T = self.grid.T
        return Draws(self.finish(z, y, n), T, T if self.guided else 0, log_weights, ess, unique)

    def _twist(self, z: Tensor, k: int, y: Tensor) -> Guidance:
        """log p̃_k(y | z) with x̂_0 and gradient; at k = 0 the likelihood itself, without the network."""
        if k == 0:
            value = self.guidance_likelihood.log_prob(y, self.denoiser.decode(z), 1.0)
            return Guidance(z, value, torch.zeros_like(z))
        if self.guided:
            return self.guide(z, k, y, self.guidance_likelihood.log_prob)
        z_0 = self.denoise(z, k)
        value = self.guidance_likelihood.log_prob(y, self.denoiser.decode(z_0), float(self.grid.alpha_bar[k]))
        return Guidance(z_0, value, torch.zeros_like(z))

    def _resample(self, log_w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Which particles go on, as indices into all B·n, and their log-weights."""
        groups, K = log_w.shape
        own = torch.arange(K, device=log_w.device).expand(groups, K)
        poor = effective_sample_size(log_w) < self.ess_threshold * K
        chosen = own.clone()
        if bool(poor.any()):
            chosen[poor] = RESAMPLING[self.resampling](log_w[poor], u[poor])
        log_w = torch.where(poor[:, None], torch.zeros_like(log_w), log_w)
        return (chosen + K * torch.arange(groups, device=log_w.device)[:, None]).flatten(), log_w

    def _propose(self, z: Tensor, now: Guidance, k: int, noise: Noise, n: int) -> tuple[Tensor, Tensor]:
        """z_{k−1} and log N(z_{k−1}; μ) − log N(z_{k−1}; μ̃)."""
        step = self.step(z, now.z_0, k)
        if k == 1:
            return step.mean, torch.zeros(len(z), dtype=torch.float64, device=z.device)
        mean = step.mean + step.pull * now.gradient if self.guided else step.mean
        new = mean + math.sqrt(step.var) * noise.normal(n, *self.x_shape)
        return new, gaussian_log_ratio(new, step.mean, mean, step.var)


class TDS(ParticleSampler):
    """The twisted diffusion sampler (Wu et al. 2023)."""

    name = "tds"
    label = "TDS"
    guided = True


class BootstrapSMC(ParticleSampler):
    """The bootstrap filter on TDS's targets: the unconditional step proposes, the weights do all the rest."""

    name = "smc"
    label = "bootstrap SMC"
    guided = False
