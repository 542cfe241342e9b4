"""Distances between point clouds against closed forms, and against POT and scikit-learn."""

import math
import warnings
from statistics import NormalDist

import ot
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import rbf_kernel

from csb.errors import CSBError
from csb.evaluation.metrics import c2st, mmd, mode_weight_tv, sliced_wasserstein
from csb.problems.exact.mixture import Mixture
from csb.process import seeded
from tests.evaluation.test_metrics import normal


def log_weights(n: int, key: int = 9) -> torch.Tensor:
    return normal(n, key=key).log_softmax(0)


def point_mass(n: int, at: int = 2) -> torch.Tensor:
    return torch.full((n,), -math.inf).index_fill(0, torch.tensor([at]), 0.0)


@pytest.mark.parametrize("p", [1, 2])
def test_weighted_sliced_wasserstein_equals_pot(p):
    a, b, w, v = normal(40, 3), 1.5 * normal(25, 3, key=1) + 0.4, log_weights(40), log_weights(25, key=8)
    theta = torch.randn(16, 3, generator=seeded(0), dtype=torch.float64)
    theta = (theta / theta.norm(dim=1, keepdim=True)).T.numpy()
    for one, other in ((w, v), (w, None), (None, v), (None, None)):
        found = sliced_wasserstein(a, b, seeded(0), 16, p, log_weights_a=one, log_weights_b=other)
        masses = [None if x is None else x.exp().numpy() for x in (one, other)]
        expected = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), *masses, projections=theta, p=p)
        assert found == pytest.approx(float(expected), rel=1e-8)


def test_sliced_wasserstein_of_copies_and_of_a_point_mass():
    a, b, copies = normal(5, 2), normal(7, 2, key=1), torch.tensor([3, 1, 4, 0, 2])
    weighted = sliced_wasserstein(a, b, seeded(0), log_weights_a=(copies.double() / 10).log())
    assert weighted == pytest.approx(sliced_wasserstein(a.repeat_interleave(copies, 0), b, seeded(0)), rel=1e-10)
    alone = sliced_wasserstein(a, b, seeded(0), log_weights_a=point_mass(5))
    assert alone == pytest.approx(sliced_wasserstein(a[2:3], b, seeded(0)), rel=1e-10)
    w = log_weights(5)
    assert sliced_wasserstein(a, a, seeded(0), log_weights_a=w, log_weights_b=w) == 0


def test_mmd_equals_the_double_sum():
    a, b, w, v = normal(30, 3), normal(20, 3, key=1) + 0.5, log_weights(30), log_weights(20, key=8)
    for one, other in ((w, v), (None, None)):
        p, q = ((torch.ones(n).double() / n if x is None else x.exp()) for x, n in ((one, 30), (other, 20)))
        total = 0.0
        for x, u in ((a, p), (b, q)):
            kernel = torch.from_numpy(rbf_kernel(x, gamma=1 / (2 * 1.3**2))).fill_diagonal_(0)
            total += float(u @ kernel @ u) / (1 - float(u.square().sum()))
        total -= 2 * float(p @ torch.from_numpy(rbf_kernel(a, b, gamma=1 / (2 * 1.3**2))) @ q)
        assert mmd(a, b, 1.3, log_weights_a=one, log_weights_b=other) == pytest.approx(total, abs=1e-12)


def gaussian_mmd(shift: float, scale: float, d: int, h: float) -> float:
    """Squared MMD of N(0, I) and N(shift·1, scale² I): each E k is a Gaussian integral."""

    def mean_kernel(var: float, gap: float) -> float:
        return (h * h / (h * h + var)) ** (d / 2) * math.exp(-d * gap * gap / (2 * (h * h + var)))

    return mean_kernel(2, 0) + mean_kernel(2 * scale**2, 0) - 2 * mean_kernel(1 + scale**2, shift)


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 1.0), (0.0, 2.0), (0.3, 0.6), (0.0, 1.0)])
def test_mmd_of_two_gaussians_is_their_closed_form_on_average(shift, scale):
    pairs = zip(normal(200, 100, 2), shift + scale * normal(200, 80, 2, key=1))
    found = torch.tensor([mmd(a, b, 1.1) for a, b in pairs], dtype=torch.float64)
    error = float(found.std()) / math.sqrt(200)
    assert error < 0.005
    assert float(found.mean()) == pytest.approx(gaussian_mmd(shift, scale, 2, 1.1), abs=3 * error)  # unbiased


