"""Fewer steps: skips against the composition of exact kernels, and what sampling by skips promises."""

from itertools import pairwise

import pytest
import torch

from csb.bridge.kernel import COVARIANCES
from csb.bridge.paths import Skip, planned_calls, timesteps_of
from csb.bridge.transitions import DiagonalGaussian, FullGaussian, LowRankGaussian
from csb.errors import CSBError
from csb.problems.gaussian_ipf import AffineGaussian, AffineKernel, compose, coupling, exact_ipf
from csb.process import Grid, Power, Reference, seeded
from tests.bridge.test_bridge import N, Y, assert_laws
from tests.conftest import make_exact_bridge, make_untrained_bridge, mixture_of, unpacked

SKIP = Skip(scale=0.3, gain=1.7, removed=0.2, added=0.05)
EYE = torch.eye(2).double()


def spread(law, x, skip, first=()):
    """Mean and covariance of a law's skips, from draws at unit vectors of noise after the ``first`` numbers."""
    size = law.mean[0].numel() + (law.low.shape[2] if isinstance(law, LowRankGaussian) else 0)
    start = torch.tensor(first).expand(len(x), -1)
    mean, *ends = (law.skip(x, skip, torch.cat([start, unit.expand(len(x), -1)], 1)) for unit in
                   torch.cat([torch.zeros(1, size), torch.eye(size)]))  # fmt: skip
    factor = torch.stack([end - mean for end in ends], dim=2)
    return mean, factor @ factor.mT


def clipped(cov, skip):
    values, vectors = torch.linalg.eigh(cov - skip.removed * torch.eye(cov.shape[1]))
    return skip.gain**2 * (vectors * values.clamp_min(0)[:, None]) @ vectors.mT + skip.added * torch.eye(cov.shape[1])


def random_full(B, d, low, high, seed=0):
    """Full laws whose covariances have eigenvalues in (low, high)."""
    g = seeded(seed)
    Q = torch.linalg.qr(torch.randn(B, d, d, generator=g)).Q
    cov = (Q * (low + (high - low) * torch.rand(B, d, generator=g))[:, None]) @ Q.mT
    return FullGaussian(torch.randn(B, d, generator=g), *unpacked(torch.linalg.inv(torch.linalg.cholesky(cov)))), cov


class TestLaws:
    X, LOW = torch.randn(5, 3, generator=seeded(9)), torch.randn(5, 3, 2, generator=seeded(2))

    @pytest.mark.parametrize("skip", [SKIP, SKIP._replace(added=0.0)])
    @pytest.mark.parametrize("low", [0.25, 0.01])  # above and around what is taken out
    def test_full(self, skip, low):
        law, cov = random_full(5, 3, low, 0.5)
        mean, found = spread(law, self.X, skip)
        torch.testing.assert_close(mean, 0.3 * self.X + 1.7 * law.mean)
        torch.testing.assert_close(found, clipped(cov, skip), atol=1e-5, rtol=1e-4)
        if low == 0.01:
            assert bool((torch.linalg.eigvalsh(cov)[:, 0] < skip.removed).any())  # something was cut

    def test_diagonal(self):
        law = DiagonalGaussian(self.X + 1, torch.tensor([0.1, 0.2, 0.6]).expand(5, 3))
        mean, found = spread(law, self.X, SKIP)
        torch.testing.assert_close(mean, 0.3 * self.X + 1.7 * (self.X + 1))
        torch.testing.assert_close(found, clipped(law.covariance(), SKIP))

    @pytest.mark.parametrize("var", [[0.21, 0.3, 0.6], [0.05, 0.1, 0.6], [0.1, 0.1, 0.1]], ids=str)
    def test_low_rank(self, var):
        """Exact where the diagonal suffices; else the variances are kept, without a low-rank part as far as they go."""
        low = self.LOW * (max(var) > 0.1)
        law = LowRankGaussian(self.X, torch.tensor(var).expand(5, 3), low)
        _, found = spread(law, self.X, SKIP)
        if min(var) > SKIP.removed or max(var) <= SKIP.removed:
            torch.testing.assert_close(found, clipped(law.covariance(), SKIP), atol=1e-5, rtol=1e-4)
        expected = SKIP.gain**2 * (law.covariance().diagonal(dim1=1, dim2=2) - SKIP.removed).clamp_min(0) + SKIP.added
        torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), expected)

    def test_mixture_component_by_component(self):
        parts = [random_full(5, 3, 0.1, 0.5, seed) for seed in (1, 2)]
        log_weights = torch.tensor([0.3, 0.7]).log().expand(5, 2)
        law = mixture_of(
            log_weights, *(torch.stack([getattr(part, of) for part, _ in parts], 1) for of in ("mean", "rows", "var"))
        )
        for level, (part, cov) in zip((-2.0, 2.0), parts):  # Φ(−2) lies below the first weight, Φ(2) above
            mean, found = spread(law, self.X, SKIP, (level,))
            torch.testing.assert_close(mean, SKIP.mean(self.X, part.mean))
            torch.testing.assert_close(found, clipped(cov, SKIP), atol=1e-5, rtol=1e-4)


