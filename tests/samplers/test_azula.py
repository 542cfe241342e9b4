"""Steps and whole chains of single samples against azula, an independent implementation.

azula writes x_t = α_t x + σ_t ε; here α = √ᾱ, σ = √(1−ᾱ), and its time is k/T. It differs on purpose in two places: its
DPS takes one norm over the whole batch, so that the two agree for single samples only; and its TDS guides the last,
noiseless step too, so that the two are compared up to it.
"""

import pytest
import torch
from azula.denoise import Denoiser as AzulaDenoiser
from azula.denoise import DiracPosterior
from azula.guidance.dps import DPSSampler
from azula.guidance.tds import TDSSampler
from azula.noise import Schedule
from azula.sample import DDPMSampler

from csb.networks.diffusion import Denoiser
from csb.problems import GaussianMixture
from csb.process import Cosine, Grid, LinearBeta, Noise, Power, seeded
from csb.samplers import DPS, TDS, GaussianLikelihood

T = 8
PROBLEM = GaussianMixture(dx=4, dy=2, seed=4)
Y = PROBLEM.pairs("test", 1).y
SCHEDULES = {"linear": LinearBeta(1e-4), "cosine": Cosine(1e-3), "power": Power(0.1, 3.0)}


class Standardised(Denoiser):
    """The exact denoiser of the problem's mixture for z = (x − 3)/11."""

    def __init__(self):
        super().__init__(torch.full((4,), 3.0), 11.0)
        self.mixture = PROBLEM.mixture.affine(torch.full((4,), 1 / 11.0).double(), torch.full((4,), -3 / 11.0).double())

    def forward(self, z, alpha_bar):
        return self.mixture.denoise(z, float(alpha_bar))


class OnGrid(Schedule):
    def __init__(self, grid):
        self.grid = grid

    def level(self, t):
        return self.grid.alpha_bar[round(float(t) * self.grid.T)]

    def __call__(self, t):
        return self.level(t).sqrt().float(), (1 - self.level(t)).sqrt().float()


class Wrapped(AzulaDenoiser):
    def __init__(self, denoiser, grid):
        super().__init__()
        self.denoiser, self.schedule = denoiser, OnGrid(grid)

    def forward(self, x_t, t, **kwargs):
        return DiracPosterior(mean=self.denoiser(x_t, self.schedule.level(t)))


@pytest.fixture(params=SCHEDULES)
def grid(request):
    return Grid.from_schedule(SCHEDULES[request.param], T)


def ours(method, grid, **options):
    denoiser = Standardised()
    return method(denoiser, GaussianLikelihood.of(PROBLEM, denoiser, PROBLEM.pairs("train", 500)), grid, **options)


def observe(z):
    """H of azula's state."""
    return PROBLEM.forward(3 + 11 * z)


@pytest.fixture(autouse=True)
def _global_numbers():
    """azula draws from the global generator."""
    with torch.random.fork_rng():
        yield


def test_mean_and_variance_of_every_step(grid):
    sampler, other = ours(DPS, grid), DDPMSampler(Wrapped(Standardised(), grid), silent=True, steps=T)
    z = torch.randn(50, 4, generator=seeded(1))
    for k in range(1, T + 1):
        mean, var = sampler.unconditional(z, sampler.denoise(z, k), k)
        torch.manual_seed(k)
        found = other.step(z, torch.tensor(k / T), torch.tensor((k - 1) / T))
        torch.manual_seed(k)
        noise = torch.randn(50, 4)
        torch.testing.assert_close(mean + var**0.5 * noise, found, rtol=1e-4, atol=2e-5)


def test_unconditional_chains(grid):
    other = DDPMSampler(Wrapped(Standardised(), grid), silent=True, steps=T)
    torch.manual_seed(2)
    x = 3 + 11 * other(torch.randn(20, 4))
    torch.manual_seed(2)
    found = ours(DPS, grid, step_size=0.0).sample(Y, 20).x[0]
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("zeta", [0.01, 0.05])
def test_dps_chains_of_single_samples(grid, zeta):
    other = DPSSampler(Wrapped(Standardised(), grid), Y, observe, zeta=zeta, silent=True, steps=T)
    sampler = ours(DPS, grid, step_size=zeta)
    for seed in range(5):
        torch.manual_seed(seed)
        x = 3 + 11 * other(torch.randn(1, 4))
        torch.manual_seed(seed)
        torch.testing.assert_close(sampler.sample(Y, 1).x[0], x, rtol=1e-3, atol=1e-2)


def test_dps_takes_the_norm_of_each_sample_where_azula_takes_that_of_the_batch():
    grid = Grid.from_schedule(LinearBeta(1e-4), T)
    z, k = torch.randn(6, 4, generator=seeded(3)), 5
    sampler, times = ours(DPS, grid), (torch.tensor(k / T), torch.tensor((k - 1) / T))
    at = sampler.guide(z, k, Y.expand(6, 2), lambda y, x, _: (y - PROBLEM.forward(x)).norm(dim=1))
    mean, _ = sampler.unconditional(z, at.z_0, k)

    def pull(states):
        """What azula's guidance adds, per unit of ζ."""
        results = []
        for zeta in (0.0, 1.0):
            torch.manual_seed(0)
            results.append(DPSSampler(Wrapped(Standardised(), grid), Y, observe, zeta).step(states, *times))
        return results[0] - results[1]

    alone = torch.cat([pull(z[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(at.gradient, alone, rtol=1e-3, atol=1e-3)
    share = at.value / at.value.norm()
    torch.testing.assert_close(share[:, None].float() * at.gradient, pull(z), rtol=1e-3, atol=1e-3)
    assert bool(torch.isfinite(mean).all())


@pytest.mark.parametrize("k", range(2, T + 1))
def test_tds_proposals_and_weights(grid, k):
    """One particle, so that azula's resampling at every step does nothing; then log w of both."""
    sampler = ours(TDS, grid)
    alpha_bar = float(grid.alpha_bar[k])
    other = TDSSampler(
        Wrapped(Standardised(), grid),
        lambda z_0, _: sampler.likelihood.log_prob(Y.expand(len(z_0), 2), 3 + 11 * z_0, alpha_bar),
        silent=True,
        steps=T,
    )
    z = torch.randn(1, 4, generator=seeded(k))
    now = sampler.guide(z, k, Y)
    carry = {}
    torch.manual_seed(k)
    theirs = other.step(z, torch.tensor(k / T), torch.tensor((k - 1) / T), carry)
    torch.manual_seed(k)
    torch.multinomial(torch.ones(1, dtype=torch.float64), 1, replacement=True)
    found, ratio = sampler._propose(now, k, lambda: Noise(None, 1).normal(1, 4))
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ratio - now.value, carry["log_w"].double(), rtol=1e-3, atol=1e-2)