def test_mmd_sees_the_law_of_the_weights():
    a = normal(6000, 2)
    log_w = (0.8 * a[:, 0]).log_softmax(0)  # N(0, I) weighted to N((0.8, 0), I)
    shifted = normal(4000, 2, key=1) + torch.tensor([0.8, 0])
    assert mmd(a, shifted, 1.0, log_weights_a=log_w) == pytest.approx(0, abs=0.003)
    assert mmd(a, shifted, 1.0) > 0.05


def test_mmd_takes_the_median_distance_and_bears_point_masses():
    a, b = normal(60, 2), normal(60, 2, key=1) + 1
    median = float(torch.nn.functional.pdist(torch.cat([a, b])).median())
    assert mmd(a, b) == mmd(a, b, median)
    assert mmd(a, b, log_weights_a=torch.full((60,), -math.log(60))) == pytest.approx(mmd(a, b), abs=1e-6)
    k = math.exp(-float((a[2] - b[2]).square().sum()) / (2 * 1.5**2))
    both = {"log_weights_a": point_mass(60), "log_weights_b": point_mass(60)}
    assert mmd(a, b, 1.5, **both) == pytest.approx(2 - 2 * k, rel=1e-12)
    assert mmd(a, a, **both) == 0
    assert math.isfinite(mmd(a, b, log_weights_a=point_mass(60)))


def bayes(shift: float) -> float:
    """The accuracy of the best classifier of N(0, 1) and N(shift, 1)."""
    return NormalDist().cdf(shift / 2)


def test_c2st_of_one_law_and_of_two():
    a, b = normal(400, 1), normal(400, 1, key=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        assert c2st(a, b) == pytest.approx(0.5, abs=0.06)
        assert c2st(a, b + 2) == pytest.approx(bayes(2), abs=0.04)
        assert c2st(100 + 50 * a, 100 + 50 * (b + 2)) == pytest.approx(bayes(2), abs=0.04)  # scaled by a
    assert c2st(a, b + 2) == c2st(a, b + 2)
    assert c2st(a, b + 20) == 1


def test_c2st_of_weighted_samples():
    a = normal(300, 1)
    wide = 3 * normal(300, 1, key=1)
    ratio = NormalDist(0, 3).stdev ** -2
    log_w = (0.5 * (ratio - 1) * wide[:, 0].square()).log_softmax(0)  # N(0, 9) weighted to N(0, 1)
    weighted = c2st(a, wide, log_weights_b=log_w, generator=seeded(0))
    assert weighted == c2st(a, wide, log_weights_b=log_w, generator=seeded(0))
    assert weighted < c2st(a, wide) - 0.05
    equal = torch.full((300,), -math.log(300))
    assert c2st(a, wide, log_weights_b=equal, generator=seeded(0)) == c2st(a, wide)
    assert c2st(a, wide, log_weights_b=point_mass(300), generator=seeded(0)) > 0.9
    assert c2st(a, wide, log_weights_a=point_mass(300), generator=seeded(0)) > 0.9


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_c2st_of_two_gaussians_is_that_of_the_best_classifier(shift):
    a, b = normal(5000, 2), normal(5000, 2, key=1)
    assert c2st(a, b + shift / math.sqrt(2)) == pytest.approx(bayes(shift), abs=0.02)


@pytest.mark.slow
def test_c2st_in_ten_dimensions_is_above_guessing_and_below_the_best_classifier():
    a, b = normal(5000, 10), normal(5000, 10, key=1)
    assert c2st(a, b) == pytest.approx(0.5, abs=0.015)
    assert 0.58 < c2st(a, b + 1 / math.sqrt(10)) < bayes(1)


MIXTURE = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([[0.0, 0], [8, 0], [0, 8]], dtype=torch.float64),
    torch.eye(2, dtype=torch.float64)[None],
)