def skipped(kernel: AffineKernel, skip: Skip) -> AffineKernel:
    """What a skip makes of an affine kernel."""
    M = skip.scale * EYE + skip.gain * kernel.M
    S = skip.gain**2 * (kernel.S - skip.removed * EYE) + skip.added * EYE
    return AffineKernel(M, skip.gain * kernel.N, skip.gain * kernel.c, S)


class TestAgainstClosedForms:
    @pytest.mark.parametrize("iterations", [1, 2, 8])
    @pytest.mark.parametrize("direction", ["backward", "forward"])
    def test_a_skip_is_the_composition_of_the_steps_it_replaces(self, iterations, direction):
        exact = make_exact_bridge("full", iterations, T=5)
        kernels = exact.steps[-2 if direction == "backward" else -1].kernels
        turn = -1 if direction == "backward" else 1
        for timesteps in ([0, 5], [0, 2, 5], [0, 1, 4, 5], [0, 3, 4, 5]):
            path = list(pairwise(timesteps))[::turn]
            for (low, high), (k, skip) in zip(path, planned_calls(exact.grid, direction, timesteps), strict=True):
                assert k == (high if direction == "backward" else low + 1)
                assert (skip is None) == (high - low == 1)
                found = kernels[k - 1] if skip is None else skipped(kernels[k - 1], skip)
                for one, two in zip(found, compose(kernels[low:high][::turn])):
                    torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)

    @pytest.mark.parametrize("iterations", [1, 2, 3])
    def test_in_bridge_matching_a_skip_is_the_law_of_two_times_of_the_pinned_paths(self, iterations):
        exact = make_exact_bridge("full", 1, T=4)
        grid, reference = exact.grid, Reference(exact.grid)
        steps = exact_ipf(grid, exact.G, exact.g, exact.C, iterations, "bridge_matching")
        scale, var = reference.marginal(4)
        forward = AffineKernel(scale * EYE, 0 * exact.G, 0 * exact.g, var * EYE)
        if iterations > 1:
            forward = compose(steps[-3].kernels)
        ends = coupling(AffineGaussian(exact.G, exact.g, exact.C), forward, True)
        for k, j in ((4, 2), (4, 0), (3, 1)):
            both = reference.pinned_both(k)
            at = torch.cat([both.near * EYE, both.far * EYE], 1)  # x_k of the ends, plus noise
            X = at @ ends.P @ at.T + both.var * EYE
            cross = ends.P[:2] @ at.T  # Cov(x_0, x_k)
            J = torch.linalg.solve(X, cross.T).T
            rest = exact.C - J @ cross.T  # Cov(x_0 | x_k)
            sub = Grid(grid.alpha_bar[torch.tensor([0, j, k] if j else [0, k])])
            near, far, var = Reference(sub).pinned_start(sub.T)
            skip = dict(planned_calls(grid, "backward", sorted({0, j, k, *range(k, 5)})))[k]
            found = skipped(steps[-2].kernels[k - 1], skip)
            torch.testing.assert_close(found.M, near * EYE + far * J, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(found.S, far**2 * rest + var * EYE, atol=1e-9, rtol=1e-9)

    @pytest.mark.parametrize("S", [1, 2, 3])
    @pytest.mark.parametrize("parametrisation", ["x0", "eps", "v"])
    def test_samples_have_the_law_of_all_steps(self, exact_bridge, S, parametrisation):
        exact = exact_bridge("full", 6, parametrisation=parametrisation)
        assert_laws(exact.bridge.sample(Y, N, generator=seeded(1), sample_steps=S).x, exact.steps[-2].end)

    @pytest.mark.parametrize("refine", [0, 1])
    def test_diagonal_kernels_and_refinement(self, exact_bridge, refine):
        exact = exact_bridge("diagonal", 25, correlated=False, parametrisation="v")
        found = exact.bridge.sample(Y, N, generator=seeded(2), sample_steps=2, refine=refine)
        assert found.info.forward_evaluations == 2 * (1 + 2 * refine)
        assert_laws(found.x, AffineGaussian(exact.G, exact.g, exact.C))

    def test_mean_only_skips_from_mean_to_mean(self, exact_bridge):
        exact = exact_bridge("full", 3, parametrisation="x0")
        found = exact.bridge.sample(Y, 4, generator=seeded(3), mean_only=True, sample_steps=2, trajectory=True)
        state, y = found.info.trajectory[-1].flatten(0, 1).double(), Y.repeat_interleave(4, 0).double()
        for low, high in ((2, 4), (0, 2)):
            state = compose(exact.steps[-2].kernels[low:high][::-1]).mean(state, y)
        torch.testing.assert_close(found.x.flatten(0, 1), state.float(), rtol=1e-4, atol=1e-5)
        assert found.info.trajectory.shape == (3, 3, 4, 2)


@pytest.mark.parametrize("covariance", [c for c in COVARIANCES if c != "fixed"])
@pytest.mark.parametrize("S", [1, 2, 3])
def test_every_covariance_and_any_batch_size(covariance, S):
    bridge, y = make_untrained_bridge(3, 2, covariance), torch.randn(4, 2, generator=seeded(1))
    plain, calls = bridge.sample(y, 5, generator=seeded(2)).x, []
    hook = bridge.backward_kernel.network.register_forward_hook(lambda *_: calls.append(1))
    one = bridge.sample(y, 5, generator=seeded(2), sample_steps=S)
    hook.remove()
    assert one.info.forward_evaluations == len(calls) == S
    other = bridge.sample(y, 5, generator=seeded(2), sample_steps=S, batch_size=3).x
    torch.testing.assert_close(one.x, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(one.x, plain) if S == 3 else not torch.allclose(one.x, plain, atol=1e-2)


class TestRefused:
    def test_forward_kernels_matter_for_refinement_only(self):
        exact, drift = make_exact_bridge("full", 2, parametrisation="v"), make_exact_bridge("full", 2)
        exact.bridge.set_kernel("forward", drift.bridge.forward_kernel)
        exact.bridge.sample(Y, sample_steps=2)
        with pytest.raises(CSBError, match="the forward ones have parametrisation=drift"):
            exact.bridge.sample(Y, sample_steps=2, refine=1)

    @pytest.mark.parametrize(("parametrisation", "covariance"), [("drift", "diagonal"), ("v", "fixed")])
    def test_kernels_that_say_nothing_of_the_end(self, parametrisation, covariance):
        bridge = make_untrained_bridge(3, 2, covariance, parametrisation)
        bridge.sample(torch.zeros(2), sample_steps=3)
        part = "parametrisation=drift" if parametrisation == "drift" else "covariance=fixed"
        with pytest.raises(CSBError, match=rf"sample_steps=2 needs .* the backward ones have {part}; .* T=3"):
            bridge.sample(torch.zeros(2), sample_steps=2)

    @pytest.mark.parametrize("S", [0, 4])
    def test_numbers_of_steps(self, S):
        with pytest.raises(CSBError, match=rf"sample_steps={S} is not possible; give an integer in 1\.\.3"):
            make_untrained_bridge(3, 2).sample(torch.zeros(2), sample_steps=S)


@pytest.mark.parametrize("T", [1, 2, 7, 20])
def test_timesteps_are_distinct_and_even(T):
    grid = Grid.from_schedule(Power(0.3, 2.0), T)
    for S in range(1, T + 1):
        timesteps = timesteps_of(grid, S)
        gaps = [b - a for a, b in pairwise(timesteps)]
        assert (timesteps[0], timesteps[-1], len(gaps)) == (0, T, S)
        assert 1 <= min(gaps) <= max(gaps) <= min(gaps) + 1
    assert all(skip is None for _, skip in planned_calls(grid, "backward", timesteps_of(grid, T)))
