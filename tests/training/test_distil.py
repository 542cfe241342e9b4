"""The energy score: unbiased, smallest at the true law, on patches, without gradients that are not finite."""

import math

import pytest
import torch

from csb.process import seeded
from csb.training.distil import check_patches, energy_score, generator_score, norms
from tests.conftest import one_line


def absolute(mean, std):
    """E|N(mean, std²)|."""
    a = torch.tensor(mean / std)
    return float(std * math.sqrt(2 / math.pi) * torch.exp(-(a**2) / 2) + mean * (1 - 2 * torch.special.ndtr(-a)))


@pytest.mark.parametrize("m", [2, 3, 6])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 1.5), (-0.3, 0.4)])
def test_it_is_unbiased_for_gaussians_whatever_the_number_of_draws(m, mean, std):
    generator = seeded(m)
    x, draws = torch.randn(100_000, 1, generator=generator), torch.randn(100_000, m, 1, generator=generator)
    found = energy_score(mean + std * draws, x)
    assert found.shape == (100_000,)
    expected = absolute(mean, math.sqrt(std**2 + 1)) - std / math.sqrt(math.pi)
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(len(found))


@pytest.mark.parametrize("m", [2, 4])
def test_the_true_law_is_where_the_gradient_vanishes(m):
    """In five coordinates, for mean and width of the draws; away from it both point back."""
    x, e = torch.randn(100_000, 5, generator=seeded(1)), torch.randn(100_000, m, 5, generator=seeded(2))

    def gradient(mean, std):
        at = torch.tensor([mean, std], requires_grad=True)
        energy_score(at[0] + at[1] * e, x).mean().backward()
        return at.grad

    assert gradient(0.0, 1.0).abs().max() < 4e-3
    assert gradient(0.3, 1.0)[0] > 0.1 > -0.1 > gradient(-0.3, 1.0)[0]
    assert gradient(0.0, 1.3)[1] > 0.04 > -0.04 > gradient(0.0, 0.7)[1]


class TestPatches:
    X, DRAWS = torch.randn(4, 1, 3, 3, generator=seeded(0)), torch.randn(4, 5, 1, 3, 3, generator=seeded(1))

    def test_norms_are_those_of_the_patches(self):
        x = torch.randn(2, 3, 6, 6, generator=seeded(0))
        torch.testing.assert_close(norms(x)[:, 0], x.flatten(1).norm(dim=1) / math.sqrt(108))
        torch.testing.assert_close(norms(x, 1), x.norm(dim=1).flatten(1) / math.sqrt(3))
        patches = [x[:, :, i : i + 4, j : j + 4].flatten(1).norm(dim=1) / math.sqrt(48) for i in (0, 2) for j in (0, 2)]
        torch.testing.assert_close(norms(x, 4), torch.stack(patches, 1))

    def test_pixels_give_the_crps_of_each(self):
        far = (self.DRAWS - self.X[:, None]).abs().mean((1, 2, 3, 4))
        apart = (self.DRAWS[:, :, None] - self.DRAWS[:, None]).abs().mean((3, 4, 5)).sum((1, 2)) / (5 * 4)
        torch.testing.assert_close(energy_score(self.DRAWS, self.X, 1), far - 0.5 * apart)

    def test_the_score_is_the_mean_of_its_parts(self):
        parts = [energy_score(self.DRAWS, self.X, side).mean() for side in (None, 3, 1)]
        torch.testing.assert_close(generator_score(self.DRAWS, self.X, [3, 1]), sum(parts) / 3)

    def test_sides_that_there_are_not(self):
        check_patches([], (3,))
        assert "has 5, and states have the shape (1, 4, 6); give sides in 1..4" in one_line(
            lambda: check_patches([5], (1, 4, 6))
        )
        assert "give [] for vectors" in one_line(lambda: check_patches([1], (3,)))


@pytest.mark.parametrize("side", [None, 1, 2])
def test_draws_that_coincide_have_finite_gradients(side):
    x, draws = torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 1, 4, 4, requires_grad=True)
    energy_score(draws, x, side).mean().backward()
    assert bool(torch.isfinite(draws.grad).all())
