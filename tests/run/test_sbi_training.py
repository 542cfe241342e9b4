"""From priors and simulators of sbi to trained posteriors."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

pytest.importorskip("sbi")
from sbi.simulators.linear_gaussian import linear_gaussian, true_posterior_linear_gaussian_mvn_prior
from sbi.utils import BoxUniform

from csb.errors import CSBError
from csb.runs.load import load_run
from csb.sbi import pairs_from, train_posterior

PRIOR = MultivariateNormal(torch.zeros(2), torch.eye(2))
NOISE = torch.tensor([[0.5, 0.2], [0.2, 0.4]])
SHIFT = torch.tensor([1.0, -2.0])
AFFINE = [
    "network=affine", "objective=likelihood_full", "process=power", "process.alpha_bar_end=0.01", "process.power=2",
    "ipf=gaussian", "trainer=default", "optimizer.lr=2e-2", "optimizer.balance=0", "optimizer.weight_decay=0", "L=1",
    "T=3", "progress=false", "logger=none", "ipf.batch_size=512", "ipf.first_steps=400", "ipf.refresh=400",
    "ipf.last_forward=false", "ipf.observe_every=10000", "metrics.samples=16", "metrics.picture_rows=2",
]  # fmt: skip
TINY = [
    "network.options={width: 16, depth: 1}", "L=1", "T=3", "progress=false", "logger=none", "ipf.batch_size=32",
    "ipf.first_steps=12", "ipf.steps=10", "ipf.trajectories=64", "metrics.samples=8", "metrics.picture_rows=2",
]  # fmt: skip


def simulator(theta):
    return linear_gaussian(theta, SHIFT, NOISE)


def small_box(theta):
    return theta + 0.1 * torch.randn_like(theta)


def test_a_linear_gaussian_posterior_is_learned(tmp_path):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    posterior = train_posterior(PRIOR, simulator, 10_000, overrides=AFFINE, out=tmp_path, name="linear")
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.tensor([2.5, -1.0])
    true = true_posterior_linear_gaussian_mvn_prior(x[None], SHIFT, NOISE, torch.zeros(2), torch.eye(2))
    theta = posterior.sample((4000,), x=x)
    std = true.variance.sqrt()
    assert float(((theta.mean(0) - true.mean) / std).abs().max()) < 0.25
    torch.testing.assert_close(theta.T.cov(), true.covariance_matrix, atol=0.06, rtol=0)
    again = load_run(tmp_path / "linear")
    assert again.problem.path == str(tmp_path / "linear.npz")
    with pytest.raises(CSBError, match="already holds a run"):
        train_posterior(PRIOR, simulator, 10_000, overrides=AFFINE, out=tmp_path, name="linear")


def test_samples_stay_inside_a_prior_with_bounds(tmp_path):
    out = tmp_path / "it's a folder"
    prior = BoxUniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.1]))
    posterior = train_posterior(prior, small_box, 500, overrides=TINY, out=out)
    assert posterior.bridge.transform.name == "reflect"
    assert posterior.prior is prior
    theta = posterior.sample_batched((300,), x=torch.tensor([[0.9, 0.1], [-3.0, 5.0]]), reject_outside_prior=False)
    assert bool(prior.support.check(theta).all())


def test_bad_overrides_are_told_before_the_simulation(tmp_path):
    calls = []

    def counted(theta):
        calls.append(len(theta))
        return simulator(theta)

    for overrides, match in (
        (["L=0"], "L=0"),
        (["no_such=1"], "no_such"),
        (["out=elsewhere"], "train_posterior sets itself"),
        (["stage=flow"], "trains no bridge"),
        (["problem.transform=probit"], "needs the bounds"),
    ):
        with pytest.raises(CSBError, match=match):
            train_posterior(PRIOR, counted, 5000, overrides=[*TINY, *overrides], out=tmp_path)
    assert sum(calls) < 50
    assert not list(tmp_path.glob("*.npz"))


class TestPairs:
    def read(self, path):
        with np.load(path) as file:
            return file["x"], file["y"]

    def test_theta_is_x_and_x_is_y(self, tmp_path):
        _, path = pairs_from(PRIOR, lambda theta: theta.sum(-1, keepdim=True), 300, tmp_path / "new" / "p.npz")
        x, y = self.read(path)
        assert x.shape == (300, 2)
        np.testing.assert_allclose(y[:, 0], x.sum(1), rtol=1e-6)

    def test_the_seed_decides(self, tmp_path):
        made = [self.read(pairs_from(PRIOR, simulator, 200, tmp_path / "p.npz", seed=s)[1]) for s in (1, 1, 2)]
        np.testing.assert_array_equal(made[0][1], made[1][1])
        assert not np.array_equal(made[0][0], made[2][0])

    def test_series_are_flattened_and_images_kept(self, tmp_path):
        for inner, kept in (((3, 4), (12,)), ((1, 3, 4), (1, 3, 4))):
            _, path = pairs_from(PRIOR, lambda theta, i=inner: torch.ones(len(theta), *i), 100, tmp_path / "p.npz")
            assert self.read(path)[1].shape == (100, *kept)

    def test_simulations_that_failed_are_left_out(self, tmp_path, caplog):
        def failing(theta):
            return torch.where(theta[:, :1] > 1, math.nan, theta)

        x, _ = self.read(pairs_from(PRIOR, failing, 1000, tmp_path / "p.npz")[1])
        assert 800 < len(x) < 880  # Φ(1) = .841
        assert float(x[:, 0].max()) <= 1
        assert "left out" in caplog.text
        with pytest.raises(CSBError, match="0 of 200 simulated x are finite"):
            pairs_from(PRIOR, lambda theta: theta * math.nan, 200, tmp_path / "p.npz")
        with pytest.raises(CSBError, match="n=50"):
            pairs_from(PRIOR, simulator, 50, tmp_path / "p.npz")
