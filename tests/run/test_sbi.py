"""Bridges as posteriors of the package sbi: its diagnostics tell a calibrated one from one that is not."""

import math

import numpy as np
import pytest
import torch
import torch.distributions as dist

pytest.importorskip("sbi")
from sbi.analysis import pairplot, plot_tarp, sbc_rank_plot
from sbi.diagnostics import check_tarp, get_nltp, run_sbc, run_tarp
from sbi.diagnostics.sbc import check_uniformity_frequentist
from sbi.inference.posteriors.base_posterior import NeuralPosterior
from sbi.simulators.linear_gaussian import linear_gaussian, true_posterior_linear_gaussian_mvn_prior
from sbi.utils import BoxUniform
from sbi.utils.user_input_checks import process_prior
from sbi.utils.user_input_checks_utils import MultipleIndependent

import csb
from csb import sbi as package
from csb.errors import CSBError
from csb.problems.gaussian_ipf import AffineKernel
from csb.runs.presets import PRESETS
from csb.runs.prior import draws_needed, prior_bounds, require_volume
from csb.sbi import Posterior
from tests.conftest import make_exact_bridge, make_untrained_bridge, set_affine

N, SAMPLES = 200, 100
GAP = 1.73 / N**0.5  # of a cumulative distribution from the true one: exceeded with probability .005 (Kolmogorov)
pytestmark = pytest.mark.filterwarnings("ignore:.*FigureCanvasAgg is non-interactive:UserWarning")


def law(exact, y):
    """The posteriors that an exact bridge draws from, at y (B, 2)."""
    return dist.MultivariateNormal(y @ exact.G.T.float() + exact.g.float(), exact.C.float())


def box(low, high):
    return BoxUniform(torch.full((2,), low), torch.full((2,), high))


@pytest.fixture(scope="module")
def exact():
    return make_exact_bridge("full", iterations=20)


@pytest.fixture(scope="module")
def truth(exact):
    """theta and x to calibrate on: any law of x will do, with theta from the posterior."""
    torch.manual_seed(5)
    x = torch.randn(N, 2)
    return law(exact, x).sample(), x


def diagnosed(bridge, truth, batched=True):
    """The p-values of SBC, and the largest distance of TARP's expected coverage from the diagonal."""
    torch.manual_seed(6)
    own = {"show_progress_bar": False, "use_batched_sampling": batched}
    ranks, dap = run_sbc(*truth, Posterior(bridge), SAMPLES, **own)
    assert ranks.shape == dap.shape == (N, 2)
    torch.manual_seed(7)
    ecp, alpha = run_tarp(*truth, Posterior(bridge), num_posterior_samples=SAMPLES, num_bins=20, **own)
    assert check_tarp(ecp, alpha)[1] > 0  # which takes what run_tarp returned
    assert sbc_rank_plot(ranks, SAMPLES)[0].axes
    assert plot_tarp(ecp, alpha)[0].axes
    return check_uniformity_frequentist(ranks, SAMPLES), float((ecp - alpha).abs().max())


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "one by one"])
def test_the_exact_posterior_passes(exact, truth, batched, recwarn):
    p, gap = diagnosed(exact.bridge, truth, batched)
    assert float(p.min()) > 1e-3
    assert gap < GAP
    assert not [w for w in recwarn if "not implemented" in str(w.message).lower()]  # no falling back


def test_an_overconfident_one_fails(truth):
    """Kernels of a fiftieth of the right covariance: a fifth of the variance of the posterior."""
    narrow = make_exact_bridge("full", iterations=20)
    kernels = tuple(AffineKernel(M, N, c, 0.02 * S) for M, N, c, S in narrow.steps[-2].kernels)
    set_affine(narrow.bridge, "backward", kernels)
    p, gap = diagnosed(narrow.bridge, truth)
    assert float(p.max()) < 1e-3
    assert gap > 1.2 * GAP


