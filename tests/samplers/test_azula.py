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

from csb.problems import GaussianMixture, Mixture
from csb.process import Cosine, Grid, LinearBeta, Noise, Power, seeded
from csb.samplers import DPS, TDS, GaussianLikelihood
from tests.conftest import Moved

T = 8
PROBLEM = GaussianMixture(dx=4, dy=2, seed=4)
Y = PROBLEM.pairs("test", 1).y
SCHEDULES = {"linear": LinearBeta(1e-4), "cosine": Cosine(1e-3), "power": Power(0.1, 3.0)}
X = PROBLEM.mixture
DENOISER = Moved(Mixture(X.weights, (X.means - 3) / 11, X.covs / 121), 3.0, 11.0)  # for z = (x − 3)/11


class OnGrid(Schedule):
    def __init__(self, grid):
        self.grid = grid

    def level(self, t):
        return self.grid.alpha_bar[round(float(t) * self.grid.T)]

    def __call__(self, t):
        return self.level(t).sqrt().float(), (1 - self.level(t)).sqrt().float()


class Wrapped(AzulaDenoiser):
    def __init__(self, grid):
        super().__init__()
        self.schedule = OnGrid(grid)

    def forward(self, x_t, t, **kwargs):
        return DiracPosterior(mean=DENOISER(x_t, self.schedule.level(t)))


@pytest.fixture(params=SCHEDULES)
def grid(request):
    with torch.random.fork_rng():  # azula draws from the global generator
        yield Grid.from_schedule(SCHEDULES[request.param], T)


def ours(method, grid, **options):
    return method(DENOISER, GaussianLikelihood.of(PROBLEM, DENOISER, PROBLEM.pairs("train", 500)), grid, **options)


def times(k):
    return torch.tensor(k / T), torch.tensor((k - 1) / T)


@pytest.mark.parametrize("zeta", [0.0, 0.01, 0.05])
def test_dps_chains_of_single_samples(grid, zeta):
    """Those of ζ = 0 are unconditional: the mean and the variance of every step."""
    other = DPSSampler(Wrapped(grid), Y, lambda z: PROBLEM.forward(3 + 11 * z), zeta=zeta, silent=True, steps=T)
    sampler = ours(DPS, grid, step_size=zeta)
    for seed in range(5):
        torch.manual_seed(seed)
        x = 3 + 11 * other(torch.randn(1, 4))
        torch.manual_seed(seed)
        torch.testing.assert_close(sampler.sample(Y, 1).x[0], x, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("k", range(2, T + 1))
def test_tds_proposals_and_weights(grid, k):
    """One particle, so that azula's resampling at every step does nothing; then log w of both."""
    sampler, alpha_bar = ours(TDS, grid), float(grid.alpha_bar[k])

    def twist(z_0, _):
        return sampler.likelihood.log_prob(Y.expand(len(z_0), 2), 3 + 11 * z_0, alpha_bar)

    z, carry = torch.randn(1, 4, generator=seeded(k)), {}
    now = sampler.guide(z, k, Y)
    torch.manual_seed(k)
    theirs = TDSSampler(Wrapped(grid), twist, silent=True, steps=T).step(z, *times(k), carry)
    torch.manual_seed(k)
    torch.multinomial(torch.ones(1, dtype=torch.float64), 1, replacement=True)
    found, ratio = sampler._propose(now, k, lambda: Noise(None, 1).normal(1, 4))
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ratio - now.value, carry["log_w"].double(), rtol=1e-3, atol=1e-2)
