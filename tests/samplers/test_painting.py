"""RePaint and ILVR against closed forms.

For a Gaussian prior each is a chain of affine maps and Gaussian noise, so that the mean and covariance of its samples
follow from a recursion: not those of the posterior, but the bias that theory predicts. The recursion itself tells what
more resamples come to.
"""

from itertools import pairwise

import pytest
import torch

from csb.errors import CSBError
from csb.problems import LinearGaussian, Mixture, MnistSuperres
from csb.process import Cosine, Grid, LinearBeta, Power, Reference, seeded
from csb.samplers import ILVR, CoPaint, GaussianLikelihood, RePaint, Replacement
from csb.samplers.diffusion import levels
from tests.conftest import ROOT, Moved
from tests.samplers.painting_chains import COARSE, Chain, assert_chain, chain_of, correlated


def conditional(chain):
    """Mean and covariance of z_0 given P z_0 = z̃, for a P of coordinates."""
    seen = chain.P.diagonal() > 0
    gain = chain.S[:, seen] @ torch.linalg.inv(chain.S[seen][:, seen])
    mean = chain.m + gain @ (chain.known - chain.m)[seen]
    return mean, chain.S - gain @ chain.S[seen]


def two(grid, y=1.5):
    """Two coordinates of correlation .9, of which the first is seen."""
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    P = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    return Chain(grid, cov, torch.zeros(2).double(), P, torch.tensor([y, 0.0], dtype=torch.float64))


def unseen_error(chain):
    """|Error of the mean| of the unseen coordinate in posterior deviations, and |variance ratio − 1|."""
    mean, cov = conditional(chain)
    return abs(float((chain.mean - mean)[1] / cov[1, 1].sqrt())), abs(float(chain.cov[1, 1] / cov[1, 1]) - 1)


def settled(chain, sweeps):
    """RePaint's end for U → ∞: the sweeps of the last pair of levels, which forget what came before them."""
    for _ in range(sweeps):
        chain.climb(1, 2)
        chain.descend(2, wide=True)
        chain.replace(1)
    chain.descend(1, wide=True)
    chain.replace(0)
    return chain