class TestSamples:
    def test_shapes_of_sbi(self, exact):
        posterior, x = Posterior(exact.bridge), torch.tensor([0.3, -1.0])
        assert isinstance(posterior, NeuralPosterior)
        for shape in ((), (4,), (2, 3)):
            assert posterior.sample(shape, x=x).shape == (*shape, 2)
            assert posterior.sample(torch.Size(shape), x=x[None]).shape == (*shape, 2)
            assert posterior.sample_batched(shape, x=torch.randn(5, 2)).shape == (*shape, 5, 2)

    def test_each_sample_belongs_to_its_observation(self, exact):
        x = torch.tensor([[5.0, 0.0], [-5.0, 3.0], [0.0, 9.0]])
        theta = Posterior(exact.bridge).sample_batched((40, 50), x=x)
        torch.testing.assert_close(theta.mean((0, 1)), law(exact, x).mean, atol=0.1, rtol=0)

    def test_default_x_and_the_global_generator(self, exact):
        posterior = Posterior(exact.bridge)
        with pytest.raises(ValueError, match="default"):
            posterior.sample((5,))
        assert posterior.set_default_x(torch.tensor([9.0, 9.0])) is posterior
        torch.manual_seed(3)
        first, other = posterior.sample((2000,)), posterior.sample((2000,))
        expected = law(exact, torch.tensor([[9.0, 9.0]])).mean[0]
        torch.testing.assert_close(first.mean(0), expected, atol=0.1, rtol=0)
        torch.manual_seed(3)
        assert torch.equal(posterior.to("cpu").sample((2000,)), first)
        assert pairplot(first[:50])[0].axes
        assert not torch.equal(first, other)

    def test_what_is_refused(self, exact):
        posterior, masked = Posterior(exact.bridge), np.ma.array([0.0, 1.0], mask=[0, 1])
        missing = r"x holds NaN or infinite values, \d as float32, in column 1"
        for call, message in (
            (lambda: posterior.sample((5,), x=torch.zeros(3)), "x has shape"),
            (lambda: posterior.sample((5,), x=torch.zeros(())), "x has shape"),
            (lambda: posterior.sample((5,), x=torch.zeros(2, 2)), "x holds 2 observations; use the batched method"),
            (lambda: posterior.sample((2,), x=masked), missing),
            (lambda: posterior.sample_batched((2,), np.ma.stack([masked, masked])), missing),
            (lambda: posterior.log_prob(torch.zeros(2), x=masked), missing),
            (lambda: posterior.log_prob(torch.zeros(3), torch.zeros(2)), "theta holds 3 numbers"),
            (lambda: posterior.sample(5, x=torch.zeros(2)), "sample_shape=5 is no tuple"),
            (lambda: posterior.sample((-1,), x=torch.zeros(2)), "sample_shape="),
        ):
            with pytest.raises(CSBError, match=message):
                call()

    def test_a_simulator_may_return_arrays_that_the_bridge_saw_flattened(self):
        posterior = Posterior(make_untrained_bridge(3, 6))
        x = torch.randn(4, 2, 3)
        torch.manual_seed(0)
        theta = posterior.sample_batched((7,), x=x)
        torch.manual_seed(0)
        assert torch.equal(posterior.sample_batched((7,), x=x.flatten(1)), theta)
        assert posterior.sample((7,), x=x[0]).shape == (7, 3)

    def test_samples_outside_the_prior_are_drawn_again(self, exact):
        prior = box(0.0, 4.0)
        x = torch.tensor([[0.0, 0.0], [1.0, 0.5]])
        free = Posterior(exact.bridge).sample_batched((20_000,), x=x)
        inside = ((free >= 0) & (free <= 4)).all(-1)
        assert 0.05 < float(inside.float().mean()) < 0.9
        theta = Posterior(exact.bridge, prior).sample_batched((4000,), x=x)
        assert theta.shape == (4000, 2, 2)
        assert bool(prior.support.check(theta).all())
        for i in range(2):
            torch.testing.assert_close(theta[:, i].mean(0), free[inside[:, i], i].mean(0), atol=0.04, rtol=0)
        kept = Posterior(exact.bridge, prior).sample_batched((500,), x=x, reject_outside_prior=False)
        assert not bool(prior.support.check(kept).all())

    def test_none_are_none(self, exact):
        for prior in (None, box(-1.0, 1.0)):
            posterior = Posterior(exact.bridge, prior)
            assert posterior.sample((0,), x=torch.zeros(2)).shape == (0, 2)
            assert posterior.sample((3, 0), x=torch.zeros(2)).shape == (3, 0, 2)
            assert posterior.sample_batched((0,), x=torch.zeros(4, 2)).shape == (0, 4, 2)

    def test_drawing_again_ends_where_none_or_few_lie_inside(self, exact):
        """And says how many of how many did, of which observation."""
        torch.manual_seed(5)
        x = torch.zeros(2, 2)
        x[0] = torch.linalg.solve(exact.G.float(), 50.5 - exact.g.float())  # whose posterior lies around (50.5, 50.5)
        with pytest.raises(CSBError, match=r"^0 of 1\d{4} samples of observation 1 lie .*bounds.*reject_outside_prior"):
            Posterior(exact.bridge, box(50.0, 51.0)).sample_batched((5,), x=x)
        mean, std = law(exact, x[1:]).mean[0], law(exact, x[1:]).variance[0].sqrt()
        rare = BoxUniform(mean + 3.5 * std, mean + 9 * std)  # less than one in 4,000
        with pytest.raises(CSBError, match=r"^\d of 1\d{4} samples of observation 0"):
            Posterior(exact.bridge, rare).sample((5,), x=x[1])
        with pytest.raises(CSBError, match=r"samples of observation 0 lie in the prior's support after 0 s"):
            Posterior(exact.bridge, rare).sample((5,), x=x[1], max_sampling_time=0.0)


