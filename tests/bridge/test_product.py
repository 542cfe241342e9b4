"""Bridge.sample(…, combine="product") of exact kernels against posteriors of linear-Gaussian problems, and refusals."""

import pytest
import torch
from observations import product_errors

from csb.bridge import Bridge, BridgeSpec, Kernel, KernelSpec, build_bridge
from csb.bridge.product import ratio
from csb.networks import Network
from csb.problems.gaussian_ipf import exact_ipf
from csb.problems.transform import build_transform
from csb.process import Grid, Power, seeded
from csb.samplers import BridgeSampler
from tests.conftest import KINDS, make_untrained_bridge, one_line, set_affine


class Both(Network):
    """The network of one bridge where y is known, and of another where it is missing."""

    missing = True

    def __init__(self, given, prior):
        super().__init__(given.z_shape, given.c_shape, given.heads)
        self.given, self.prior = given, prior

    def encode(self, c):
        values, mask = c.chunk(2, 1)
        return torch.cat([values, 1 - mask.amin(1, keepdim=True)], 1)

    def forward(self, z, time, context):
        y, missing = context[:, :-1], context[:, -1].bool()[:, None, None]
        return torch.where(missing, self.prior(z, time, y), self.given(z, time, y))


class Linear:
    """x ~ N(0, P) and y = A x + noise of covariance R."""

    def __init__(self, A, P, R):
        self.A, self.P, self.R = (torch.tensor(part, dtype=torch.float64) for part in (A, P, R))

    def posterior(self, ys):
        """Mean and covariance given all of ys (m, d)."""
        gain = self.A.T @ torch.linalg.inv(self.R)
        C = torch.linalg.inv(torch.linalg.inv(self.P) + len(ys) * gain @ self.A)
        return C @ gain @ ys.double().sum(0), C

    def observations(self, m):
        noise = torch.randn(m, len(self.R), generator=seeded(1), dtype=torch.float64)
        return (self.A @ self.P.sum(1).sqrt() + noise @ torch.linalg.cholesky(self.R).T).float()

    def bridge(self, kind="full", alpha_bar_end=1e-3, T=8, L=1):
        """A bridge of the exact kernels of iteration L, which know what a missing y is."""
        covariance, objective = KINDS[kind]
        grid, d = Grid.from_schedule(Power(alpha_bar_end, 3.0), T), len(self.P)
        C = self.posterior(torch.zeros(1, d))[1]
        G = C @ self.A.T @ torch.linalg.inv(self.R)
        transform = {"name": "identity", "x_shape": [d], "y_shape": [d]}
        part, networks = KernelSpec({"name": "affine", "steps": T}, "drift", covariance, variance_floor=0.0), []
        for slope, spread in ((G, C), (0 * G, self.P)):
            one = build_bridge(BridgeSpec(grid.alpha_bar.tolist(), transform, part, part))
            steps = exact_ipf(grid, slope, torch.zeros(d), spread, L, objective)
            set_affine(one, "backward", steps[-2].kernels)
            networks.append(one.backward_kernel.network)
        kernel = Kernel(Both(*networks), grid, "backward", "drift", covariance, variance_floor=0.0)
        return Bridge(grid, kernel, one.forward_kernel, build_transform(transform)).eval()


SCALAR = Linear([[1.0]], [[1.0]], [[1.0]])
VECTOR = Linear([[1.0, 0.3], [-0.5, 1.2]], [[1.0, 0.6], [0.6, 0.8]], [[0.5, 0.1], [0.1, 0.3]])


def moments(found):
    weights, x = found.log_weights.exp()[:, None], found.x.double()
    mean = (weights * x).sum(0)
    return mean, (weights * (x - mean)).T @ (x - mean)


@pytest.mark.parametrize(("problem", "kind"), [(SCALAR, "full"), (SCALAR, "diagonal"), (VECTOR, "full")])
@pytest.mark.parametrize("m", [1, 2, 5, 20])
def test_samples_have_the_moments_of_the_posterior(problem, kind, m):
    n, ys = 4000, problem.observations(m)
    found = problem.bridge(kind).sample(ys, n, seed=2, combine="product")
    expected, cov = problem.posterior(ys)
    (mean, spread), ess, unit = moments(found), float(found.info.ess), cov.diagonal().sqrt()
    assert (found.x.shape, found.info.forward_evaluations) == ((n, len(unit)), 8 * (m + 1))
    assert min(ess, int(found.info.unique_ancestors)) > n / 2
    assert float(((mean - expected).abs() / unit).max()) < 4 / ess**0.5 + 0.005
    assert float(((spread - cov).abs() / torch.outer(unit, unit)).max()) < 5 * (2 / ess) ** 0.5