def tv(samples, mixture=MIXTURE, covs=None, log_weights=None):
    return mode_weight_tv(samples, mixture.weights, mixture.means, covs, log_weights)


def test_mode_weights_of_counted_samples():
    x = MIXTURE.means.repeat_interleave(torch.tensor([5, 3, 2]), 0)
    assert tv(x) == pytest.approx(0, abs=1e-12)
    assert tv(x, covs=MIXTURE.covs) == pytest.approx(0, abs=1e-12)
    assert tv(x[:5]) == pytest.approx(0.5)  # two modes of weights 0.3 and 0.2 are lost
    assert tv(x, log_weights=point_mass(10, at=9)) == pytest.approx(0.8)
    log_w = torch.tensor([0.5, 0.3, 0.2]).log()
    assert tv(MIXTURE.means, log_weights=log_w) == pytest.approx(0, abs=1e-7)


def test_mode_weights_of_exact_samples_are_at_their_floor():
    n = 20_000
    floor = sum(math.sqrt(w * (1 - w) / (2 * math.pi * n)) for w in (0.5, 0.3, 0.2))
    sets = [MIXTURE.sample(n, seeded(3, i)) for i in range(20)]
    assert sum(map(tv, sets)) / 20 == pytest.approx(floor, rel=0.35)


def test_responsibilities_tell_overlapping_modes_where_the_nearest_mean_does_not():
    means = torch.tensor([[0.0, 0], [1, 0]], dtype=torch.float64)
    mixture = Mixture(torch.tensor([0.9, 0.1], dtype=torch.float64), means, torch.eye(2, dtype=torch.float64)[None])
    x = mixture.sample(40_000, seeded(4))
    assert tv(x, mixture, mixture.covs) < 0.01
    assert tv(x, mixture) == pytest.approx(0.9 * NormalDist().cdf(-0.5) + 0.1 * NormalDist().cdf(0.5) - 0.1, abs=0.01)


def refused(match: str, call, *args, **kwargs) -> None:
    with pytest.raises(CSBError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused():
    a, b, nan = normal(6, 2), normal(6, 2, key=1), torch.full((6, 2), math.nan)
    unnormalised, short = {"log_weights_a": torch.zeros(6)}, {"log_weights_b": torch.zeros(5)}
    for call, more in ((sliced_wasserstein, (seeded(0),)), (c2st, ()), (mmd, ())):
        refused("b has 12 NaN", call, a, nan, *more)
        refused(r"expected \(N, d\)", call, a, b[:, :1], *more)
        extra = {"generator": seeded(0)} if call is c2st else {}
        refused("log_weights_a has weights of sum 6", call, a, b, *more, **unnormalised, **extra)
        refused(r"log_weights_b has shape \(5,\)", call, a, b, *more, **short, **extra)
    refused("pass generator=", c2st, a, b, log_weights_a=log_weights(6))
    refused("as many", c2st, a, b[:5])
    refused("at least 5", c2st, a[:4], b[:4])
    refused("at least 2", mmd, a[:1], b)
    refused("bandwidth=0", mmd, a, b, 0)
    w, m = MIXTURE.weights, MIXTURE.means
    refused(r"expected \(n, d\)", mode_weight_tv, a[:, :1], w, m)
    refused("sum 2", mode_weight_tv, a, 2 * w, m)
    refused(r"expected \(3,\)", mode_weight_tv, a, w[:2], m)
    refused("positive definite", mode_weight_tv, a, w, m, -MIXTURE.covs)
    refused("samples has 12 NaN", mode_weight_tv, nan, w, m)
    refused("weights of sum 6", mode_weight_tv, a, w, m, None, torch.zeros(6))