class TestDensity:
    @pytest.fixture
    def dense(self):
        """A bridge whose density is exact."""
        made = make_exact_bridge("full", iterations=20)

        def log_prob(x, y, n=64, generator=None):
            return law(made, y[:, None] if x.ndim == 3 else y).log_prob(x)

        made.bridge.__dict__["log_prob"] = log_prob
        return made

    def test_one_and_many_observations(self, dense):
        posterior, theta, x = Posterior(dense.bridge), torch.randn(4, 3, 2), torch.randn(3, 2)
        batched = posterior.log_prob_batched(theta, x)
        torch.testing.assert_close(batched, law(dense, x).log_prob(theta))
        torch.testing.assert_close(posterior.log_prob(theta[:, 1], x[1]), batched[:, 1])
        torch.testing.assert_close(posterior.log_prob(theta[0, 1], x[1]), batched[:1, 1])
        torch.testing.assert_close(posterior.potential(theta[:, 1], x[1]), batched[:, 1])
        with pytest.warns(UserWarning, match="not normalized"):  # sbi's remark on all but its own classes
            torch.testing.assert_close(get_nltp(theta[0], x, posterior), -batched[0])

    def test_a_prior_cuts_and_normalises(self, dense):
        torch.manual_seed(4)
        prior = box(0.0, 4.0)
        posterior, x = Posterior(dense.bridge, prior), torch.tensor([1.0, 0.5])
        theta = torch.tensor([[0.5, 0.5], [-0.5, 0.5]])
        free = Posterior(dense.bridge).log_prob(theta, x)
        cut = posterior.log_prob(theta, x)
        assert float(cut[1]) == -math.inf
        grid = torch.cartesian_prod(*[torch.linspace(0.01, 3.99, 200)] * 2)  # midpoints
        share = Posterior(dense.bridge).log_prob(grid, x).exp().sum() * (4 / 200) ** 2
        assert float(cut[0] - free[0]) == pytest.approx(-math.log(float(share)), abs=0.06)
        assert float(posterior.log_prob(theta, x, norm_posterior=False)[0]) == float(free[0])

    def test_no_sample_inside_the_prior_is_a_share_of_one_in_ten_thousand(self, dense, caplog):
        torch.manual_seed(6)
        posterior, x = Posterior(dense.bridge, box(20.0, 21.0)), torch.zeros(2, 2)
        x[1] = torch.linalg.solve(dense.G.float(), 20.5 - dense.g.float())  # whose posterior lies inside
        theta = torch.tensor([[20.5, 20.5], [0.0, 0.0]])
        inside, outside = posterior.log_prob(theta, x[0])
        assert float(outside) == -math.inf
        assert float(inside) == pytest.approx(float(Posterior(dense.bridge).log_prob(theta[0], x[0])) + math.log(1e4))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "none of 10000 samples of observation 0" in caplog.text
        both = posterior.log_prob_batched(theta[:1, None].expand(-1, 2, -1), x)[0]
        assert float(both[0]) == float(inside)
        assert -3 < float(both[1] - Posterior(dense.bridge).log_prob(theta[0], x[1])[0]) < 3

    def test_what_is_not_there_is_said(self, dense):
        posterior, theta, x = Posterior(dense.bridge), torch.zeros(2), torch.zeros(2)
        with pytest.raises(NotImplementedError, match="track_gradients=False"):
            posterior.log_prob(theta, x, track_gradients=True)
        with pytest.raises(NotImplementedError, match="no gradient"):
            posterior.set_default_x(x).map()