class TestTravel:
    def test_the_levels_of_algorithm_1(self):
        assert levels(4, 1, 2) == [4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0]
        assert levels(5, 2, 2) == [5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]
        assert levels(3, 1, 1) == [3, 2, 1, 0]
        assert levels(1, 1, 5) == [1, 0]

    @pytest.mark.parametrize(("T", "j", "U"), [(10, 1, 3), (10, 3, 4), (11, 10, 2), (250, 10, 10)])
    def test_the_count(self, T, j, U):
        path = levels(T, j, U)
        down = [a for a, b in pairwise(path) if b < a]
        assert len(down) == T + (U - 1) * j * ((T - 1) // j)
        reached = 1 + j * ((T - 1) // j)
        assert all(down.count(k) == (U if 1 < k <= reached else 1) for k in range(1, T + 1))

    @pytest.mark.parametrize("method", [RePaint, CoPaint])
    def test_what_does_not_fit(self, method):
        for options, message in (
            ({"jump_length": 5}, "jump_length=5 does not fit in T=5 steps; give at most 4"),
            ({"jump_length": 0}, f"{method.name}.jump_length=0 is not possible"),
            ({"resamples": 1.5}, f"{method.name}.resamples=1.5 is not possible"),
        ):
            with pytest.raises(CSBError, match=message):
                correlated(method, **options)


class TestRePaint:
    @pytest.mark.parametrize(("j", "U"), [(1, 3), (2, 2), (4, 5)])
    def test_samples_follow_the_recursion(self, j, U):
        sampler = correlated(RePaint, jump_length=j, resamples=U)
        assert_chain(sampler, chain_of(sampler).repaint(j, U))
        unlike = chain_of(sampler).repaint(1, 1).mean - chain_of(sampler).repaint(j, U).mean
        assert float(unlike.abs().max()) > 0.05  # ten standard errors

    @pytest.mark.parametrize(
        ("schedule", "T", "U", "bound"),
        [
            (Power(1e-4, 2.0), 40, 20, 0.2),
            pytest.param(LinearBeta(1e-4), 100, 60, 0.06, marks=pytest.mark.nightly),
            pytest.param(Cosine(1e-4), 100, 60, 0.06, marks=pytest.mark.nightly),
            pytest.param(Power(1e-4, 2.0), 100, 60, 0.06, marks=pytest.mark.nightly),
        ],
        ids=repr,
    )
    def test_more_resamples_come_nearer_to_the_conditional(self, schedule, T, U, bound):
        grid = Grid.from_schedule(schedule, T)
        errors = [unseen_error(two(grid).repaint(1, each)) for each in (1, 2, 5, 20, 60) if each <= U]
        for one, more in pairwise(errors):
            assert more[0] < 0.8 * one[0]
            assert more[1] < 0.8 * one[1]
        assert errors[0][0] > 0.9  # without them, a posterior deviation off
        assert max(errors[-1]) < bound

    def test_what_is_left_falls_with_the_noise_of_the_first_levels(self):
        left = [unseen_error(settled(two(Grid.from_schedule(Power(1e-4, 2.0), T)), 400)) for T in (20, 40, 80)]
        for coarse, fine in pairwise(left):
            assert fine[0] < 0.35 * coarse[0]  # 1−ᾱ_2 falls fourfold
            assert fine[1] < 0.35 * coarse[1]

    @pytest.mark.parametrize("T", [50, pytest.param(100, marks=pytest.mark.nightly)])
    def test_longer_jumps_stop_further_away(self, T):
        grid, U = Grid.from_schedule(LinearBeta(1e-4), T), T // 5
        errors = [unseen_error(two(grid).repaint(j, U)) for j in (1, 5, 10, 20) if j <= U]
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(errors))

    def test_the_table_of_the_documentation(self):
        page = (ROOT / "docs/pages/methods/repaint.md").read_text()
        grid = Grid.from_schedule(LinearBeta(1e-4), 100)
        mean, cov = conditional(two(grid))
        for U in (1, 2, 5, 10, 50):
            row = f"| {U} |"
            for j in (1, 10):
                chain = two(grid).repaint(j, U)
                error, ratio = (chain.mean - mean)[1] / cov[1, 1].sqrt(), chain.cov[1, 1] / cov[1, 1]
                row += f" {float(error):.3f} | {float(ratio):.3f} |"
            print(row)
            assert row in page

    def test_with_the_narrow_step_the_variance_settles_too_low(self):
        """β̃_k in place of β_k: the last level's sweeps end at about (1 + β̃_2/β_2)/2 of the conditional's variance."""

        class Narrow(Chain):
            def descend(self, k, wide=False):
                super().descend(k)

        grid = Grid.from_schedule(LinearBeta(1e-4), 400)
        chain = two(grid)
        narrow = settled(Narrow(grid, chain.S, chain.m, chain.P, chain.known), 3000)
        share = float(narrow.cov[1, 1] / conditional(chain)[1][1, 1])
        ratio = float(Reference(grid).pinned_start(2).var / grid.beta[2])
        assert abs(share - (1 + ratio) / 2) < 0.03


class TestILVR:
    @pytest.mark.parametrize("until", [0.0, 0.5, 1.0])
    def test_samples_follow_the_recursion(self, until):
        sampler = correlated(ILVR, until=until)
        assert_chain(sampler, chain_of(sampler).ilvr(until))

    def test_it_conditions_after_the_step_and_replacement_before_it(self):
        """On one grid the two differ in z_T alone: by far on a short horizon, not at all on a long one."""
        brief = Grid.from_schedule(Power(0.5, 2.0), 2)
        short, long = correlated(ILVR, grid=brief), correlated(ILVR, grid=Grid.from_schedule(Power(1e-6, 2.0), 20))
        here, there = chain_of(short).ilvr(0), chain_of(short).replacement()
        assert float((here.mean - there.mean).abs().max()) > 0.05  # ten standard errors
        assert_chain(correlated(Replacement, grid=brief), there)
        with pytest.raises(AssertionError):
            assert_chain(short, there)
        here, there = chain_of(long).ilvr(0), chain_of(long).replacement()
        torch.testing.assert_close(here.mean, there.mean, rtol=0, atol=1e-3)
        torch.testing.assert_close(here.cov, there.cov, rtol=0, atol=1e-3)

    def test_where_it_should_stop_for_a_noisy_observation(self):
        """Stopped at noise ν = (1−ᾱ)/ᾱ, a prior of variance v takes y as if of noise ν, and adds it once more."""
        grid, v, k = Grid.from_schedule(LinearBeta(1e-4), 400), 0.8, 80
        eye, P = torch.eye(2).double(), torch.diag(torch.tensor([1.0, 0.0]).double())
        chain = Chain(grid, v * eye, torch.zeros(2).double(), P, torch.tensor([3.0, 0.0]).double()).ilvr(k / 400)
        noise = float((1 - grid.alpha_bar[k - 1]) / grid.alpha_bar[k - 1])
        gain = v / (v + noise)
        assert 0.1 < gain < 0.9
        assert float(chain.mean[0]) == pytest.approx(3.0 * gain, rel=0.02)
        assert float(chain.cov[0, 0]) == pytest.approx(gain * noise * (1 + gain), rel=0.03)

    def test_for_super_resolution_the_filter_is_the_mean_of_blocks(self):
        problem = MnistSuperres(factor=4)
        flat = Mixture.isotropic(784, 1.0)
        denoiser = Moved(flat, 0.2, 0.5)
        denoiser.shift = denoiser.shift.reshape(1, 28, 28)
        sampler = ILVR(denoiser, GaussianLikelihood(problem.operator, 0.1), COARSE)
        x = torch.rand(2, 1, 28, 28, generator=seeded(1))
        blocks = x.reshape(2, 1, 7, 4, 7, 4).mean((3, 5), keepdim=True).expand(2, 1, 7, 4, 7, 4).reshape(x.shape)
        torch.testing.assert_close(sampler.project(x), blocks)


@pytest.mark.parametrize("method", [RePaint, ILVR])
def test_they_need_a_projection(method):
    problem, denoiser = LinearGaussian(dx=3, dy=2), correlated(method).denoiser
    likelihood = GaussianLikelihood.of(problem, denoiser, problem.pairs("train", 10))
    with pytest.raises(CSBError, match=rf"A A\* of linear_gaussian is not a multiple of the identity; {method.label}"):
        method(denoiser, likelihood, COARSE)
