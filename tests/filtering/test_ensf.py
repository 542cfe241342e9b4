r"""The ensemble score filter is biased by its damped likelihood; by how much, for a Gaussian, is a linear recursion.

For a forecast N(0, 1) and y = x + N(0, r) the filter's step is affine in u, so that mean and variance follow a
recursion; in the limit of many steps they follow the moments of dz = [b z − σ²(−z/c² + (1 − t)(y − z)/r)]dt + σ dW̄
with b = α'/α and σ² = 1 − 2bt, integrated from t = 1 to 0: the form of the paper, before it is put on this project's
process.
"""

import pytest
import torch

from csb.filtering import EnSF
from csb.process import euler_maruyama, seeded
from tests.filtering.kalman import Gaussian, LinearGaussianModel

Y, R = 2.0, 0.6


def recursion(filter_: EnSF, r: float = R, own: bool = False) -> tuple[float, float, float]:
    """Where the filter takes a member at z of a forecast N(0, 1): N(a z + b, v), as (a, b, v).

    a is 0 unless the mini-batch is the member's ``own``, in place of all members.
    """
    a, mean, var, grid, s = 0.0, 0.0, 1.0, filter_.grid, filter_.grid.clock
    for k in range(filter_.steps, 0, -1):
        law, c, ds = euler_maruyama(grid, k), float(filter_.scale[k - 1]), float(s[k] - s[k - 1])
        x, noise = ds * (1 - (k - 1) / filter_.steps) * c**2 / r, float(law.var) if k > 1 else ds / (1 + r)
        slope = (float(law.near) + (0.0 if own else float(law.far * grid.alpha_bar[k].sqrt()))) / (1 + x)
        a = slope * a + own * float(law.far) / (1 + x)
        mean, var = slope * mean + x / c * Y / (1 + x), slope**2 * var + (noise + ds * x / 2) / (1 + x) ** 2
    return a, mean, var


def in_pseudo_time(floor: float, n: int = 20_000) -> tuple[float, float]:
    """The limit, from the paper's own SDE."""
    mean, var, dt = 0.0, floor**2 + 1, 1 / n
    for i in range(n, 0, -1):
        t = i / n
        alpha = 1 - t * (1 - floor)
        b = -(1 - floor) / alpha
        noise = 1 - 2 * b * t
        slope = b + noise / (alpha**2 + t) + noise * (1 - t) / R  # of the drift in z
        mean -= dt * (slope * mean - noise * (1 - t) * Y / R)
        var -= dt * (2 * slope * var - noise)
    return mean, var


def model(std=1.0, mean=0.0):
    one = torch.ones(1, 1, dtype=torch.float64)
    start = Gaussian(torch.tensor([mean]).double(), std**2 * one)
    return LinearGaussianModel(one, one, one, start, noise_std=std * R**0.5)


@pytest.mark.parametrize("floor", [0.05, 0.2])
def test_the_process_is_the_papers(floor):
    """Both start from N(0, I) in u, which is N(0, c²) in z."""
    assert recursion(EnSF(steps=1000, floor=floor))[1:] == pytest.approx(in_pseudo_time(floor), abs=0.008)


@pytest.mark.parametrize(("std", "mean"), [(1.0, 0.0), (3.0, -5.0)])
def test_the_bias_is_the_one_that_the_recursion_predicts(std, mean):
    M, method = 1000, EnSF(steps=40)
    x = mean + std * torch.special.ndtri((torch.arange(M, dtype=torch.float64) + 0.5) / M)[:, None]
    y = torch.tensor([mean + std * Y], dtype=torch.float64)
    found = (method(model(std, mean), x, y, seeded(0)).x[:, 0] - mean) / std
    _, want_mean, want_var = recursion(method)
    assert abs(float(found.mean()) - want_mean) < 4 * (want_var / M) ** 0.5
    assert abs(float(found.var()) / want_var - 1) < 4 * (2 / M) ** 0.5
    other = (method(model(std, mean), x, 2 * mean - y, seeded(0)).x[:, 0] - mean) / std
    slope = float((found - other).mean()) / 2  # the same noise twice: the mean is linear in y
    assert abs(slope - want_mean) < 0.02
    exact = Y / (1 + R), R / (1 + R)
    assert abs(want_mean - exact[0]) > 6 * (want_var / M) ** 0.5  # it is a bias, and it would be seen


