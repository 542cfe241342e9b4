"""From priors and simulators of sbi to trained posteriors."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

pytest.importorskip("sbi")
from sbi.simulators.linear_gaussian import linear_gaussian, true_posterior_linear_gaussian_mvn_prior
from sbi.utils import BoxUniform

import csb
from csb.runs.presets import PRESETS
from csb.sbi import Posterior

PRIOR = MultivariateNormal(torch.zeros(2), torch.eye(2))
NOISE = torch.tensor([[0.5, 0.2], [0.2, 0.4]])
SHIFT = torch.tensor([1.0, -2.0])
AFFINE = {
    "T": 3, "L": 1, "network": "affine", "objective": "likelihood_full", "progress": False, "precision": "32-true",
    "schedule": {"name": "power", "alpha_bar_end": 0.01, "power": 2.0},
    "training": {
        **PRESETS["training"]["gaussian"], "batch_size": 512, "first_steps": 400, "refresh": 400, "last_forward": False,
        "observe_every": 10000, "lr": 2e-2, "balance": 0.0, "weight_decay": 0.0,
    },
}  # fmt: skip
TINY = {
    "T": 3, "L": 1, "network": {"name": "mlp", "width": 16, "depth": 1}, "progress": False,
    "training": {"batch_size": 32, "first_steps": 12, "steps": 10, "trajectories": 64},
}  # fmt: skip


def simulator(theta):
    return linear_gaussian(theta, SHIFT, NOISE)


def small_box(theta):
    return theta + 0.1 * torch.randn_like(theta)


def pairs(problem):
    """All pairs of a problem, in the order of its splits."""
    parts = [problem.pairs(split) for split in ("train", "val", "test")]
    return torch.cat([one.x for one in parts]), torch.cat([one.y for one in parts])


def test_a_linear_gaussian_posterior_is_learned(tmp_path):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    problem = csb.problem(PRIOR, simulator, 10_000)
    posterior = Posterior(csb.fit(problem=problem, **AFFINE, out=tmp_path / "linear").bridge, PRIOR)
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.tensor([2.5, -1.0])
    true = true_posterior_linear_gaussian_mvn_prior(x[None], SHIFT, NOISE, torch.zeros(2), torch.eye(2))
    theta = posterior.sample((4000,), x=x)
    std = true.variance.sqrt()
    assert float(((theta.mean(0) - true.mean) / std).abs().max()) < 0.25
    torch.testing.assert_close(theta.T.cov(), true.covariance_matrix, atol=0.06, rtol=0)


def test_samples_stay_inside_a_prior_with_bounds(tmp_path):
    prior = BoxUniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.1]))
    run = csb.fit(problem=csb.problem(prior, small_box, 500), **TINY, out=tmp_path / "it's a folder")
    posterior = Posterior(run.bridge, prior)
    assert posterior.bridge.transform.name == "reflect"
    theta = posterior.sample_batched((300,), x=torch.tensor([[0.9, 0.1], [-3.0, 5.0]]), reject_outside_prior=False)
    assert bool(prior.support.check(theta).all())


class TestPairs:
    def test_theta_is_x_and_x_is_y(self):
        x, y = pairs(csb.problem(PRIOR, lambda theta: theta.sum(-1, keepdim=True), 300))
        assert x.shape == (300, 2)
        torch.testing.assert_close(y[:, 0], x.sum(1))

    def test_series_are_flattened_and_images_kept(self):
        for inner, kept in (((3, 4), (12,)), ((1, 3, 4), (1, 3, 4))):
            assert csb.problem(PRIOR, lambda theta, i=inner: torch.rand(len(theta), *i), 100).y_shape == kept

    @pytest.mark.parametrize(
        "prior",
        [lambda n: torch.randn(n, 2).numpy(), torch.randn(400, 2), [Normal(0.0, 1.0), Normal(torch.zeros(1), 1)]],
        ids=["function", "draws", "list"],
    )
    def test_priors_of_other_kinds(self, prior):
        x, y = pairs(csb.problem(prior, lambda theta: theta[:, :1], 300))
        assert x.shape == (300, 2)
        torch.testing.assert_close(y, x[:, :1])
        assert 0.8 < float(x.std()) < 1.2

    def test_a_simulator_of_one_theta(self):
        def alone(theta):
            assert theta.shape == (2,)
            return theta.sum()

        x, y = pairs(csb.problem(PRIOR, alone, 200))
        torch.testing.assert_close(y[:, 0], x.sum(1))

    def test_simulations_that_are_not_finite_are_left_out(self, caplog):
        found = csb.problem(PRIOR, lambda theta: torch.where(theta[:, :1] > 1, math.nan, theta), 1000)
        x, _ = pairs(found)
        assert 800 < len(x) < 880  # Φ(1) = .841
        assert float(x[:, 0].max()) <= 1
        assert "left out" in caplog.text
