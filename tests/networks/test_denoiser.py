"""Denoisers: the exact one against Tweedie and autograd, the trained one's v, units, plain data, errors."""

import math

import pytest
import torch

from csb.errors import CSBError
from csb.networks.diffusion import DenoiserSpec, MixtureDenoiser, build_denoiser
from csb.problems import GaussianMixture, Mixture
from csb.process import seeded

MLP = {"name": "mlp", "width": 16, "depth": 1}
UNET = {"name": "unet", "channels": 8, "patch": 2}


def own_covariances():
    L = torch.tril(torch.rand(3, 2, 2, generator=seeded(1), dtype=torch.float64)) + 0.3 * torch.eye(2)
    means = 2 * torch.randn(3, 2, generator=seeded(2), dtype=torch.float64)
    return Mixture(torch.tensor([0.2, 0.8, 0.0], dtype=torch.float64), means, L @ L.mT)


MIXTURES = {"shared": GaussianMixture(dx=4).mixture, "own": own_covariances()}


@pytest.fixture(params=MIXTURES)
def mixture(request):
    return MIXTURES[request.param]


class TestExact:
    @pytest.mark.parametrize("alpha_bar", [1e-5, 0.01, 0.5, 1 - 1e-5])
    def test_it_is_tweedies_formula(self, mixture, alpha_bar):
        z = math.sqrt(alpha_bar) * mixture.sample(200, seeded(3))
        z = z + math.sqrt(1 - alpha_bar) * torch.randn(z.shape, generator=seeded(4), dtype=torch.float64)
        found = MixtureDenoiser(mixture)(z, torch.tensor(alpha_bar, dtype=torch.float64))
        score = mixture.diffused(alpha_bar).score(z)
        torch.testing.assert_close(found, (z + (1 - alpha_bar) * score) / math.sqrt(alpha_bar), rtol=1e-7, atol=1e-7)

    def test_its_gradient(self, mixture):
        z = torch.randn(5, mixture.means.shape[1], generator=seeded(4), dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda z: MixtureDenoiser(mixture)(z, torch.tensor(0.3)), z)

    def test_it_has_the_least_squared_error(self, mixture):
        """Against the best affine map of z_k, which is the best guess only for one Gaussian."""
        x = mixture.sample(20_000, seeded(5))
        z = math.sqrt(0.5) * x + math.sqrt(0.5) * torch.randn(x.shape, generator=seeded(6), dtype=torch.float64)
        found = MixtureDenoiser(mixture)(z, torch.tensor(0.5))
        X = torch.cat([torch.ones(len(z), 1).double(), z], dim=1)
        best_affine = X @ torch.linalg.lstsq(X, x).solution
        assert float((found - x).square().mean()) < 0.98 * float((best_affine - x).square().mean())
        residual = (x - found).mean(0) / ((x - found).std(0) / len(x) ** 0.5)
        assert float(residual.abs().max()) < 5

    def test_type_units_and_levels(self, mixture):
        denoiser = MixtureDenoiser(mixture)
        z = torch.randn(5, mixture.means.shape[1], generator=seeded(4))
        assert denoiser(z, torch.tensor(0.3)).dtype == torch.float32
        assert denoiser.x_shape == (mixture.means.shape[1],)
        assert torch.equal(denoiser.decode(z), z)


def perturbed(network, x_shape, scale=2.0):
    denoiser = build_denoiser(DenoiserSpec(network, x_shape, scale))
    generator = seeded(0)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return denoiser.eval()


@pytest.fixture(params=["mlp", "unet"], scope="module")
def trained(request):
    return perturbed(MLP, (3,)) if request.param == "mlp" else perturbed(UNET, (1, 8, 8))


@pytest.fixture
def z(trained):
    return torch.randn(6, *trained.x_shape, generator=seeded(1))