def precise(H, sigma):
    eye = torch.eye(2).double()
    return LinearGaussianModel(eye, eye, H, Gaussian(torch.zeros(2), eye), sigma)


@pytest.mark.parametrize(("sigma", "batch"), [(0.1, None), (1e-4, None), (1e-4, 1)])
def test_a_precise_observation_is_followed(sigma, batch):
    """Of a Gaussian: the recursion, which tends to N(y, σ²/2), the SDE's own law, not a state that exploded."""
    M, y = 500, torch.tensor([0.7, -0.3], dtype=torch.float64)
    x = torch.randn((M, 2), dtype=torch.float64, generator=seeded(0))
    found = EnSF(batch=batch)(precise(torch.eye(2).double(), sigma), x, y, seeded(1)).x
    std = recursion(EnSF(), sigma**2)[2] ** 0.5
    assert found.std(0) == pytest.approx(torch.full((2,), std).double(), rel=0.2)
    assert float((found.mean(0) - y).abs().max()) < 0.3 * sigma + 4 * std / M**0.5


def test_a_precise_observation_of_a_mixed_coordinate():
    """Fewer numbers of y than of x, what is seen is followed, what is not keeps its spread."""
    H = torch.tensor([[1.0, 1.0]], dtype=torch.float64) / 2**0.5
    x = torch.randn((500, 2), dtype=torch.float64, generator=seeded(0))
    found = EnSF()(precise(H, 1e-3), x, torch.tensor([0.7], dtype=torch.float64), seeded(1)).x
    assert float((found @ H.T).mean()) == pytest.approx(0.7, abs=1e-3)
    assert float((found[:, 0] - found[:, 1]).std()) == pytest.approx(2**0.5, rel=0.2)


def test_a_mini_batch_of_one_moves_each_member_as_predicted():
    """Two clusters, which no Gaussian fits: the steps are affine in the member whatever the forecast."""
    M, method = 4000, EnSF(steps=40, batch=1)
    x = torch.cat([torch.full((M // 2, 1), -1.0), torch.full((M // 2, 1), 1.0)]).double()
    scale = float(x.std())
    found = method(model(), x, torch.tensor([Y], dtype=torch.float64), seeded(0)).x
    a, shift, var = recursion(method, own=True)
    for half, centre in ((found[: M // 2], -1.0), (found[M // 2 :], 1.0)):
        error = (var / (M / 2)) ** 0.5
        assert abs(float(half.mean()) - (a * centre + shift)) < 4 * error + 2 * abs(scale - 1)
        assert abs(float(half.var()) / var - 1) < 5 * (2 / (M / 2)) ** 0.5 + 2 * abs(scale - 1)
    assert abs(a - R / (1 + R)) > 0.02  # the Kalman filter moves members by 1 − gain: this is another rule


def test_without_an_observation_it_gives_the_forecast_back():
    far = LinearGaussianModel(*(torch.ones(1, 1).double(),) * 3, Gaussian(torch.zeros(1), torch.ones(1, 1)), 1e6)
    x = torch.cat([torch.randn((250, 1), generator=seeded(3)) * 0.25 + c for c in (-1.0, 1.0)]).double()
    found = EnSF(steps=100)(far, x, torch.zeros(1).double(), seeded(1)).x[:, 0]
    assert abs(float((found > 0).double().mean()) - 0.5) < 4 * 0.5 / 500**0.5
    assert abs(float(found[found > 0].std()) - 0.25) < 0.05


def test_inflation_and_batches():
    x = torch.randn((80, 1), dtype=torch.float64, generator=seeded(0))
    y = torch.tensor([Y], dtype=torch.float64)
    plain, wide = (EnSF(steps=20, inflation=factor)(model(), x, y, seeded(1)).x for factor in (1.0, 1.5))
    assert torch.allclose(wide.std(), 1.5 * plain.std())
    assert torch.allclose(wide.mean(), plain.mean())
    few = EnSF(steps=20, batch=40)(model(), x, y, seeded(1)).x
    assert few.shape == x.shape
    assert abs(float(few.mean() - plain.mean())) < 0.5