def test_bounds():
    zero, one = torch.zeros(1), torch.ones(1)
    several = MultipleIndependent([dist.Normal(zero, one), BoxUniform(torch.zeros(2), torch.ones(2))])
    for prior, dim, bounds in (
        (BoxUniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0])), 2, ([-1, 0], [1, 5])),
        (dist.Uniform(zero, one), 1, ([0], [1])),
        (dist.Exponential(one), 1, ([0], [None])),
        (several, 3, ([None, 0, 0], [None, 1, 1])),
        (dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), 2, None),
    ):
        assert prior_bounds(prior, dim) == bounds, prior
    with pytest.raises(CSBError, match="Dirichlet is no box; give bounds"):
        prior_bounds(dist.Dirichlet(torch.ones(3)), 3)


class Hidden:
    """A prior of a user's, of which only draws are known."""

    def __init__(self, draw):
        self.sample = lambda shape=(): draw(torch.Size(shape))

    def log_prob(self, theta):
        return torch.zeros(theta.shape[:-1])


def normal(shape, *size):
    return torch.randn(*shape, *size)


ONE, TWO, THREE = torch.ones(1), torch.ones(2), torch.ones(3)
COUNTS = dist.MixtureSameFamily(dist.Categorical(TWO), dist.Independent(dist.Poisson(torch.ones(2, 3)), 1))
WITHOUT = [
    (dist.Dirichlet(THREE), "Dirichlet has no density.*simplex.*stick-breaking"),
    ([dist.Dirichlet(THREE), dist.Normal(0 * ONE, ONE)], "simplex.*stick-breaking"),
    (dist.Categorical(torch.ones(1, 3)), "Categorical has no density.*whole numbers.*uniform noise"),
    (dist.Independent(dist.Poisson(9 * TWO), 1), "whole numbers.*uniform noise"),
    ([dist.Normal(0 * ONE, ONE), dist.Poisson(9 * ONE)], "coordinate 1 .*whole numbers"),
    (COUNTS, "whole numbers"),
]
HIDDEN = [
    (lambda s: dist.Dirichlet(THREE).sample(s), "span 2 of 3 dimensions; give it 2 free"),
    (lambda s: normal(s, 1).expand(*s, 2) * torch.tensor([1.0, -2.0]), "span 1 of 2 dimensions"),
    (lambda s: torch.poisson(1e4 * torch.ones(*s, 1)), "coordinate 0 .*whole numbers"),
    (lambda s: torch.tensor([0.1, 0.2, 0.7])[torch.randint(3, (*s, 1))], "coordinate 0 .*few values"),
    (lambda s: torch.cat([normal(s, 1), torch.full((*s, 1), 2.0)], -1), "coordinate 1 .*always 2"),
]  # fmt: skip
WITH = {
    "seconds since 1970": lambda s: 1.7e9 + 3e3 * normal(s, 1),  # which float32 rounds to 128 s
    "large": lambda s: 1e9 * normal(s, 2),  # floats that are all whole
    "over decades": lambda s: 10 ** (9 * torch.rand(*s, 2)),
    "nearly equal": lambda s: normal(s, 1) + 1e-3 * normal(s, 3),
    "mass at a value": lambda s: normal(s, 2) * (torch.rand(*s, 2) < 0.5),
    "many coordinates": lambda s: normal(s, 300),
}