def test_a_product_of_the_steps_alone_is_not_the_posterior():
    """For y = 1 twice its mean and variance are 3/4 and 7/24 in many small steps; the posterior's are 2/3 and 1/3."""
    bridge, mean, var, z = SCALAR.bridge(T=200).requires_grad_(False), 0.0, 1.0, torch.tensor([[0.0], [1.0]])
    contexts = bridge.contexts("backward", torch.tensor([[torch.nan], [1.0], [1.0]]), 3)  # steps are affine in z
    for k in range(200, 0, -1):
        laws = [bridge.backward_kernel(z, torch.tensor([k]), one.expand(2, -1)) for one in contexts]
        law = ratio(laws[0], laws[1:]).tilted(1.0)
        start, end = (laws[0].mean.flatten() + law.draw(torch.zeros(2, 1)).flatten()).tolist()
        mean, var = start + (end - start) * mean, (end - start) ** 2 * var + float(law.root[0]) ** -2
    assert (mean, var) == (pytest.approx(3 / 4, abs=0.002), pytest.approx(7 / 24, abs=0.001))


@pytest.mark.parametrize(("L", "expected"), [(1, 0.126), (3, 0.007)])
def test_a_short_horizon_moves_the_mean_as_far_as_joint_laws_say(L, expected):
    ys = torch.full((2, 1), 2.0)
    mean, _ = moments(SCALAR.bridge(alpha_bar_end=0.1, L=L).sample(ys, 20_000, seed=1, combine="product"))
    assert float(4 / 3 - mean) * 3**0.5 == pytest.approx(expected, abs=4 / 20_000**0.5)
    unit = torch.eye(1, dtype=torch.float64)
    assert product_errors((unit, unit, unit), 2, 0.1, L, 8, "likelihood")[0] == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_one_observation_is_plain_sampling(kind):
    bridge, y = (VECTOR.bridge(kind), torch.ones(2)) if kind == "full" else (SCALAR.bridge(kind), torch.ones(1))
    found, plain = bridge.sample(y, 500, seed=5, combine="product"), bridge.sample(y, 500, seed=5)
    torch.testing.assert_close(found.x, plain.x, rtol=1e-4, atol=1e-4)
    assert float(found.info.ess) == pytest.approx(500)


def test_batches_and_lists_of_observations_change_nothing():
    bridge, ys = VECTOR.bridge(), VECTOR.observations(3)
    found = bridge.sample(list(ys), 300, generator=seeded(1), combine="product", batch_size=70).x
    torch.testing.assert_close(bridge.sample(ys, 300, seed=1, combine="product").x, found, rtol=1e-4, atol=1e-4)


class TestRefused:
    def line(self, bridge, m=2, **options):
        return one_line(lambda: bridge.sample(torch.zeros(m, 1), 10, **{"combine": "product", **options}))

    def test_options(self):
        bridge = SCALAR.bridge()
        assert "combine='sum' is unknown; give product" in self.line(bridge, combine="sum")
        assert "refine cannot go with combine=product" in self.line(bridge, refine=1)
        assert "for each observation by itself" in one_line(lambda: BridgeSampler(bridge, combine="product"))

    def test_kernels(self):
        assert "train it with training.missing=0.5" in self.line(make_untrained_bridge(1, 1))
        assert "covariance=mixture; expected full" in self.line(make_untrained_bridge(1, 1, "mixture"))
        assert "covariance=fixed" in self.line(SCALAR.bridge("fixed"))
        of_two = one_line(lambda: VECTOR.bridge("diagonal").sample(VECTOR.observations(2), 10, combine="product"))
        assert "covariance=diagonal; expected full" in of_two

    def test_a_short_horizon(self):
        bridge = SCALAR.bridge(alpha_bar_end=0.05)
        bridge.sample(torch.zeros(4, 1), 10, combine="product")
        assert "at most 0.2/m: train with schedule.alpha_bar_end=0.04" in self.line(bridge, 5)

    def test_states_that_depend_on_y(self, monkeypatch):
        bridge = SCALAR.bridge()
        monkeypatch.setattr(bridge.transform, "decode", lambda z, y: z + y)
        assert "transform=identity, whose states depend on y" in self.line(bridge)

    def test_a_product_without_a_covariance(self):
        bridge, narrow = SCALAR.bridge(), Linear([[1.0]], [[0.2]], [[1.0]]).bridge()
        bridge.backward_kernel.network.prior = narrow.backward_kernel.network.prior
        assert "a product of kernels has no positive definite covariance at" in self.line(bridge, 20)
