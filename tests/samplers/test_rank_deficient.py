"""A matrix that float32 knows to be of rank 2 of 4: DDRM and ΠGDM against the posterior in closed form."""

import pytest
import torch

from csb.networks.diffusion import MixtureDenoiser
from csb.problems import Mixture
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import DDRM, GaussianLikelihood, PiGDM

LOW = torch.randn(4, 2, generator=seeded(3)) @ torch.randn(2, 6, generator=seeded(4))
GRID = Grid.from_schedule(LinearBeta(1e-4), 100)


@pytest.mark.parametrize(("method", "noise", "options"), [(DDRM, 1e-6, {"eta": 0.0}), (PiGDM, 1e-12, {})])
def test_the_mean_is_the_exact_one(method, noise, options):
    x = torch.randn(1, 6, generator=seeded(5))
    y = x @ LOW.T
    seen = torch.linalg.pinv(LOW.double(), rtol=1e-5) @ LOW.double() @ x[0].double()
    prior = MixtureDenoiser(Mixture.isotropic(6, 1.0))
    likelihood = GaussianLikelihood(LOW, noise).with_scales(LOW.square().sum(1))
    found = method(prior, likelihood, GRID, **options).sample(y, 2000, seeded(6)).x[0].double()
    assert float((found.mean(0) - seen).abs().max()) < 0.1  # of 2000 draws of variance at most 1: .022