@pytest.mark.filterwarnings("ignore:.*(Prior is lacking|prior bounds|Prior was provided):UserWarning")
class TestPriorsWithoutVolume:
    @pytest.mark.parametrize(("prior", "match"), WITHOUT)
    def test_the_support_tells(self, exact, prior, match):
        """Before anything is simulated, and where a prior is put beside a bridge."""
        with pytest.raises(CSBError, match=match) as error:
            csb.problem(prior, lambda theta: theta / 0, 500)
        assert "\n" not in str(error.value)
        with pytest.raises(CSBError, match="has no density"):
            Posterior(exact.bridge, process_prior(prior)[0])

    @pytest.mark.parametrize(("draw", "match"), HIDDEN)
    def test_draws_tell_what_a_wrapper_hides(self, draw, match):
        with pytest.raises(CSBError, match=match):
            csb.problem(process_prior(Hidden(draw))[0], lambda theta: theta, 500)

    @pytest.mark.parametrize("draw", WITH.values(), ids=WITH)
    def test_what_has_one_is_taken(self, draw):
        torch.manual_seed(7)
        require_volume(Hidden(draw), draw(torch.Size([draws_needed(300)])))


def test_a_missing_package_or_version_is_told_in_one_line(monkeypatch):
    with pytest.raises(AttributeError, match="posteriors"):
        _ = package.posteriors
    monkeypatch.setattr(package.metadata, "version", lambda name: "0.24.0")
    with pytest.raises(CSBError, match=r"sbi 0\.24\.0 is installed and csb needs 0\.27"):
        _ = package.Posterior

    def missing(name):
        raise package.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(package.metadata, "version", missing)
    with pytest.raises(CSBError, match=r"not installed; pip install -e '\.\[sbi\]'"):
        _ = package.Posterior


PRIOR = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
NOISE, SHIFT = torch.tensor([[0.5, 0.2], [0.2, 0.4]]), torch.tensor([1.0, -2.0])
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


class TestTrained:
    """From a prior and a simulator of sbi to a posterior."""

    def test_a_linear_gaussian_posterior_is_learned(self, tmp_path):
        torch.manual_seed(11)
        state = torch.get_rng_state()
        problem = csb.problem(PRIOR, lambda theta: linear_gaussian(theta, SHIFT, NOISE), 10_000)
        posterior = Posterior(csb.fit(problem=problem, **AFFINE, out=tmp_path / "linear").bridge, PRIOR)
        assert torch.equal(torch.get_rng_state(), state)
        x = torch.tensor([2.5, -1.0])
        true = true_posterior_linear_gaussian_mvn_prior(x[None], SHIFT, NOISE, torch.zeros(2), torch.eye(2))
        theta = posterior.sample((4000,), x=x)
        assert float(((theta.mean(0) - true.mean) / true.variance.sqrt()).abs().max()) < 0.25
        torch.testing.assert_close(theta.T.cov(), true.covariance_matrix, atol=0.06, rtol=0)

    def test_samples_stay_inside_a_prior_with_bounds(self, tmp_path):
        prior = BoxUniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.1]))
        problem = csb.problem(prior, lambda theta: theta + 0.1 * torch.randn_like(theta), 500)
        posterior = Posterior(csb.fit(problem=problem, **TINY, out=tmp_path / "it's a folder").bridge, prior)
        assert posterior.bridge.transform.name == "reflect"
        x = torch.tensor([[0.9, 0.1], [-3.0, 5.0]])
        assert bool(prior.support.check(posterior.sample_batched((300,), x, reject_outside_prior=False)).all())