class TestNetwork:
    def test_v_parametrisation(self, trained, z):
        """With v = √ᾱ ε − √(1−ᾱ) z_0 the answer is z_0, whatever the level."""
        alpha_bar = torch.tensor(0.3)
        v = trained.velocity(z, alpha_bar)
        z_0 = trained(z, alpha_bar)
        eps = 0.7**0.5 * z + 0.3**0.5 * v
        torch.testing.assert_close(0.3**0.5 * z_0 + 0.7**0.5 * eps, z)
        torch.testing.assert_close(0.3**0.5 * eps - 0.7**0.5 * z_0, v)

    def test_without_noise_it_is_the_identity(self, trained, z):
        torch.testing.assert_close(trained(z, torch.tensor(1 - 1e-12, dtype=torch.float64)), z, rtol=1e-4, atol=1e-4)

    def test_one_level_or_one_a_state(self, trained, z):
        levels = torch.tensor([0.1, 0.2, 0.4, 0.6, 0.8, 0.99])
        many = trained(z, levels)
        for i in range(6):
            torch.testing.assert_close(many[i : i + 1], trained(z[i : i + 1], levels[i]))

    def test_the_level_matters(self, trained, z):
        with torch.no_grad():
            one, two = trained.velocity(z, torch.tensor(0.1)), trained.velocity(z, torch.tensor(0.9))
        assert float((one - two).abs().max()) > 1e-3

    def test_double_levels(self, trained, z):
        one, two = (trained(z, torch.tensor(0.3, dtype=dtype)) for dtype in (torch.float32, torch.float64))
        assert two.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)

    def test_it_is_differentiable_state_by_state(self, trained, z):
        z = z.requires_grad_()
        (gradient,) = torch.autograd.grad(trained(z, torch.tensor(0.3))[2].sum(), z)
        assert bool((gradient[2] != 0).any())
        assert not bool((gradient[[0, 1, 3, 4, 5]] != 0).any())

    def test_units(self, trained, z):
        with torch.no_grad():
            trained.shift.fill_(1.5)
        torch.testing.assert_close(trained.decode(z), 1.5 + 2 * z)
        torch.testing.assert_close(trained.encode(trained.decode(z)), z)
        assert "shift" in trained.state_dict()

    def test_the_initial_weights_are_a_function_of_the_seed(self):
        state = torch.random.get_rng_state()
        one, two, other = (build_denoiser(DenoiserSpec(MLP, (3,), 1.0), seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not all(torch.equal(one[key], other[key]) for key in one)


class TestSpec:
    def test_there_and_back(self):
        spec = DenoiserSpec(UNET, (1, 8, 8), 0.31, 1e-4)
        assert spec.plain() == {"network": UNET, "x_shape": [1, 8, 8], "scale": 0.31, "alpha_bar_end": 1e-4}
        assert DenoiserSpec.read(spec.plain()) == spec
        assert build_denoiser(spec).alpha_bar_end == 1e-4

    def test_the_horizon_need_not_be_known(self):
        spec = DenoiserSpec.read({"network": MLP, "x_shape": [3], "scale": 1.0})
        assert build_denoiser(spec).alpha_bar_end == 0

    @pytest.mark.parametrize(
        "data",
        [
            {"network": MLP, "scale": 1.0},
            {"network": MLP, "x_shape": [3]},
            {"network": MLP, "x_shape": [3], "scale": 1.0, "more": 1},
            {"network": MLP, "x_shape": 3, "scale": 1.0},
        ],
        ids=["no shape", "no scale", "more", "number"],
    )
    def test_errors(self, data):
        with pytest.raises(CSBError, match=r"denoiser(\.\w+ is missing| has no setting|\.x_shape=3 is not a shape)"):
            DenoiserSpec.read(data, "denoiser")

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
    def test_scale(self, scale):
        with pytest.raises(CSBError, match=f"scale={scale!r} is not possible; give a finite number above 0"):
            build_denoiser(DenoiserSpec(MLP, (3,), scale))
