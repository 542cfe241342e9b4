"""The bridge filter: Kalman's analysis for Gaussians, a mixture's posterior where EnKF fails, and its parts."""

import math

import pytest
import torch

from csb.filtering import BridgeFilter, EnKF
from csb.filtering.regression import RIDGES, Fourier, Kernels
from csb.filtering.whitening import uncorrelated
from csb.metrics.distances import sliced_wasserstein
from csb.process import Pinned, seeded
from tests.filtering.filter_examples import BIMODAL, OBSERVED, errors, gaussian_model
from tests.filtering.kalman import Gaussian, LinearGaussianModel

M = 2000


@pytest.mark.parametrize(("way", "locality"), [("replay", None), ("draw", None), ("replay", 0.7), ("draw", 0.7)])
def test_a_gaussian_forecast_gives_kalmans_analysis(way, locality):
    model = gaussian_model()
    x = model.initial(M, seeded(1))
    forecast = Gaussian(x.mean(0), x.T.cov())  # the sampling error of the forecast is not the filter's
    method = BridgeFilter(T=5, L=3, way=way, locality=locality)
    mean, cov = errors(method(model, x, OBSERVED, seeded(2)).x, model.condition(forecast, OBSERVED))
    exact = way == "replay" and locality is None
    assert mean < (0.03 if exact else 0.09), mean  # 1/√M is .022
    assert cov < (0.06 if exact else 0.15), cov


@pytest.mark.parametrize(("L", "gain", "atol"), [(1, 0.7 / (0.7 + 0.25), 0.01), (4, 1 / 1.25, 0.015)])
def test_one_iteration_of_replay_underestimates_the_gain_as_predicted(L, gain, atol):
    """x_T keeps √ᾱ_T of z, and with it what y^m says: the gain is that of a forecast of variance 1 − ᾱ_T."""
    one = torch.ones(1, 1, dtype=torch.float64)
    model = LinearGaussianModel(one, one, one, Gaussian(torch.zeros(1).double(), one), noise_std=0.5)
    x, y = model.initial(M, seeded(3)), torch.tensor([2.0], dtype=torch.float64)
    method = BridgeFilter(T=4, L=L, alpha_bar_end=0.3, features=0)
    found = method(model, (x - x.mean()) / x.std(), y, seeded(4)).x
    assert float(found.mean()) / 2 == pytest.approx(gain, abs=atol)


FLEXIBLE = {"T": 8, "L": 2, "alpha_bar_end": 0.2, "power": 3.0, "features": 150, "width": 0.7}


@pytest.mark.parametrize(("options", "share"), [(FLEXIBLE, 0.6), ({**FLEXIBLE, "way": "draw", "locality": 1.0}, 0.35)])
def test_a_bimodal_forecast_is_beyond_enkf(options, share):
    H = torch.tensor([[1.0, 0.3]], dtype=torch.float64)
    model = LinearGaussianModel(torch.eye(2).double(), torch.eye(2).double(), H, Gaussian(BIMODAL.mean, BIMODAL.cov))
    x, y = BIMODAL.sample(M, seeded(5)), torch.tensor([0.6], dtype=torch.float64)
    exact = BIMODAL.conditioned(H, torch.eye(1).double(), y)
    assert 0.1 < float(exact.weights.min()) < 0.4  # two modes are left
    far = {}
    for name, method in {"bridge": BridgeFilter(**options), "enkf": EnKF()}.items():
        found = method(model, x, y, seeded(6)).x
        far[name] = sliced_wasserstein(found, exact.sample(M, seeded(7)), seeded(8), p=1.0)
    assert far["bridge"] < share * far["enkf"], far


def test_a_member_whose_own_observation_was_made_stays():
    model = gaussian_model()
    x = model.initial(300, seeded(0))
    method = BridgeFilter(T=3, L=2, features=8)
    z, v = x - x.mean(0), model.observe(x)
    path, backward = method._fit(z, v, seeded(1))
    new = path[-1]
    for k in (3, 2, 1):
        new = path[k - 1] + backward.mean(k, new, v) - backward.fitted[k - 1]
    assert torch.allclose(new, z)


class TestKernels:
    LAW = Pinned(*(torch.tensor([v, v], dtype=torch.float64) for v in (0.7, 0.4, 0.1)))

    def pairs(self, curved):
        g = seeded(9)
        x = torch.randn((2, 4000, 1), dtype=torch.float64, generator=g)
        v = torch.randn((4000, 1), dtype=torch.float64, generator=g)
        end = 0.5 * x[0] - v + 2 + curved * torch.cos(1.5 * v) + 0.3 * torch.randn(v.shape, generator=g).double()
        return x, v, end

    @pytest.mark.parametrize(
        ("curved", "features", "at", "seen", "atol", "rel"),
        [(0.0, 20, [0.0, 6.0], [0.0, -6.0], 0.1, 0.02), (1.0, 60, [0.0] * 9, torch.linspace(-2, 2, 9), 0.05, 0.05)],
        ids=["affine, far out too", "curved"],
    )
    def test_means_and_the_noise_about_them(self, curved, features, at, seen, atol, rel):
        kernels = Kernels(self.LAW, Fourier.of(2, features, 2.0, seeded(0)), *self.pairs(curved))
        at, seen = (torch.as_tensor(values).double()[:, None] for values in (at, seen))
        want = 0.7 * at + 0.4 * (0.5 * at - seen + 2 + curved * torch.cos(1.5 * seen))
        assert torch.allclose(kernels.mean(1, at, seen), want, atol=atol)
        assert float(kernels.factors[0] ** 2) == pytest.approx(0.1 + 0.16 * 0.09, rel=rel)
        assert curved or float(kernels.freedom[0]) < 8  # the least flexible fit was chosen

    @pytest.mark.parametrize("curved", [0.05, 0.1, 0.2, 0.4, 1.0])
    def test_the_ridge_is_that_of_least_cross_validation(self, curved):
        """Against the definition: residuals, trace of the hat matrix, and the same weights, for every λ."""
        x, v, end = (part[..., :60, :] for part in self.pairs(curved))
        features, n = Fourier.of(2, 15, 1.5, seeded(0)), 60
        kernels = Kernels(self.LAW, features, x, v, end)
        u = torch.cat([x[0], v], dim=1)
        phi = features((u - u.mean(0)) / u.std(0))
        found = []
        for ridge in RIDGES:
            penalty = torch.diag(torch.tensor([0.0] * 3 + [ridge * n] * 15).double())
            hat = torch.linalg.solve(phi.T @ phi + penalty, phi.T)
            freedom = float((phi @ hat).trace())
            found.append((float((end - phi @ hat @ end).square().sum()) / (n - freedom) ** 2, freedom, hat @ end))
        _, freedom, weights = min(found, key=lambda one: one[0])
        assert float(kernels.freedom[0]) == pytest.approx(freedom, rel=1e-4)
        assert torch.allclose(phi @ kernels.weights[0], phi @ weights, atol=1e-4)

    def test_features_are_those_of_a_gaussian_kernel(self):
        u = torch.randn((6, 3), dtype=torch.float64, generator=seeded(1))
        waves = Fourier.of(3, 100_000, 1.5, seeded(2))(u)[:, 4:]
        kernel = torch.exp(-torch.cdist(u, u).square() / (2 * 1.5**2))
        assert torch.allclose(waves @ waves.T / 100_000, kernel, atol=5 / math.sqrt(100_000))


def test_uncorrelated_noise():
    given = torch.randn((50, 4), dtype=torch.float64, generator=seeded(0))
    noise = uncorrelated(given[:, 1:], (given[:, :1], given), seeded(1))
    assert float((given.T @ noise).abs().max()) < 1e-9
    assert float(noise.mean(0).abs().max()) < 1e-12
    assert torch.allclose(noise.T.cov(), torch.eye(3).double())
    assert uncorrelated(given[:5], (given[:5],), seeded(1)).shape == (5, 4)
